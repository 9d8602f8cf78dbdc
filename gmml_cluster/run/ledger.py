"""The state of a run, its attempts and their causes: a function of the log and of the states of its jobs.

Launchers report jobs as `queued`, `running`, `gone` or `unknown`; unknown counts as alive.
"""

import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from gmml_cluster.outputs.status import AttemptOutput, CodeOutput, GoodputOutput, LedgerOutput, PlatformOutput, State
from gmml_cluster.run import goodput
from gmml_cluster.run.ends.budgets import budgets, counted, is_worth_a_try
from gmml_cluster.run.ends.causes import FATAL, OUTSIDE
from gmml_cluster.run.history import Attempt, History
from gmml_cluster.run.saving.notice import save_s, too_short

_FAULTS = (*FATAL, "storage", "hang")


def jobs_of(history: History) -> tuple[str, ...]:
    """Ids of the jobs whose states matter: the latest submit's, and those of attempts without an `end`."""
    submitted = [history.submit.job] if history.submit and history.submit.job else []
    return tuple(dict.fromkeys([*submitted, *(a.job for a in history.attempts if a.ended is None)]))


def living(history: History, jobs: Mapping[str, str]) -> Attempt | None:
    """The latest attempt if it is alive; no other can be."""
    latest = history.attempts[-1] if history.attempts else None
    return latest if latest is not None and _lives(latest, jobs) else None


def _lives(attempt: Attempt, jobs: Mapping[str, str]) -> bool:
    """Whether it has no `end`, and its job is not known to be gone, or to wait again for nodes after it lost some."""
    return attempt.ended is None and jobs.get(attempt.job, "unknown") not in ("gone", "queued")


def pending(history: History, jobs: Mapping[str, str]) -> str | None:
    """State of the latest submit's job: queued, running or unknown; None where it is gone or has no id yet."""
    job = history.submit.job if history.submit else None
    if job is None:
        return None
    state = jobs.get(job, "unknown")
    return None if state == "gone" else state


def state(history: History, jobs: Mapping[str, str]) -> State:
    """What the run is doing now.

    `interrupted`: nothing is queued or alive, though the run is not finished; `gmml resume` continues it. `failed`: as
    that, and the last attempt ended with an error, or the job's `retries` are spent. `submitted`: its scheduler's
    answer is not in the log yet.
    """
    if history.submit is None:
        return "empty"
    if history.finished:
        return "finished"
    if living(history, jobs):
        return "running" if history.stopped is None else "stopping"
    if history.stopped is not None:
        return "failed" if history.gave_up else "stopped"
    waiting = pending(history, jobs)
    if waiting is not None:
        return "queued" if waiting != "running" else "stopping" if _leaves(history) else "starting"
    if history.submit.failed:
        return "failed"
    return _idle(history)


def _leaves(history: History) -> bool:
    """Whether the latest submit's last attempt ended for good, so that its job is about to leave."""
    latest = history.attempts[-1] if history.attempts else None
    if latest is None or latest.submit != history.submitted or is_worth_a_try(history, latest):
        return False
    return latest.cause in (*FATAL, "cancelled")


def _idle(history: History) -> State:
    assert history.submit is not None
    tried = [a for a in history.attempts if a.submit == history.submit.token]
    if not tried:
        return "interrupted" if history.submit.job else "submitted"
    return "failed" if tried[-1].cause in _FAULTS else "interrupted"


def status(history: History, jobs: Mapping[str, str], now: float | None = None) -> LedgerOutput:
    """The ledger as `gmml status --json` prints it.

    Args:
        history: the run's.
        jobs: job id -> state that its launcher reports, for the ids of `jobs_of`.
        now: seconds since 1970, up to which the time of ranks is accounted for; the present by default.
    """
    commit = history.commits[-1] if history.commits else None
    return {
        "state": state(history, jobs),
        "stopped": history.stopped,
        "gave_up": history.gave_up,
        "retries": _retries(history),
        "excluded": dict(history.excluded),
        "step": _last_step(history),
        "committed_step": commit.step if commit else None,
        "checkpoint": commit.folder if commit else None,
        "job": history.submit.job if history.submit else None,
        "launcher": history.submit.launcher if history.submit else None,
        "start_failed": history.submit.failed if history.submit else None,
        "not_requeued": _not_requeued(history, jobs),
        "save_s": save_s(history),
        "short_notices": [] if history.finished else _short_notices(history),
        "attempts": [_attempt(attempt, jobs) for attempt in history.attempts],
        "older_attempts": dict(history.older),
        "code": code_of_steps(history),
        "platform_changes": platform_changes(history),
        "goodput": _goodput(history, jobs, time.time() if now is None else now),
    }


def _retries(history: History) -> dict[str, list[int]]:
    """Of both budgets what is counted since the last checkpoint, and how much of it stops the run."""
    causes, limits = counted(history), budgets(history)
    outages = sum(cause in OUTSIDE for cause in causes)
    return {"failures": [len(causes) - outages, limits.failures], "outages": [outages, limits.outages]}


