"""`gmml track`: curves that trackers lack are passed on from here."""

import subprocess
import sys

import click

from gmml_cluster.cli import options


@click.command("track")
@options.run
@options.root
@options.as_json
def command(run: str, root: str | None, as_json: bool) -> int:
    """Pass on RUN's curves to the trackers that its job names, as far as they lack them.

    The run does so itself. This is for a tracker that its nodes cannot reach, or that did not answer at its end.
    """
    from gmml_cluster.launch.runs.find import find

    arguments = [find(run, root).url, *(["--json"] if as_json else [])]
    return subprocess.run([sys.executable, "-P", "-m", "gmml_cluster.track", *arguments], check=False).returncode
