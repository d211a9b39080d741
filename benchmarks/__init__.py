"""`make bench`: every figure is a ratio against a named baseline in the same run, after a check that both
give the same result."""
