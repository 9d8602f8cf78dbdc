"""`gmml schema`: what editors complete and check YAML by."""

import json

import click


@click.command("schema")
@click.argument("kind", type=click.Choice(["job", "cluster"]))
def command(kind: str) -> None:
    """Print the JSON Schema of job files or of cluster profiles."""
    from gmml_cluster.spec.schema import job_schema, profile_schema

    click.echo(json.dumps(job_schema() if kind == "job" else profile_schema(), indent=2))
