"""Whether a scheduler's notice leaves time for a save, by what saves have taken."""

from collections.abc import Mapping

from gmml_cluster.run.history import History

_EVENTS = {"time_limit": "its time limit", "preemption": "a preemption"}
_CURES = {
    "time_limit": "lengthen slurm.notice",
    "preemption": "save more often (checkpoint.every), or ask the site for a GraceTime",
}


def save_s(history: History) -> float | None:
    """Seconds that the slowest save took of the checkpoints that there are; None before the first."""
    return max((commit.save_s for commit in history.commits), default=None)


def too_short(history: History, notices: Mapping[str, float]) -> list[str]:
    """A sentence on each notice that is shorter than a save.

    Args:
        history: of the run.
        notices: seconds from notice to kill by event, as the `bounds` of a `submit` entry have them.
    """
    longest = save_s(history)
    return [
        f"a save takes {longest:.0f} s, and {_EVENTS[event]} leaves {seconds:.0f} s for it: steps since the last "
        f"checkpoint are made again; {_CURES[event]}"
        for event, seconds in notices.items()
        if longest is not None and longest > seconds and event in _EVENTS
    ]
