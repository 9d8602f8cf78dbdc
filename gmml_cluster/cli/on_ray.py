"""A command of `gmml corpus` as a job on a Ray cluster: `python -m gmml_cluster.cli.on_ray --labels JSON pack ...`."""

import json
from functools import partial

import click

from gmml_cluster.cli import corpus
from gmml_cluster.cli.run_command import run


@click.group("on_ray")
@click.option("--labels", default="{}", help="Of the nodes that are used.")
@click.pass_context
def command(context: click.Context, labels: str) -> None:
    """Run a command of `gmml corpus` with tasks of the cluster as its workers."""
    from gmml_cluster.launch.ray.marks import mark_output
    from gmml_cluster.launch.ray.tasks import RayTasks, connect

    connect()
    mark_output()
    context.obj = partial(RayTasks, labels=json.loads(labels))


command.add_command(corpus.pack)
command.add_command(corpus.index)

if __name__ == "__main__":
    run(command)
