"""The corpora of a job's `evaluate` before anything is submitted: how much is scored, and what is wrong with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from gmml_cluster.data.corpus.listing import ShardFile, indexes_below, list_shards, shared_shards
from gmml_cluster.errors import DataError, Fault, PreflightError, StorageError
from gmml_cluster.plan.evaluation import LabelledCounts
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.registry import wants_labels

BANK, CORPUS = "evaluate.bank", "evaluate.corpus"


@dataclass(frozen=True)
class Looked:
    """What is known of both corpora.

    Attributes:
        labelled: how many images with a class they hold.
        faults: what would make each evaluation fail, or its scores mean nothing.
        notes: what a person should know.
    """

    labelled: LabelledCounts = field(default_factory=LabelledCounts)
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Looking:
    root: str
    faults: list[Fault] = field(default_factory=list)

    def listed(self, where: str, url: str, image: str | None) -> list[ShardFile]:
        """The shards of a corpus; none, and a fault, where they cannot be listed."""
        try:
            return list_shards(url, image)
        except (DataError, StorageError) as error:
            self.faults += [Fault(where, f"{fault.where}: {fault.problem}", fault.hint) for fault in error.faults]
            return []

    def labelled(self, where: str, url: str, shards: Sequence[ShardFile]) -> int | None:
        """Images with a class by the indexes; None where one is missing, or cannot be read here."""
        if not shards or find_spec("numpy") is None or find_spec("google_crc32c") is None:
            return None
        from gmml_cluster.data.corpus.merged import find_headers

        try:
            headers = find_headers(shards, indexes_below(self.root))
        except (DataError, StorageError) as error:
            self.faults += [Fault(where, f"{fault.where}: {fault.problem}", fault.hint) for fault in error.faults]
            return None
        known = [header.labelled for header in headers if header is not None]
        if len(known) < len(shards):
            return None
        if not sum(known):
            hint = "name shards with a .cls member for each sample"
            self.faults.append(Fault(where, f"no sample of {url} has a class; scores need classes", hint))
        return sum(known)


def look_at_evaluation(job: JobSpec, root: str) -> Looked:
    """Both corpora of `evaluate`, by their listings and by the indexes that there are; nothing where there is none."""
    asked = job.evaluate
    if asked is None:
        return Looked()
    first, looking = job.data.corpora[0], _Looking(root)
    image, bank_url = asked.image or first.image, asked.bank or first.url
    bank = looking.listed(BANK, bank_url, image)
    of_bank = looking.labelled(BANK, bank_url, bank)
    if asked.corpus is None:
        return Looked(LabelledCounts(of_bank), tuple(looking.faults))
    corpus = looking.listed(CORPUS, asked.corpus, image)
    of_corpus = looking.labelled(CORPUS, asked.corpus, corpus)
    urls, notes = [shard.url for shard in corpus], []
    if shared := shared_shards(urls, [shard.url for shard in bank], "the bank"):
        problem = f"{shared}; every image there is its own nearest neighbour"
        looking.faults.append(Fault(CORPUS, problem, "name another bank, or leave corpus out"))
    trained = [shard.url for each in job.data.corpora for shard in _known(each.url, each.image)]
    if (shared := shared_shards(urls, trained, "data.corpora")) and wants_labels(job.method):
        problem = f"{shared}; {job.method.name} trains on their classes"
        looking.faults.append(Fault(CORPUS, problem, "name a corpus that is held out"))
    elif shared:
        notes.append(f"{CORPUS}: {shared}; the encoder is trained on what is scored, though without classes")
    return Looked(LabelledCounts(of_bank, of_corpus), tuple(looking.faults), tuple(notes))


def refuse_evaluation(job: JobSpec, root: str) -> None:
    """Refuse a job whose evaluations would all fail, while somebody is there to change it.

    Raises:
        PreflightError: lists what is wrong with the corpora of `evaluate`.
    """
    faults = look_at_evaluation(job, root).faults
    if faults:
        raise PreflightError(list(faults))


def _known(url: str, image: str | None) -> list[ShardFile]:
    """The shards of a training corpus; what is wrong with it is said elsewhere."""
    try:
        return list_shards(url, image)
    except (DataError, StorageError):
        return []
