"""The demo's made-up world."""
