"""Why attempts end, and what each cause means for the next start. The one list that the log, launchers and ranks share.

Every cause is in exactly one of `FREE`, `COUNTED`, `FATAL` and `DELIBERATE`.
"""

from typing import Literal, get_args

Cause = Literal[
    "finished", "notice", "preempted", "time_limit", "cancelled", "fenced", "node_lost", "hardware", "killed",
    "out_of_memory", "error", "hang", "storage", "not_finite", "start_failed", "lost",
]  # fmt: skip
CAUSES: tuple[str, ...] = get_args(Cause)

FREE = ("notice", "preempted", "time_limit")
"""The scheduler took the nodes: the job starts again, however often it happens."""
COUNTED = ("node_lost", "hardware", "killed", "storage", "hang", "lost", "start_failed")
"""Something under the run broke: the job starts again, but only so many times without a new commit in between."""
OUTSIDE = ("node_lost", "storage")
"""Those of `COUNTED` that are proved to be outside of the run and pass: they have the larger budget."""
FATAL = ("error", "out_of_memory", "not_finite")
"""The run's own code or data failed: the same start would fail again, so nothing restarts it but for what
`budgets.is_worth_a_try` finds."""
DELIBERATE = ("finished", "cancelled", "fenced")
"""It ended as it should: nothing restarts it."""
