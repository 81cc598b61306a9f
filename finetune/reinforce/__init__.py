"""The checkers of a rule file as rewards of reinforcement."""
