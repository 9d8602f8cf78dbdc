"""Whether corpora have the classes that a job's method learns from."""

from collections.abc import Iterator, Sequence

from gmml_cluster.data.corpus.summary import Summary
from gmml_cluster.errors import Fault
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.registry import mask_table_of, wants_labels
from gmml_cluster.wording import counted


def class_faults(job: JobSpec, held: Sequence[Summary | None]) -> list[Fault]:
    """What keeps a job's method from learning of its corpora's classes or masks; nothing for one that learns without.

    Args:
        job: the job.
        held: what each corpus holds; None where that is not known.
    """
    if mask_table_of(job.method) is not None:
        return list(_mask_faults(job, held))
    if not wants_labels(job.method):
        return []
    classes: int = getattr(job.method, "classes", 0)
    return [
        fault
        for c, summary in enumerate(held)
        if summary is not None and summary.samples
        for fault in _faults(job.method.name, f"data.corpora.{c}.url", job.data.corpora[c].url, summary, classes)
    ]


def _mask_faults(job: JobSpec, held: Sequence[Summary | None]) -> Iterator[Fault]:
    for c, (corpus, summary) in enumerate(zip(job.data.corpora, held, strict=False)):
        if summary is not None and summary.masks < summary.samples:
            share = f"{summary.samples - summary.masks} of its {counted(summary.samples, 'sample')}"
            problem = f"{corpus.url} has no mask for {share}; {job.method.name} learns from masks"
            hint = "pack images with masks (gmml corpus pack --masks), or index an older corpus by index --anew"
            yield Fault(f"data.corpora.{c}.url", problem, hint)


def _faults(method: str, where: str, url: str, held: Summary, classes: int) -> Iterator[Fault]:
    without = held.samples - held.labelled
    if without:
        lacking = f"{url} has no class for {without} of its {counted(held.samples, 'sample')}"
        hint = "pack the images in folders that are classes (gmml corpus pack), or take a method that needs none"
        yield Fault(where, f"{lacking}; {method} learns from classes", hint)
    elif classes and held.greatest_label >= classes:
        problem = f"{classes}, but {url} has classes {held.least_label} to {held.greatest_label}"
        yield Fault("method.classes", problem, f"write {held.greatest_label + 1} or more")
