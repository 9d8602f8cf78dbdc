"""Which runs there are: by name under the roots that are known here, by folder or URL, or all under a root."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gmml_cluster.errors import Fault, GmmlError, SpecError, StorageError
from gmml_cluster.run.finding.silent_roots import SilentRoots
from gmml_cluster.run.root import NAME, RUN, RunRoot
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import NotFound


@dataclass(frozen=True)
class Runs:
    """What lies under some roots.

    Attributes:
        runs: by root, then by name.
        faults: of the roots that could not be read; the runs of the others are listed all the same.
    """

    runs: tuple[RunRoot, ...]
    faults: tuple[GmmlError, ...]


def runs_below(roots: Iterable[str]) -> Runs:
    """The runs under several roots; one that does not exist holds none, for no run was submitted to it yet."""
    runs: list[RunRoot] = []
    faults: list[GmmlError] = []
    for root in _distinct(roots):
        try:
            runs += _listed(root)
        except GmmlError as error:
            faults.append(error)
    return Runs(tuple(runs), tuple(faults))


def runs_under(root: str) -> list[RunRoot]:
    """The runs under a root that a user named, by name.

    Raises:
        SpecError: there is no such folder.
        StorageError: the root cannot be read.
    """
    demand_root(root)
    return list(_listed(root))


def demand_root(root: str) -> None:
    """Refuse a root that a user named and that does not exist. Object stores have no folders that could be missing.

    Raises:
        SpecError: there is no such folder.
    """
    url = open_store(root).url
    if "://" not in url and not os.path.isdir(url):
        what = "is a file and no folder" if os.path.exists(url) else "does not exist"
        raise SpecError(Fault("--root", f"{url} {what}, so no run lies there", "name the root of a submission"))


def find_run(text: str, roots: Iterable[str]) -> RunRoot:
    """The run that is meant by a folder or URL of its own, by its name, or by a prefix that no other run shares.

    Args:
        text: what a user wrote.
        roots: where runs may lie. A root that cannot be read is reported only if no run is found under the others.

    Raises:
        SpecError: no run is meant, or several are; lists them.
    """
    if not text:  # most likely a variable that is not set; as a prefix it would mean whichever run is the only one
        raise SpecError(Fault("''", "an empty name; it means no run", "name the run"))
    if "/" in text:
        return run_at(text)
    unread: list[str] = []
    candidates = list(_candidates(text, roots, unread))
    found = [run for run in candidates if run.name == text] or candidates
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(run.url for run in found)
        problem = f"means {len(found)} runs: {listed}"
        raise SpecError(Fault(text, problem, "give more of the name, or the run's folder or URL"))
    problem = f"no such run ({'; '.join(unread) or 'no root that is known here holds it'})"
    raise SpecError(Fault(text, problem, "name the run's folder or URL, or give its root with --root"))


def run_at(url: str) -> RunRoot:
    """The run whose folder or URL this is.

    Raises:
        SpecError: it holds no run.
    """
    root, _, name = open_store(url).url.rpartition("/")
    run = RunRoot(root, name)
    if not is_run(run):
        raise SpecError(Fault(url, f"holds no run; the folder of a run has a {RUN}", "name such a folder"))
    return run


def is_run(run: RunRoot) -> bool:
    """Whether a run lies here, or what an interrupted submission or removal left of one: `gmml rm` deletes either."""
    try:
        run.store.stat(RUN)
    except NotFound:
        return bool(run.store.list_objects("log/"))
    return True


def note_root(root: str) -> None:
    """Remember on this machine that runs lie under a root."""
    url = open_store(root).url
    if url in noted_roots():
        return
    path = _roots_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{url}\n")


def noted_roots() -> list[str]:
    """The roots that submissions from this machine noted, oldest first."""
    with suppress(FileNotFoundError):
        return list(dict.fromkeys(_roots_file().read_text().split("\n")[:-1]))
    return []


def listed_of_noted(roots: Iterable[str]) -> Runs:
    """The runs under roots that submissions from here noted.

    One that does not answer, or whose folder is gone, is a fault once; it is then asked after growing pauses.
    """
    silent, runs, faults = SilentRoots(silence_file()), list[RunRoot](), list[GmmlError]()
    for root in _distinct(roots):
        if silent.is_paused(root):
            continue
        if "://" not in root and not os.path.isdir(root):
            if silent.missing(root):
                faults.append(
                    StorageError(Fault(root, "does not exist (any more), so no run of it is listed", _cure()))
                )
            continue
        try:
            runs += _listed(root)
            silent.answered(root)
        except GmmlError as error:
            if silent.failed(root):
                said = f"{error.faults[0].problem if error.faults else error}; its runs are not listed"
                faults.append(StorageError(Fault(root, said, _cure())))
    return Runs(tuple(runs), tuple(faults))


def _cure() -> str:
    return f"if it is gone for good remove its line from {_roots_file()}; `--root` asks it at once"


def silence_file() -> Path:
    """Where roots that do not answer are remembered."""
    return _roots_file().with_name("silent-roots.json")


def _listed(root: str) -> Iterator[RunRoot]:
    store = open_store(root)
    named = (RunRoot(store.url, name) for name in store.folders() if NAME.fullmatch(name))
    return (run for run in named if is_run(run))


def _candidates(prefix: str, roots: Iterable[str], unread: list[str]) -> Iterator[RunRoot]:
    for root in _distinct(roots):
        try:
            store = open_store(root)
            named = (RunRoot(store.url, name) for name in store.folders() if name.startswith(prefix))
            yield from (run for run in named if is_run(run))
        except GmmlError as error:
            unread.append(str(error))


def set_aside(roots: Iterable[str], others: Iterable[str]) -> list[str]:
    """The roots that are none of the others, whatever their spelling."""
    known = set(_distinct(others))
    return [root for root in _distinct(roots) if root not in known]


def _distinct(roots: Iterable[str]) -> list[str]:
    """The roots in one spelling each, so that links and slashes do not make two of one."""
    return list(dict.fromkeys(_resolved(root) for root in roots))


def _resolved(root: str) -> str:
    path = root.removeprefix("file://")
    return root.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path))


def _roots_file() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "gmml" / "roots"
