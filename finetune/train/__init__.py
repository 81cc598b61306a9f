"""Training: a file per method, and what they share."""
