"""`python -m gmml_cluster.export`: a run's encoder for another library; `gmml export` starts it."""

import json
from pathlib import Path

import click

from gmml_cluster.errors import GmmlError
from gmml_cluster.export.encoder import export_encoder
from gmml_cluster.export.formats import FORMATS
from gmml_cluster.outputs.leave import leave
from gmml_cluster.outputs.run import ExportOutput
from gmml_cluster.progress import progress
from gmml_cluster.run.root import run_root


@click.command("gmml export")
@click.option("--root", required=True, help="Folder or URL under which the run lies.")
@click.option("--run", "name", required=True, help="Name of the run.")
@click.option("--to", "target", required=True, type=click.Choice(list(FORMATS)), help="Format.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--step", type=click.IntRange(min=0), help="Checkpoint to read; the latest by default.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images to read; the run's by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a line.")
def main(
    root: str, name: str, target: str, output: Path, step: int | None, image_size: int | None, as_json: bool
) -> None:
    """Write the encoder of a checkpoint for another library."""
    if target == "onnx":
        click.echo(
            f"{output}: appears when torch has translated the encoder, some two seconds of a core a block", err=True
        )
    try:
        with progress(f"writing {output}"):
            found = export_encoder(run_root(root, name), target, output, step, image_size)
    except GmmlError as error:
        leave(error, as_json=as_json)
    files = sorted(path.name for path in output.iterdir())
    if as_json:
        folder = str(output.absolute())
        document: ExportOutput = {
            "version": 1, "run": name, "step": found, "format": target, "folder": folder, "files": files,
        }  # fmt: skip
        click.echo(json.dumps(document))
    else:
        click.echo(f"{output}: the encoder of {name} at step {found} ({', '.join(files)})")


if __name__ == "__main__":
    main()
