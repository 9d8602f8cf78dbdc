"""`gmml new`: a commented job file to begin with."""

from pathlib import Path

import click

from gmml_cluster.cli import options
from gmml_cluster.cli.documents import emit
from gmml_cluster.outputs.submission import NewOutput

_JOB = """\
# A pre-training run. Every field, its default and its meaning: docs/fields.md, or `gmml schema job` for editors.
# See what it means:  gmml-submit {name}.yaml --dry-run
# Start it:           gmml-submit {name}.yaml
name: {name}

# The encoder: a plain vision transformer, from tiny to huge. Beside `size`, single fields such as patch_size win.
model: {{size: small}}

# What is learnt: gmml, mae, simmim, conmim, capi, ijepa or relvit, which need images alone, or `supervised` with
# `classes: 1000`. Each brings its authors' crops and optimiser along; docs/methods.md has their options.
method: {{name: gmml}}

data:
  corpora:
    # Tar shards of images, as `gmml corpus pack FOLDER_OF_IMAGES FOLDER` makes them: a path or an s3:// URL, with * or
    # a range such as {{000..131}}. Relative paths count from the folder where gmml-submit is called.
    - {{url: "train/*.tar"}}
  # Side of a view in pixels, a multiple of the patch.
  image_size: 224

# Images a step, over all ranks; the learning rate is scaled to it.
batch: {{size: 256}}

# How long: epochs of the first corpus, or `steps: N`, or `samples: N`.
run: {{epochs: 100}}

# bf16 for GPUs; leave it out on CPUs.
# engine: {{precision: bf16}}

# More than one node, with --cluster: a number, or a range within which the run is elastic.
# resources: {{nodes: 1..4}}
"""


@click.command("new")
@click.argument("name", default="my-run")
@options.as_json
def command(name: str, as_json: bool) -> None:
    """Write NAME.yaml, a small job with comments, into this folder; nothing is overwritten."""
    from gmml_cluster.errors import Fault, SpecError
    from gmml_cluster.spec.job import run_name

    try:
        path = Path(f"{run_name(name.removesuffix('.yaml'))}.yaml")
    except ValueError as error:
        raise SpecError(Fault("NAME", str(error))) from error
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_JOB.format(name=path.stem))
    except FileExistsError as error:
        raise SpecError(Fault(str(path), "exists already", "choose another name, or remove it")) from error
    except OSError as error:
        raise SpecError(Fault(str(path), f"cannot be written ({error.strerror})", "go to another folder")) from error
    if as_json:
        document: NewOutput = {"version": 1, "file": str(path)}
        emit(document)
        return
    click.echo(f"{path} is written; set data.corpora in it, then: gmml-submit {path} --dry-run")
