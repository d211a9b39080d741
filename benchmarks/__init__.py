"""`make bench`: each number is a ratio to a named baseline in the same run, after both are checked to agree."""
