"""One rank of an attempt, from the first import to its exit code."""
