"""`gmml corpus`: making corpora and their indexes."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from gmml_cluster.cli.compute import demand
from gmml_cluster.errors import GmmlError

if TYPE_CHECKING:
    from gmml_cluster.data.packing.pack import Packed

_NAMED = 20


@click.group("corpus")
def command() -> None:
    """Make corpora and their indexes."""


@command.command("pack")
@click.argument("source")
@click.argument("destination")
@click.option("--shard-samples", type=click.IntRange(min=1), default=1000, show_default=True, help="Samples a shard.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the shuffle.")
@click.option("--prefix", default="shard", show_default=True, help="First part of the shards' names.")
def pack(source: str, destination: str, shard_samples: int, seed: int, prefix: str) -> None:
    """Shuffle the images at SOURCE into tar shards with indexes at DESTINATION.

    SOURCE is a folder of images, whose first level of folders are classes, or tar shards as a job names them. An image
    that cannot be decoded is left out and named; what is no image is counted.
    """
    demand("numpy")
    from gmml_cluster.data.packing.pack import pack
    from gmml_cluster.data.packing.sources import find_source

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is undone, as after Ctrl-C
    found = find_source(source)
    with _progress("packing", len(found.items)) as advance:
        packed = pack(found, destination, shard_samples=shard_samples, seed=seed, prefix=prefix, advance=advance)
    for line in found.notes[:_NAMED]:
        click.echo(line)
    _report(packed, destination)


@command.command("index")
@click.argument("url")
@click.option("--root", metavar="URL", help="Put the indexes under the .corpora of this root, not beside the shards.")
def index(url: str, root: str | None) -> int:
    """Read every byte of the shards at URL once, and put an index with checksums beside each, or under --root.

    URL names shards as a job does. A shard whose index has checksums already is passed over.
    """
    demand("numpy")
    from gmml_cluster.data.corpus.checksums import demand_writable, index_all
    from gmml_cluster.data.corpus.listing import indexes_below, list_shards

    shards, indexes = list_shards(url), None if root is None else indexes_below(root)
    demand_writable(shards, indexes)
    made, faults = 0, list[GmmlError]()
    with _progress("indexing", len(shards)) as advance:
        for found in index_all(shards, indexes):
            advance(1)
            if isinstance(found, GmmlError):
                click.echo(str(found), err=True)
                faults.append(found)
            else:
                made += found
    click.echo(f"{len(shards)} shards: {made} indexed, {len(shards) - made - len(faults)} had an index with checksums")
    return max((fault.exit_code for fault in faults), default=0)


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; yields what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    told = Console(stderr=True)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=told, transient=True, disable=not told.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)


def _report(packed: "Packed", destination: str) -> None:
    for line in packed.left_out[:_NAMED]:
        click.echo(f"left out {line}")
    if len(packed.left_out) > _NAMED:
        click.echo(f"left out {len(packed.left_out) - _NAMED} more")
    click.echo(f"{packed.samples} samples in {len(packed.shards)} shards: {destination.rstrip('/')}/{packed.braces}")
    click.echo(f"mean [{', '.join(f'{mean:.4f}' for mean in packed.mean)}]")
    click.echo(f"std  [{', '.join(f'{std:.4f}' for std in packed.std)}]")
