"""Where the fields of a job and of its profile were written, for faults that are found after both were read."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.messages import in_order, where
from gmml_cluster.spec.loading.yaml import Path, Tree, at_field


@dataclass(frozen=True)
class Locations:
    """The trees that a job and a profile came from; None for one that was not read from files.

    Attributes:
        corpora: the URL that faults name a corpus by, in the job's order.
        origin: what precedes a field of a job that was not read from files, such as the option that is at fault.
    """

    job: Tree | None = None
    profile: Tree | None = None
    corpora: tuple[str, ...] = ()
    origin: str = ""

    def located(self, fault: Fault) -> Fault:
        """A fault whose `where` is a field or a corpus, with the file and line in front; any other as it is."""
        if fault.where in self.corpora:
            path: Path = ("data", "corpora", self.corpora.index(fault.where), "url")
            about = Fault("", f"{fault.where}: {fault.problem}", fault.hint)
            return fault if self.job is None else _at(self.job, path, about)
        path = tuple(int(part) if part.isdecimal() else part for part in fault.where.split("."))
        tree = self.profile if path[0] in ClusterProfile.model_fields else self.job
        if path[0] not in ClusterProfile.model_fields and path[0] not in JobSpec.model_fields:
            return fault
        if tree is None and self.origin and path[0] in JobSpec.model_fields:
            return Fault(at_field(self.origin, path), fault.problem, fault.hint)
        return fault if tree is None else _at(tree, path, fault)

    @contextmanager
    def located_faults(self) -> Iterator[None]:
        """Faults raised inside are raised with their files and lines."""
        try:
            yield
        except SpecError as error:
            raise type(error)(in_order(map(self.located, error.faults))) from error


def _at(tree: Tree, path: Path, fault: Fault) -> Fault:
    return Fault(at_field(where(tree, path), path), fault.problem, fault.hint)
