"""A command of `gmml corpus` as a job on a Ray cluster: `python -m gmml_cluster.cli.on_ray --labels JSON pack ...`."""

import json
import socket
import sys
from functools import partial
from typing import Any

import click

from gmml_cluster.cli import corpus
from gmml_cluster.cli.run_command import run
from gmml_cluster.errors import NotInstalled
from gmml_cluster.launch.imports import lacking_on_ray


class OnNode(click.Group):
    """Commands for which a package that is not installed is this node's, and not that of who reads the message."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except NotInstalled as error:
            package = error.faults[0].where
        except ModuleNotFoundError as error:
            package = str(error.name)
        raise lacking_on_ray(package, socket.gethostname(), "data", sys.executable)


@click.group("on_ray", cls=OnNode)
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
