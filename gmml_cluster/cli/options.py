"""Arguments and options that several commands share."""

import click

run = click.argument("run")
root = click.option("--root", metavar="URL", help="Look under this folder or s3:// prefix alone.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
cluster = click.option(
    "--cluster", metavar="NAME|FILE", help="Profile: ./clusters/NAME.yaml, else the package's, or a file."
)
follow = click.option("--follow", is_flag=True, help="Show progress until the run ends; leave with 5 if it fails.")
take_over = click.option(
    "--take-over",
    is_flag=True,
    help="Submit anew although a job of this run is queued or lives; the older one is fenced.",
)
