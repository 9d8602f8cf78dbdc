"""`python -m gmml_cluster.evaluate.see`: what `gmml see` starts where torch is."""

import json
from pathlib import Path

import click
from PIL import Image

from gmml_cluster import ordered
from gmml_cluster.data.corpus.pin import Located
from gmml_cluster.errors import Fault, GmmlError, SpecError
from gmml_cluster.evaluate.see.look import Look, Seen, look
from gmml_cluster.evaluate.see.sheet import sheet
from gmml_cluster.outputs.leave import leave
from gmml_cluster.outputs.run import PlaceOutput, SeenOutput, SeeOutput
from gmml_cluster.run.root import run_root


def document(found: Look, picture: Path | None) -> SeeOutput:
    """What `gmml see --json` prints."""
    return {
        "version": 1,
        "name": found.job.name,
        "method": found.job.method.name,
        "batch": found.job.batch.size,
        "steps": found.steps,
        "picture": None if picture is None else str(picture.absolute()),
        "notes": list(found.notes),
        "samples": [_sample(seen) for seen in found.samples],
    }


def _sample(seen: Seen) -> SeenOutput:
    stored = seen.stored
    return {
        "n": seen.n,
        "step": seen.step,
        "corpus": seen.corpus,
        "epoch": seen.epoch,
        "shard": seen.located.shard,
        "index": seen.located.index,
        "member": seen.located.member,
        "label": None if stored.label < 0 else stored.label,
        "replaces": None if seen.replaces is None else _place(seen.replaces),
        "height": stored.height,
        "width": stored.width,
        "crops": stored.boxes.tolist(),
        "shown": [{"title": shown.title, "fact": shown.fact} for shown in seen.panels],
    }


def _place(located: Located) -> PlaceOutput:
    return {"shard": located.shard, "index": located.index, "member": located.member}


def lines(found: Look) -> list[str]:
    """The same for people: a line a sample, then what cannot be drawn."""
    rows = [_line(seen) for seen in found.samples]
    return ["n  step  class  size  member  shard", *rows, *found.notes]


def _line(seen: Seen) -> str:
    stored = seen.stored
    label = "-" if stored.label < 0 else str(stored.label)
    size = f"{stored.width}x{stored.height}"
    return "  ".join([str(seen.n), str(seen.step), label, size, seen.located.member, seen.located.shard])


def _range(found: Look) -> str:
    first, last = found.samples[0].n, found.samples[-1].n
    return str(first) if first == last else f"{first}..{last}"


def _save(picture: Image.Image, output: Path) -> None:
    try:
        picture.save(output, "PNG")
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise SpecError(Fault(str(output), problem, "name another file")) from error


@click.command("python -m gmml_cluster.evaluate.see")
@click.option("--job", help="Job file.")
@click.option("--override", "overrides", multiple=True, help="KEY=VALUE of the job file.")
@click.option("--root", help="Where the run lies; of a job file where its indexes are looked for.")
@click.option("--run", help="Name of the run.")
@click.option("--first", type=int, required=True, help="First sample number.")
@click.option("--last", type=int, required=True, help="Last sample number.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The picture; none without it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def main(
    job: str | None,
    overrides: tuple[str, ...],
    root: str | None,
    run: str | None,
    first: int,
    last: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show what sample numbers of a job file or a run are."""
    try:
        if output is not None and output.suffix.lower() != ".png":
            raise SpecError(Fault(str(output), "is no PNG", "end the name in .png"))
        if job is not None:
            named = ordered.of_job(job, overrides, root)
        else:
            named = ordered.of_run(run_root(str(root), str(run)))
        found = look(named, range(first, last + 1))
        if output is not None:
            said = " ".join(["gmml see", job or str(run), *overrides, "--samples", _range(found)])
            _save(sheet(found, f"{said}: {found.job.method.name}"), output)
    except GmmlError as error:
        leave(error, as_json=as_json)
    click.echo(json.dumps(document(found, output)) if as_json else "\n".join(lines(found)))
    if output is not None and not as_json:
        click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
