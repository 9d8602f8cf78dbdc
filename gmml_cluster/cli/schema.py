"""`gmml schema`: what editors complete and check YAML by, and what programs check documents of `--json` by."""

import json

import click

from gmml_cluster.cli import options


@click.command("schema")
@click.argument("kind", metavar="job|cluster|NAME")
@options.as_json
def command(kind: str, as_json: bool) -> None:  # always JSON: the option is there because every command has it
    """Print the JSON Schema of job files, of cluster profiles, or of what a command prints with --json.

    docs/outputs.md has the NAMEs of what commands print, such as status.
    """
    from gmml_cluster.spec.schema import job_schema, profile_schema

    if kind in ("job", "cluster"):
        click.echo(json.dumps(job_schema() if kind == "job" else profile_schema(), indent=2))
        return
    from gmml_cluster.cli.output_schemas import OUTPUTS, output_schema

    if kind not in OUTPUTS:
        raise click.BadParameter(f"{kind!r}; known are job, cluster, {', '.join(OUTPUTS)}", param_hint="KIND")
    click.echo(json.dumps(output_schema(kind), indent=2))
