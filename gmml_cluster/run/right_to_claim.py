"""Whether a start of a job may become the run's next attempt; judged by the log at each slot that its claim passes."""

from gmml_cluster.run.history import History


def refusal(history: History, submit: str, job: str, restart: int) -> str | None:
    """Why a start of a job may not claim now; None where it may.

    A scheduler that lost sight of a node starts the job elsewhere, and a job that is not requeued has a successor,
    while the ranks of the start before may live on. Had they not claimed by then, their claim would fence the start
    that came after them.

    Args:
        submit: token of the submit that the job carries.
        job: the launcher's id.
        restart: how many starts of the submit came before, of this job and of those that it succeeds.
    """
    if history.submit is None or history.submit.token != submit:
        return "there is a later submit"
    if history.finished:
        return "the run has finished"
    if history.stopped is not None:
        return f"the run was stopped: {history.stopped}"
    later = [a for a in history.attempts if a.submit == submit and a.restart > restart]
    if not later:
        return None
    latest = later[-1]
    whose = "the job" if latest.job == job else f"job {latest.job}, its successor,"
    return f"start {latest.restart} of {whose} has claimed, and this is start {restart}"
