"""What was kept: losses, metrics and the intervals around them."""
