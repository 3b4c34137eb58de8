"""The guide's evaluators: what they read, measure, mark and pair."""
