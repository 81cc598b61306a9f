"""Your own data as canonical rows, and rows that the rules add."""
