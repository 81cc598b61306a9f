"""What ships, and how it is checked before anything in it is parsed."""
