"""Whether the masks of a job's corpora have values that no class has, before anything is submitted.

An index says where masks lie and not what they hold, so a few of them are decoded.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.corpus.summary import Summary
from gmml_cluster.errors import DataError, Fault, StorageError
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.registry import mask_table_of

_NEEDED = ("numpy", "google_crc32c", "PIL", "simplejpeg")


def mask_value_faults(
    job: JobSpec, root: str, held: Sequence[Summary | None], where: str = "method.classes"
) -> list[Fault]:
    """Corpora with a mask among the few looked at that has a value which is no class; none where nothing can be read.

    Args:
        job: the job.
        root: where indexes may lie that are not beside their shards.
        held: what each corpus holds; None where it has no index, and is not looked at.
        where: of the faults.
    """
    table = mask_table_of(job.method)
    if table is None or not all(find_spec(name) for name in _NEEDED):
        return []
    import numpy as np

    from gmml_cluster.data.eval_reader import Samples

    faults, classes = [], getattr(job.method, "classes", len(table))
    for corpus, summary in zip(job.data.corpora, held, strict=False):
        if summary is None or not summary.masks:
            continue
        try:
            samples = Samples(corpus.url, indexes_below(root), corpus.image)
            found = samples.unknown_value(np.array(table, np.int16))
        except (DataError, StorageError):
            continue  # what cannot be read is refused elsewhere
        if found is not None:
            problem = f"{classes}, but the mask of {found[0]} has the value {found[1]}, which is no class then"
            faults.append(Fault(where, problem, "give more classes, or say which value is ignored"))
    return faults
