"""`python -m gmml_cluster.export`: a run's encoder for another library; `gmml export` starts it."""

import sys
from pathlib import Path

import click

from gmml_cluster.errors import GmmlError
from gmml_cluster.export.encoder import export_encoder
from gmml_cluster.export.formats import FORMATS
from gmml_cluster.run.root import run_root


@click.command("gmml export")
@click.option("--root", required=True, help="Folder or URL under which the run lies.")
@click.option("--run", "name", required=True, help="Name of the run.")
@click.option("--to", "target", required=True, type=click.Choice(list(FORMATS)), help="Format.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint to read; the latest by default.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images to read; the run's by default.")
def main(root: str, name: str, target: str, output: Path, step: int | None, image_size: int | None) -> None:
    """Write the encoder of a checkpoint for another library."""
    if target == "onnx":
        click.echo(
            f"{output}: appears when torch has translated the encoder, some two seconds of a core a block", err=True
        )
    try:
        found = export_encoder(run_root(root, name), target, output, step, image_size)
    except GmmlError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    files = ", ".join(sorted(path.name for path in output.iterdir()))
    click.echo(f"{output}: the encoder of {name} at step {found} ({files})")


if __name__ == "__main__":
    main()
