"""`gmml diff`: where two runs part, and what of their specs differs."""

from collections.abc import Iterator

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.runs import DiffAttemptOutput, DiffOutput
from gmml_cluster.outputs.status import CodeOutput
from gmml_cluster.progress import progress
from gmml_cluster.wording import counted

DIFFERENT = 1
"""Exit code where the runs part, or have no step in common."""
_SHOWN = 8


@click.command("diff")
@click.argument("one", metavar="RUN", shell_complete=candidates.runs)
@click.argument("other", metavar="RUN", shell_complete=candidates.runs)
@options.root
@options.as_json
def command(one: str, other: str, root: str | None, as_json: bool) -> int:
    """Say at which step the metric lines of two runs part, and what of their specs, code and corpora differs.

    Exits with 0 where all steps that both made are equal, with 1 where they part or share no step.
    """
    from gmml_cluster.launch.runs.find import find
    from gmml_cluster.run.results.comparison import compare_runs

    found = find(one, root), find(other, root)
    with progress("comparing the runs"):
        document = compare_runs(*found)
    if as_json:
        emit(document)
    else:
        click.echo("\n".join(lines(document)))
    return 0 if document["parts"] is None and document["steps_compared"] else DIFFERENT


def lines(document: DiffOutput) -> list[str]:
    """The comparison for people: where they part, then what differs of what they were made of."""
    return [verdict(document), *_parting(document), *_causes(document)]


def verdict(document: DiffOutput) -> str:
    """One sentence: equal, or from which step on not."""
    compared, apart = counted(document["steps_compared"], "step"), document["parts"]
    if not document["steps_compared"]:
        return "no step that both have made; nothing to compare"
    alone = [f"{counted(steps, 'step')} of the {which} alone" for steps, which in _alone(document)]
    said = f"equal over {compared}" if apart is None else f"they part at step {apart['step']}, of {compared} compared"
    return "; ".join([said, *alone])


def _alone(document: DiffOutput) -> list[tuple[int, str]]:
    return [pair for pair in zip(document["steps_of_one"], ("first", "second"), strict=True) if pair[0]]


def _parting(document: DiffOutput) -> Iterator[str]:
    apart = document["parts"]
    if apart is None:
        return
    yield f"  attempt {apart['attempts'][0]} of the first made it, attempt {apart['attempts'][1]} of the second"
    fields = list(apart["fields"].items())
    for name, (mine, theirs) in fields[:_SHOWN]:
        yield f"  {name}: {mine!r} | {theirs!r}"
    if len(fields) > _SHOWN:
        yield f"  and {counted(len(fields) - _SHOWN, 'field')} more; --json has all"


def _causes(document: DiffOutput) -> Iterator[str]:
    from gmml_cluster.spec.loading.yaml import shown

    for field, (mine, theirs) in document["spec"].items():
        yield f"spec {field}: {shown(mine)} | {shown(theirs)}"
    if not document["spec"]:
        yield "spec: equal in every field"
    yield _pair("corpora", *(_short(digest) for digest in document["corpora"]))
    yield _pair("code", *(_code(each) for each in document["code"]))
    yield _pair("topology", *(_topologies(each) for each in document["attempts"]))


def _pair(what: str, mine: str, theirs: str) -> str:
    return f"{what}: {mine}" if mine == theirs else f"{what}: {mine} | {theirs}"


def _short(digest: str | None) -> str:
    return "not pinned yet" if digest is None else digest[:12]


def _code(changes: list[CodeOutput]) -> str:
    return ", ".join(f"{_short(each['code'])} from step {each['first_step']} on" for each in changes) or "no step"


def _topologies(attempts: list[DiffAttemptOutput]) -> str:
    """Each topology once, with the attempts that had it."""
    by: dict[str, list[str]] = {}
    for attempt in attempts:
        said = ", ".join(f"{name} {value}" for name, value in attempt["topology"].items())
        by.setdefault(said, []).append(str(attempt["attempt"]))
    return "; ".join(f"{said} (attempt {', '.join(numbers)})" for said, numbers in by.items()) or "no attempt"
