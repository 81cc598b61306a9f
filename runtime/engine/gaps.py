"""The classes in which times between tokens are counted, for whoever counts and whoever reads."""

GAPS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Their upper ends in seconds; one more class has none."""
