"""What follows for a run from how its attempts ended: nodes that it avoids from then on, and the end of its tries.

Appended by whatever restarts a job, and by the next attempt after its claim, for a scheduler may have restarted it
without asking. Both are judged again at the slot that they take.
"""

from functools import partial

from gmml_cluster.run.ends.budgets import spent, to_exclude
from gmml_cluster.run.history import History
from gmml_cluster.run.log import Draft, Log


def draw(log: Log, submit: str) -> History:
    """Append `exclude` of each node that is to be avoided, and `stop` where the budget of this submit is spent.

    Returns:
        The history with them.
    """
    for node in to_exclude(log.refresh()):
        log.append(partial(_exclude, node=node))
    log.append(partial(_give_up, submit=submit))
    return log.refresh()


def _exclude(history: History, node: str) -> Draft | None:
    reason = to_exclude(history).get(node)
    return None if reason is None else Draft("exclude", None, {"node": node, "reason": reason})


def _give_up(history: History, submit: str) -> Draft | None:
    reason = spent(history)
    if reason is None or history.submitted != submit or history.stopped is not None or history.finished:
        return None
    return Draft("stop", None, {"reason": reason, "gave_up": True})
