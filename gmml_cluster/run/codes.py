"""How ranks leave: exit codes, a hint for what restarts the job, and how long that waits for them.

The highest code of all ranks counts; the log outranks it.
"""

FINISHED, FAILED = 0, 1
STORAGE = 74
"""The store failed, so the `end` may be missing from the log. 74 is EX_IOERR of sysexits.h."""
COME_BACK = 77
"""Start the job again: the rank left after a notice, or because a peer was lost."""
NEVER = 78
"""Do not start it again: the attempt was fenced, or the run was stopped."""
UNMET = 79
"""Failed before the ranks had met. Above the 77 with which its peers exit then, so that it is the highest."""
UNFIT = 80
"""The job's Python lacks what the ranks import: another start would fail the same way, so the first one says so."""
RESTARTS = 20
"""Restarts by the exit code alone, while the log cannot be reached or has no claim of the job."""
ORPHAN_S = 600.0
"""A rank whose launcher's process is gone saves and leaves; after so many seconds it leaves in any case."""
