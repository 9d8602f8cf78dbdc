"""Jobs and runs whose sample numbers are known: what `gmml order` and `gmml see` read."""

from collections.abc import Sequence
from dataclasses import dataclass

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.plan.sample_layout import SampleLayout
from gmml_cluster.plan.steps import layout_of
from gmml_cluster.run.root import RunRoot, absolute
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.locations import Locations
from gmml_cluster.spec.loading.validate import load_profile, read_job


@dataclass(frozen=True)
class Ordered:
    """A job whose corpora are known, and with them the image of every sample number.

    Attributes:
        run: whose job it is; None where it was read from a file.
    """

    job: JobSpec
    layout: SampleLayout
    pin: Pin
    run: RunRoot | None = None


def of_job(path: str, overrides: Sequence[str], root: str | None) -> Ordered:
    """A job file as it would be submitted now.

    Args:
        path: of the file.
        overrides: `field=value`.
        root: where indexes are looked for, by default the root of a submission where no cluster is named; none is left
            there.

    Raises:
        SpecError: the job is not valid, or does not fit its corpora.
        DataError: a shard is missing or damaged.
        StorageError: a store does not answer.
    """
    job, tree = read_job(path, overrides)
    with Locations(tree).located_faults():
        pinned = pin(job.data.corpora, indexes_below(absolute(root or load_profile("local").root)), checked=False)
        layout = layout_of(job, pinned.shapes)
    return Ordered(job, layout, pinned)


def of_run(run: RunRoot) -> Ordered:
    """A run as its first attempt pinned it.

    Raises:
        SpecError: no attempt has pinned its corpora yet, or another version wrote its spec.
        RunDamaged: a file of it is not what was submitted or pinned.
        StorageError: the store does not answer.
    """
    history = run.log.refresh()
    pinned, submit = history.pin, history.submit
    if pinned is None:
        problem = "its first attempt has not pinned the corpora yet; wait for it, or name the job file"
        raise SpecError(Fault(run.url, problem))
    job = run.job(submit.changed if submit else {})
    corpora = Pin.from_bytes(run.corpora(pinned["corpora"]), indexes_below(run.root))
    return Ordered(job, SampleLayout.from_json(pinned["layout"], corpora.shapes), corpora, run)
