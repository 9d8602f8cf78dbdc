"""Arguments and options that several commands share."""

import click

from gmml_cluster.cli import candidates

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings that all commands inherit from the group."""
run = click.argument("run", shell_complete=candidates.runs)
overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=candidates.overrides)
root = click.option("--root", metavar="URL", help="Look under this folder or s3:// prefix alone.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines: a document a line on stdout.")
cluster = click.option(
    "--cluster",
    metavar="NAME|FILE",
    help="Profile: ./clusters/NAME.yaml, else the package's, or a file.",
    shell_complete=candidates.profiles,
)
follow = click.option("--follow", is_flag=True, help="Show progress until the run ends; exit with 5 if it fails.")
take_over = click.option(
    "--take-over",
    is_flag=True,
    help="Submit again although a job of this run is queued or runs; that one is fenced.",
)
