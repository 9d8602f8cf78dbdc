"""`gmml corpus`: making corpora and their indexes."""

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.compute import absolute_url, demand
from gmml_cluster.cli.documents import emit
from gmml_cluster.errors import DataError, Fault, GmmlError
from gmml_cluster.outputs.base import error_document
from gmml_cluster.outputs.corpus import IndexedOutput
from gmml_cluster.progress import progress
from gmml_cluster.wording import counted

if TYPE_CHECKING:
    from gmml_cluster.data.corpus.summary import Summary
    from gmml_cluster.data.packing.report import Packed, Remark
    from gmml_cluster.data.workers import Workers

_NAMED = 20
_image = click.option("--image", metavar="FIELD", help="Field of a sample, or parquet column, that holds the image.")
_workers = click.option(
    "--workers", type=click.IntRange(min=1), help="Processes that do it; default: one for each core."
)
_cluster = click.option(
    "--cluster", metavar="NAME|FILE", help="Profile of a Ray cluster whose cores do it; --workers N takes N of them."
)
_URLS = ("source", "destination", "url", "root", "masks")


@click.group("corpus")
def command() -> None:
    """Make corpora and their indexes."""


@command.command("pack")
@click.argument("source")
@click.argument("destination")
@click.option("--shard-samples", type=click.IntRange(min=1), default=1000, show_default=True, help="Samples a shard.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the shuffle.")
@click.option("--prefix", default="shard", show_default=True, help="First part of the shards' names.")
@_image
@click.option("--masks", metavar="FOLDER", help="Masks of a folder's images: PNGs of the same names.")
@click.option("--max-pixels", type=click.IntRange(min=1), help="Leave out images of more; default as data.max_pixels.")
@click.option("--refuse-damaged", is_flag=True, help="Leave out JPEGs that decode although their data is damaged.")
@click.option("--short-side", type=click.IntRange(min=1), metavar="PIXELS", help="Shrink images with a longer one.")
@_workers
@_cluster
@options.as_json
def pack(
    source: str,
    destination: str,
    shard_samples: int,
    seed: int,
    prefix: str,
    image: str | None,
    masks: str | None,
    max_pixels: int | None,
    refuse_damaged: bool,
    short_side: int | None,
    workers: int | None,
    cluster: str | None,
    as_json: bool,
) -> int:
    """Shuffle the images at SOURCE into tar shards with indexes at DESTINATION, a folder or an s3:// prefix.

    SOURCE is a folder of images, whose first level of folders are classes, or tar shards (also .tar.gz, .tgz, .tar.xz,
    .tar.bz2) or parquet files as a job names shards. Each image is decoded; one that cannot be is left out and named,
    here and in packed.json at DESTINATION. With --masks each image goes with its mask, the class of each of its pixels.

    Equal sources and options give equal shards, to the byte, with any number of workers. When the command was broken
    off, by whatever, the same command makes the shards that are missing; when all is done it prints the report again.
    """
    if cluster is not None:
        return _on_cluster(cluster)
    demand("numpy")
    from gmml_cluster.data.packing.pack import MAX_PIXELS, pack
    from gmml_cluster.data.packing.sources import demand_apart, list_source

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is undone, as after Ctrl-C
    demand_apart(source, destination)
    with progress("listing the source"):
        found = list_source(source, image, masks)
    packed = pack(
        found,
        destination,
        shard_samples=shard_samples,
        seed=seed,
        prefix=prefix,
        max_pixels=max_pixels or MAX_PIXELS,
        refuse_damaged=refuse_damaged,
        short_side=short_side,
        workers=_workers_of(workers),
    )
    if as_json:
        emit(packed.to_json(destination))
    else:
        _report(packed, destination)
    return 0


