"""The calibration pass and what is read from it."""
