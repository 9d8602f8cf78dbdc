"""`gmml corpus`: making corpora."""

import click

from gmml_cluster.cli.compute import run_module


@click.group("corpus")
def command() -> None:
    """Make corpora."""


@command.command("pack", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def pack(arguments: tuple[str, ...]) -> int:
    """Shuffle images of a folder or of tars into shards with an index: `gmml corpus pack SRC DST`."""
    return run_module("gmml_cluster.data.pack", arguments, needs="numpy")
