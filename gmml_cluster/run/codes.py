"""Exit codes of ranks: a hint for whoever restarts. The highest of all ranks counts; the log outranks it."""

FINISHED, FAILED = 0, 1
STORAGE = 74
"""A fault of storage, after which the `end` may be missing."""
COME_BACK = 77
NEVER = 78
UNMET = 79
"""Failed before the ranks had met: above 77, which the peers leave with when they are told to go."""
UNFIT = 80
"""The job's Python lacks what the ranks import: another start would fail the same way, so the first one says so."""
RESTARTS = 20
"""Restarts by the code alone, where the log has no word."""