def _not_requeued(history: History, jobs: Mapping[str, str]) -> str | None:
    """Why nothing came back after the scheduler took an attempt's nodes; None where that is not what happened."""
    last = history.attempts[-1] if history.attempts else None
    if last is None or state(history, jobs) != "interrupted" or history.submit is None:
        return None
    if last.submit != history.submit.token or history.submit.bounds.get("requeue", True):
        return None
    why = "is not requeued (no-requeue) and has no successor"
    return f"attempt {last.number} ended with {last.cause or 'lost'}; job {last.job} {why}"


def _short_notices(history: History) -> list[str]:
    return too_short(history, history.submit.bounds.get("notices", {})) if history.submit else []


def _last_step(history: History) -> int | None:
    """The last step in the log that no later attempt makes again."""
    known = (_kept(history, attempt) for attempt in history.attempts if attempt.last_step is not None)
    return max(known, default=None)


def _kept(history: History, attempt: Attempt) -> int:
    assert attempt.last_step is not None
    cut = history.cut(attempt.number)
    return attempt.last_step if cut is None else min(attempt.last_step, cut - 1)


def reason(attempt: Attempt) -> str:
    """Why it ended, in words: the proof where something else than its ranks found out, else what they said.

    What ranks say of a cause that was proved later is only what it did to them, such as a connection that closed.
    """
    proof = attempt.details.get("proof") if attempt.resolved else None
    return str(proof or attempt.details.get("message") or "")


def _attempt(attempt: Attempt, jobs: Mapping[str, str]) -> AttemptOutput:
    found: AttemptOutput = {
        "attempt": attempt.number,
        "job": attempt.job,
        "restart": attempt.restart,
        "started": attempt.time,
        "ended": attempt.end_time,
        "cause": attempt.cause or (None if _lives(attempt, jobs) else "lost"),
        "first_step": attempt.first_step,
        "last_step": attempt.last_step,
        "host": attempt.host,
        "nodes": attempt.nodes,
        "topology": dict(attempt.topology),
        "code": attempt.code,
        "evaluation_s": attempt.evaluation_s,
        "reason": reason(attempt),
    }
    if attempt.details:
        found["told"] = dict(attempt.details)
    return found


def code_of_steps(history: History) -> list[CodeOutput]:
    """Which steps ran on which code: digest and first step at each change."""
    changes: list[CodeOutput] = []
    for attempt in history.attempts:
        if attempt.first_step is None:
            continue
        changes = [change for change in changes if change["first_step"] < attempt.first_step]
        if not changes or changes[-1]["code"] != attempt.code:
            changes.append({"code": attempt.code, "first_step": attempt.first_step})
    return changes


def platform_changes(history: History) -> list[PlatformOutput]:
    """Of each attempt on other devices or versions than the one before: what differs."""
    return [
        {"attempt": attempt, "changed": _changed(before, after)}
        for (_, before), (attempt, after) in pairwise(history.platforms)
    ]


def change_in_words(change: PlatformOutput) -> str:
    """What differs, each as `torch is 2.13.0 and was 2.12.0`."""
    return ", ".join(
        f"{name} is {after or 'absent'} and was {before or 'absent'}"
        for name, (before, after) in change["changed"].items()
    )


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*before, *after])
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}


def _goodput(history: History, jobs: Mapping[str, str], now: float) -> GoodputOutput:
    """Steps that attempts made, by the log, and how many of them count: the others were made again after a resume."""
    made = kept = 0
    for attempt in history.attempts:
        if attempt.first_step is not None and attempt.last_step is not None:
            made += attempt.last_step - attempt.first_step + 1
            kept += max(0, _kept(history, attempt) - attempt.first_step + 1)
    rank_s = _rank_s(history, jobs, now)
    accounted_s = sum(rank_s.values()) - rank_s["unsaved"]
    return {
        "steps_made": made,
        "steps_kept": kept,
        "share": kept / made if made else None,
        "evaluation_s": sum(attempt.evaluation_s for attempt in history.attempts),
        "rank_s": rank_s,
        "training_share": rank_s["training"] / accounted_s if accounted_s > 0 else None,
    }


def _rank_s(history: History, jobs: Mapping[str, str], now: float) -> dict[str, float]:
    """Rank-seconds by kind."""
    at_work = state(history, jobs) in ("submitted", "queued", "starting", "running", "stopping")
    return goodput.accounted(history.account, now, at_work=at_work, ranks=_ranks_asked(history))


def _ranks_asked(history: History) -> int:
    """Ranks that the latest submit asks for at least; those of the last attempt where it does not say."""
    bounds = history.submit.bounds if history.submit else {}
    if "nodes" in bounds and "ranks_per_node" in bounds:
        return int(bounds["nodes"][0] * bounds["ranks_per_node"])
    return int(history.attempts[-1].topology.get("ranks") or 1) if history.attempts else 1
