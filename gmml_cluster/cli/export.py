"""`gmml export`: a run's encoder for another library."""

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.compute import run_module

FORMATS = ("timm", "transformers", "onnx", "safetensors")


@click.command("export")
@options.run
@click.option("--to", "target", required=True, type=click.Choice(FORMATS), help="Library or format.")
@click.option("-o", "--output", metavar="FOLDER", help="Folder to make; RUN-FORMAT by default.")
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint to read; the latest by default.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images to read; the run's by default.")
@options.root
@options.as_json
def command(
    run: str,
    target: str,
    output: str | None,
    step: int | None,
    image_size: int | None,
    root: str | None,
    as_json: bool,
) -> int:
    """Write the encoder of a checkpoint of RUN for another library, with a model card, into a new folder."""
    from gmml_cluster.launch.runs.find import find

    found = find(run, root)
    arguments = ["--root", found.root, "--run", found.name, "--to", target]
    arguments += ["--output", output or f"{found.name}-{target}"]
    arguments += [] if step is None else ["--step", str(step)]
    arguments += [] if image_size is None else ["--image-size", str(image_size)]
    arguments += ["--json"] if as_json else []
    return run_module("gmml_cluster.export", arguments, needs="safetensors")
