"""Arguments and options that several commands share."""

import re
from collections.abc import Sequence
from typing import Any

import click

from gmml_cluster.cli import candidates

_LAST = 10**17
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


class _Range(click.ParamType[range]):
    name = "A..B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(value))
        if found is None:
            self.fail(f"{value!r} is not a range of sample numbers; write 0..9999, both ends included", param, ctx)
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            self.fail(f"{value!r} runs backwards; the smaller number comes first; write {last}..{first}", param, ctx)
        if last > _LAST:
            self.fail(f"{value!r} is too large; sample numbers go up to {_LAST:,}; write less", param, ctx)
        return range(first, last + 1)


SAMPLES = _Range()
"""The type of `--samples`."""


def is_job(job_or_run: str, overrides: Sequence[str]) -> bool:
    """Whether a job file is named, by its ending, and not a run, whose fields nothing overrides."""
    is_file = job_or_run.endswith((".yaml", ".yml"))
    if overrides and not is_file:
        raise click.UsageError(f"{overrides[0]}: a run's fields are fixed; name a job file (.yaml) to override some")
    return is_file
