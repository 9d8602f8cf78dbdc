"""What a submission came to, told to people or machines, and followed where asked."""

import json
from typing import Any

import click

from gmml_cluster.errors import RunFailed
from gmml_cluster.launch.submit import Submitted
from gmml_cluster.run.root import RunRoot
from gmml_cluster.spec.loading.yaml import shown

VERSION = 1
_SAID = {
    "submitted": "is submitted as job {job}",
    "resumed": "goes on as job {job}",
    "already": "is queued or lives already as job {job}; nothing was done, no change taken; gmml cancel it first, or "
    "--take-over submits anew",
    "stopping": "is still stopping as job {job}; nothing was done; try again when gmml status says stopped",
    "finished": "has finished already; nothing was done",
}


def tell(outcome: Submitted, *, as_json: bool, follow: bool) -> None:
    """Print the outcome and the next commands; with `follow`, show the run's progress until it ends.

    Raises:
        RunFailed: the followed run ended without finishing.
    """
    if as_json:
        click.echo(json.dumps(document(outcome)))
    else:
        click.echo(sentence(outcome))
    if follow and outcome.action != "finished":
        watch(outcome.run)


def document(outcome: Submitted) -> dict[str, Any]:
    """The outcome for machines."""
    run = outcome.run
    return {
        "version": VERSION,
        "run": run.name,
        "root": run.root,
        "url": run.url,
        "action": outcome.action,
        "job": outcome.job,
        "changed": dict(outcome.changed),
    }


def sentence(outcome: Submitted) -> str:
    """The outcome for people: what happened, what changed, what to type next."""
    run = outcome.run
    lines = [f"{run.name} {_SAID[outcome.action].format(job=outcome.job or 'unknown')}", f"  in {run.url}"]
    lines += [f"  {field}: {shown(old)} -> {shown(new)}" for field, (old, new) in outcome.changed.items()]
    if outcome.action != "finished":
        lines += [f"  gmml status {run.name}", f"  gmml logs -f {run.name}", f"  gmml cancel {run.name}"]
    return "\n".join(lines)


def watch(run: RunRoot) -> None:
    """Print what rank 0 says until nothing of the run is at work.

    Raises:
        RunFailed: it ended without finishing.
    """
    from gmml_cluster.launch.follow import follow

    try:
        for text in follow(run, 0):
            click.echo(text, nl=False, err=True)
    except KeyboardInterrupt:
        click.echo(
            f"\n{run.name} goes on; gmml logs -f {run.name} follows it, gmml cancel {run.name} ends it", err=True
        )
        raise
    if not run.log.refresh().finished:
        raise RunFailed(f"{run.url}: {_ending(run)}; gmml logs {run.name} tells more, gmml resume {run.name} goes on")


def _ending(run: RunRoot) -> str:
    from gmml_cluster.cli.logs import headline

    history = run.log.refresh()
    if history.stopped is not None:
        return f"was stopped: {history.stopped}"
    if history.submit is not None and history.submit.failed:
        return f"did not start: {history.submit.failed.splitlines()[0]}"
    last = history.attempts[-1] if history.attempts else None
    if last is None or last.cause is None:
        return "nothing works on it any more, and the log does not say why"
    return headline(last) if last.told.get("message") else f"attempt {last.number} ended with {last.cause}"
