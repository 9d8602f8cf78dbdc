"""Where the fields of a job and of its profile were written, for faults that are found after both were read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.messages import dotted, where
from gmml_cluster.spec.loading.yaml import Path, Tree


@dataclass(frozen=True)
class Locations:
    """The trees that a job and a profile came from; None for one that was not read from files.

    Attributes:
        corpora: the URL that faults name a corpus by, in the job's order.
        origin: what stands before a field of a job that was not read from files, such as the option that is at fault.
    """

    job: Tree | None = None
    profile: Tree | None = None
    corpora: tuple[str, ...] = ()
    origin: str = ""

    def placed(self, fault: Fault) -> Fault:
        """A fault whose `where` is a field or a corpus, with the file and line in front; any other as it is."""
        if fault.where in self.corpora:
            path: Path = ("data", "corpora", self.corpora.index(fault.where), "url")
            return _at(self.job, path, f"{dotted(path)}: {fault}", fault)
        path = tuple(int(part) if part.isdecimal() else part for part in fault.where.split("."))
        if path[0] in ClusterProfile.model_fields:
            return _at(self.profile, path, str(fault), fault)
        if path[0] not in JobSpec.model_fields:
            return fault
        return _at(self.job, path, str(fault), Fault(self.origin, str(fault)) if self.origin else fault)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Faults raised inside leave with their places."""
        try:
            yield
        except SpecError as error:
            raise type(error)([self.placed(fault) for fault in error.faults]) from error


def _at(tree: Tree | None, path: Path, message: str, otherwise: Fault) -> Fault:
    return otherwise if tree is None else Fault(where(tree, path), message)
