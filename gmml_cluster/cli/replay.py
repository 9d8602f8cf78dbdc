"""`gmml replay`: steps of a run are computed again and compared with what it recorded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.run import ReplayCheckpointOutput
from gmml_cluster.wording import counted

if TYPE_CHECKING:
    from gmml_cluster.launch.replay.replay import Replayed

DIFFERENT = 1


@click.command("replay")
@options.run
@click.option("--from", "first", type=click.IntRange(min=0), metavar="S", help="A step that is to be made again.")
@click.option(
    "--to", "last", type=click.IntRange(min=0), metavar="S", help="The last step; by default of a checkpoint."
)
@click.option("--code", is_flag=True, help="Run the code that is installed here instead of the run's own.")
@options.root
@options.as_json
def command(run: str, first: int | None, last: int | None, code: bool, root: str | None, as_json: bool) -> int:
    """Compute steps of RUN again on this machine, from a checkpoint, and compare metric lines and tensors to the bit.

    Without options the steps between its last two checkpoints. RUN is only read. Exits with 0 where all is equal, with
    1 where something differs.
    """
    from gmml_cluster.launch.replay.replay import replay
    from gmml_cluster.launch.runs.find import find

    done = replay(find(run, root), first=first, last=last, installed=code, show=lambda line: click.echo(line, err=True))
    for warning in done.warnings:
        click.echo(f"equality is not promised: {warning}", err=True)
    if as_json:
        emit(done.document())
    else:
        click.echo("\n".join(lines(done)))
    return 0 if done.equal else DIFFERENT


def lines(done: "Replayed") -> Iterator[str]:
    """The findings for people."""
    yield "equal" if done.equal else "different"
    compared = counted(done.steps_compared, "metric line")
    if done.parts is None:
        yield f"  {compared} equal"
    else:
        yield f"  step {done.parts.step} is the first that differs, of {compared}:"
        for name, (theirs, ours) in done.parts.fields.items():
            yield f"    {name}: recorded {theirs!r}, computed {ours!r}"
    for found in done.checkpoints:
        yield from _of_checkpoint(found)
    if not done.checkpoints:
        yield "  no checkpoint compared: none of these steps has one"


def _of_checkpoint(found: ReplayCheckpointOutput) -> Iterator[str]:
    where = f"  checkpoint of step {found['step']}: "
    total = counted(found["tensors"], "tensor")
    first = found["first"]
    if first is None:
        yield f"{where}{total} equal"
    else:
        yield f"{where}{found['differing']} of {total} differ, the first is {first['tensor']} ({first['key']})"
        if "elements" in first:
            theirs, ours = first["crc32c"]
            of = counted(first["elements"], "element")
            yield f"    {of}, by {first['greatest']:.3g} at most; CRC32C recorded {theirs:08x}, computed {ours:08x}"
        else:
            yield f"    shapes {first['shapes']}"
    for field, (theirs, ours) in found["state"].items():
        yield f"    {field}: recorded {theirs}, computed {ours}"
    if found["missing"]:
        yield f"    only one has {', '.join(found['missing'])}"
