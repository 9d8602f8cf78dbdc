"""`gmml track`: curves that trackers lack are passed on from here."""

import subprocess
import sys

import click

from gmml_cluster.cli import options


@click.command("track")
@options.run
@options.root
def command(run: str, root: str | None) -> int:
    """Pass on RUN's curves to the trackers that its job names, as far as they lack them.

    The run does so itself. This is for a tracker that its nodes cannot reach, or that did not answer at its end.
    """
    from gmml_cluster.launch.find import find

    return subprocess.run(
        [sys.executable, "-P", "-m", "gmml_cluster.track", find(run, root).url], check=False
    ).returncode