@command.command("index")
@click.argument("url")
@click.option("--root", metavar="URL", help="Put the indexes under the .corpora of this root, not beside the shards.")
@_image
@click.option("--anew", is_flag=True, help="Index also shards that have an index with checksums.")
@_workers
@_cluster
@options.as_json
def index(
    url: str,
    root: str | None,
    image: str | None,
    anew: bool,
    workers: int | None,
    cluster: str | None,
    as_json: bool,
) -> int:
    """Read every byte of the shards at URL once, and put an index with checksums beside each, or under --root.

    URL names shards as a job does. A shard that has an index with checksums of just its version is passed over, so the
    same command goes on where it was broken off. Prints what the corpus holds: samples, classes, and what makes no
    sample; a faulty shard is one line, and the others are indexed.
    """
    if cluster is not None:
        return _on_cluster(cluster)
    demand("numpy")
    from gmml_cluster.data.corpus import merged
    from gmml_cluster.data.corpus.checksums import IndexedShard, demand_writable, index_all
    from gmml_cluster.data.corpus.listing import indexes_below, list_shards
    from gmml_cluster.data.corpus.summary import summarise

    with progress("listing"):
        indexes = None if root is None else indexes_below(root)
        shards = list_shards(url, image)
        demand_writable(shards, indexes)
    found: list[IndexedShard] = []
    faults: list[GmmlError] = []
    with progress("indexing", len(shards)) as advance:
        for result in index_all(shards, indexes, anew=anew, workers=_workers_of(workers)):
            advance(1)
            if isinstance(result, GmmlError):
                faults.append(result)
            else:
                found.append(result)
    merged.put([each.shard for each in found], [each.header for each in found], indexes)
    made = sum(each.made for each in found)
    summary = summarise(each.header for each in found)
    if found and not summary.samples:
        hint = "see what was passed over; --image names the images' field"
        faults.append(DataError(Fault(url, "holds no sample", hint)))
    if as_json:
        emit(_indexed(url, len(shards), made, summary))
    else:
        click.echo(f"{counted(len(shards), 'shard')}: {made} indexed, {len(found) - made} had an index with checksums")
        for note in summary.notes:
            click.echo(note)
        click.echo(str(summary))
    for fault in sorted(faults, key=str):
        click.echo(str(fault), err=True)
        if as_json:
            emit(error_document(fault))
    return max((fault.exit_code for fault in faults), default=0)


def _indexed(url: str, shards: int, made: int, summary: "Summary") -> IndexedOutput:
    """What was indexed and what it holds, for programs."""
    return {
        "version": 1,
        "url": url,
        "shards": shards,
        "indexed": made,
        "samples": summary.samples,
        "labelled": summary.labelled,
        "least_label": summary.least_label if summary.labelled else None,
        "greatest_label": summary.greatest_label if summary.labelled else None,
        "masks": summary.masks,
        "notes": list(summary.notes),
    }


def _workers_of(count: int | None) -> "Workers":
    """What the entry of a cluster's job has set, else processes of this machine."""
    make: Callable[[int | None], Workers] | None = click.get_current_context().obj
    if make is not None:
        return make(count)
    from gmml_cluster.data.workers import workers_of

    return workers_of(count, ("gmml_cluster.data.packing.shard",))


def _on_cluster(name: str) -> int:
    """Run this command as a job of a Ray cluster; its exit code."""
    from gmml_cluster.launch.ray.corpus import follow_on_ray
    from gmml_cluster.spec.loading.validate import load_profile

    context = click.get_current_context()
    words = [str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value is None or value is False or parameter.name == "cluster":
            continue
        words += parameter.opts[-1:] if parameter.param_type_name == "option" else []
        words += [] if value is True else [absolute_url(value) if parameter.name in _URLS else str(value)]
    return follow_on_ray(load_profile(name), words)


def _report(packed: "Packed", destination: str) -> None:
    for line in packed.notes:
        click.echo(line)
    _some("left out", packed.left_out)
    _some("damaged, and packed:", packed.damaged)
    click.echo(f"{_size(packed)}: {destination.rstrip('/')}/{packed.braces}")
    click.echo(_classes(packed))
    if packed.masks:
        click.echo(f"{counted(packed.masks, 'sample')} with a mask; values {_spans(list(packed.mask_values))}")
    click.echo(f"mean [{', '.join(f'{mean:.4f}' for mean in packed.mean)}]")
    click.echo(f"std  [{', '.join(f'{std:.4f}' for std in packed.std)}]")


def _size(packed: "Packed") -> str:
    return f"{counted(packed.samples, 'sample')} in {counted(len(packed.shards), 'shard')}"


def _some(what: str, lines: "list[Remark]") -> None:
    for line in lines[:_NAMED]:
        click.echo(f"{what} {line}")
    if len(lines) > _NAMED:
        click.echo(f"{what} {len(lines) - _NAMED} more; packed.json and --json name all")


def _classes(packed: "Packed") -> str:
    """What was understood of classes."""
    numbers = sorted(label for label in packed.labels if label >= 0)
    if not numbers:
        return "no sample has a class"
    ends = [f"{number} ({packed.classes[number]})" if packed.classes else str(number) for number in numbers]
    without = packed.labels.get(-1, 0)
    rest = f"; {counted(without, 'sample')} without one" if without else ""
    return f"{len(numbers)} classes, {ends[0]} to {ends[-1]}{rest}" if len(numbers) > 1 else f"1 class, {ends[0]}{rest}"


def _spans(values: list[int]) -> str:
    """Ascending numbers, those in a row as one span: `0 to 149, 255`."""
    starts = [value for value in values if value - 1 not in values]
    ends = [value for value in values if value + 1 not in values]
    return ", ".join(f"{a} to {b}" if a < b else str(a) for a, b in zip(starts, ends, strict=True))
