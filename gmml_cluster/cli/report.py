"""`gmml report`: one page on runs, made from their roots."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gmml_cluster.cli import candidates, options
from gmml_cluster.cli.documents import emit
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.outputs.runs import ReportOutput
from gmml_cluster.progress import progress

if TYPE_CHECKING:
    from gmml_cluster.api import Run
    from gmml_cluster.report.gather import RunData


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=candidates.runs)
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page.",
)
@click.option(
    "--images",
    metavar="URL",
    help="First draw reconstructions of the first images of these shards, by each checkpoint; needs torch.",
)
@options.root
@options.as_json
def command(runs: tuple[str, ...], output: Path, images: str | None, root: str | None, as_json: bool) -> int:
    """Write one HTML page on all RUNs: which is better, curves, time, scores, data, reconstructions and specs.

    It opens in a browser without a server and without the network. The name of a sweep, or a pattern such as 'vit-*',
    stands for its runs. Reconstructions that were drawn are kept with their run, and shown by later reports without
    --images.
    """
    from gmml_cluster import api
    from gmml_cluster.cli.compute import absolute_url, demand, run_module

    demand("bokeh")
    from gmml_cluster.launch.runs.select import select_all
    from gmml_cluster.report.page import page_of

    found = [api.Run(each) for each in select_all(runs, root)]
    for each in found if images is not None else ():
        arguments = ["--root", each.location.root, "--run", each.name, "--corpus", absolute_url(str(images))]
        arguments += ["--json"] if as_json else []
        code = run_module("gmml_cluster.evaluate.pictures", arguments, needs="torch")
        if code:
            return code
    data = _read(found)
    with progress("drawing the page"):
        page = page_of(data, f"gmml report {' '.join(runs)}")
    written = page.html.encode()
    try:
        output.write_bytes(written)
    except OSError as error:
        raise SpecError(Fault(str(output), f"cannot be written ({error.strerror})", "name another file")) from error
    if as_json:
        document: ReportOutput = {
            "version": 1,
            "page": str(output.absolute()),
            "bytes": len(written),
            "runs": [run.url for run in found],
            "question": page.verdict.question,
            "answers": list(page.verdict.answers),
            "caveats": list(page.verdict.caveats),
        }
        emit(document)
        return 0
    click.echo("\n".join(page.verdict.answers))
    click.echo(f"{output}: {len(written) / 1e6:.1f} MB")
    return 0


def _read(runs: "list[Run]") -> "list[RunData]":
    """What the page shows of each run."""
    from gmml_cluster import api
    from gmml_cluster.report.gather import gather, unique_names
    from gmml_cluster.report.page import buckets_for

    with progress("reading the runs", len(runs)) as advance:
        statuses = api.status_of(runs, evaluations=True)
        if statuses.faults:
            raise statuses.faults[0]
        locations = [run.location for run in runs]
        data = []
        for location, status, name in zip(locations, statuses.documents, unique_names(locations), strict=True):
            data.append(gather(location, status, name=name, buckets=buckets_for(len(runs))))
            advance(1)
    return data
