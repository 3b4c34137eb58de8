"""What is read: records from files, rows of tokens, and probes that share nothing."""
