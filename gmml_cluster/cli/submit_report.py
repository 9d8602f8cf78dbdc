"""What a submission did, printed for people or programs, and followed where asked."""

import click

from gmml_cluster.api import Run
from gmml_cluster.cli.documents import emit
from gmml_cluster.errors import Fault, RunFailed
from gmml_cluster.launch.runs.follow import ended_without_finishing
from gmml_cluster.launch.submit import Submitted
from gmml_cluster.outputs.submission import SubmitOutput
from gmml_cluster.spec.loading.yaml import shown

_SENTENCES = {
    "submitted": "is submitted as job {job}",
    "resumed": "is resumed as job {job}",
    "already": "is queued or runs already as job {job}; nothing was done and no change was taken; "
    "gmml cancel it first, or submit again with --take-over",
    "stopping": "is still stopping as job {job}; nothing was done; try again when gmml status says stopped",
    "finished": "has finished already; nothing was done",
}


def report(run: Run, *, as_json: bool, follow: bool) -> None:
    """Print what the submission did and the next commands; with `follow`, print the run's progress until it ends.

    Raises:
        RunFailed: the followed run ended without finishing.
    """
    submitted = run.submitted
    assert submitted is not None
    if as_json:
        emit(document(submitted))
    else:
        click.echo(sentence(submitted))
    if follow and submitted.action != "finished":
        watch(run)


def document(submitted: Submitted) -> SubmitOutput:
    """The outcome for programs."""
    run = submitted.run
    return {
        "version": 1,
        "run": run.name,
        "root": run.root,
        "url": run.url,
        "action": submitted.action,
        "job": submitted.job,
        "changed": dict(submitted.changed),
        "notes": list(submitted.notes),
    }


def sentence(submitted: Submitted) -> str:
    """The outcome for people: what happened, what changed, what to type next."""
    run = submitted.run
    lines = [f"{run.name} {_SENTENCES[submitted.action].format(job=submitted.job or 'unknown')}", f"  in {run.url}"]
    lines += [f"  {field}: {shown(old)} -> {shown(new)}" for field, (old, new) in submitted.changed.items()]
    lines += [f"  {note}" for note in submitted.notes]
    if submitted.action != "finished":
        lines += [f"  gmml status {run.name}", f"  gmml logs -f {run.name}", f"  gmml cancel {run.name}"]
    return "\n".join(lines)


def watch(run: Run) -> None:
    """Print the output of rank 0 until nothing works on the run.

    Raises:
        RunFailed: it ended without finishing.
    """
    try:
        for text in run.follow():
            click.echo(text, nl=False, err=True)
    except KeyboardInterrupt:
        click.echo(
            f"\n{run.name} runs on; gmml logs -f {run.name} follows it, gmml cancel {run.name} ends it", err=True
        )
        raise
    problem = ended_without_finishing(run.location)
    if problem:
        raise RunFailed(Fault(run.url, problem))
