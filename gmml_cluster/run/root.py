"""The run root: what lies where in it, how it is made, found and removed."""

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster import __version__
from gmml_cluster.errors import CheckpointError, Fault, SpecError, StorageError
from gmml_cluster.run.entries import slot_name
from gmml_cluster.run.history import Commit
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import AlreadyExists, NotFound, Store

if TYPE_CHECKING:
    from gmml_cluster.spec.job import JobSpec

VERSION = 1
SPEC = "spec.yaml"
RUN = "run.json"
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class RunRoot:
    """A run where it lies: `<root>/<name>`, its store and its log.

    Attributes:
        root: folder or URL under which runs lie.
    """

    root: str
    name: str

    @property
    def url(self) -> str:
        """Folder or URL of the run."""
        return f"{self.root}/{self.name}"

    @cached_property
    def store(self) -> Store:
        """Everything that belongs to the run."""
        return open_store(self.root).child(self.name)

    @cached_property
    def log(self) -> Log:
        """The log, read as far as was asked for."""
        return Log(self.store)

    def job(self, changed: Mapping[str, Any]) -> "JobSpec":
        """The job file as it was resolved at submission, with the changes of a submit.

        Raises:
            SpecError: it is damaged, or another version of gmml_cluster wrote it and this one cannot read it.
        """
        from gmml_cluster.spec.stored import load_resolved  # `gmml status` reads runs without pydantic

        version = json.loads(self.store.get(RUN))["version"]
        if version != VERSION:
            raise SpecError(Fault(f"{self.url}/{RUN}", f"version {version}; {VERSION} is known here; {self._versions}"))
        try:
            return load_resolved(self.store.get(SPEC), changed)
        except SpecError as error:
            told = [Fault(f"{self.url}/{SPEC}", f"{fault}; {self._versions}") for fault in error.faults]
            raise SpecError(told) from error

    @property
    def _versions(self) -> str:
        theirs = self.log.refresh().opened.get("versions", {}).get("gmml_cluster", "of an unknown version")
        return f"the run was submitted with gmml_cluster {theirs}, this is {__version__}; use the one that submitted it"


def absolute(url: str) -> str:
    """A URL as it is, a path made absolute."""
    return url.rstrip("/") if "://" in url else str(Path(url).expanduser().absolute())


def run_root(root: str, name: str) -> RunRoot:
    """The run of this name under a root, whether or not it exists.

    Raises:
        SpecError: no run can have this name.
    """
    if not _NAME.fullmatch(name):
        rule = "1 to 63 characters of a-z, 0-9, `.`, `_`, `-`, the first a letter or a digit"
        raise SpecError(Fault("name", f"{name!r}; a run's name has {rule}; rename it"))
    return RunRoot(open_store(root).url, name)


def code_name(digest: str) -> str:
    """Name of a code snapshot within the run root."""
    return f"code/{digest}.zip"


def corpora_name(digest: str) -> str:
    """Name of a pin of the corpora within the run root."""
    return f"corpora/{digest}.json"


def metrics_stem(attempt: int) -> str:
    """Name of an attempt's metric parts, without number and suffix."""
    return f"attempts/{attempt:04d}/metrics"


def log_stem(attempt: int, rank: int) -> str:
    """Name of a rank's log parts, without number and suffix."""
    return f"attempts/{attempt:04d}/rank-{rank:05d}"


def create_run(root: str, name: str, files: Mapping[str, bytes], opening: Mapping[str, Any]) -> RunRoot:
    """Make a run: its files, then the `open` entry, from which on it exists. A failure leaves nothing behind.

    Args:
        root: folder or URL under which runs lie.
        name: of the run.
        files: what is written once, by name within the run root: the spec, the code.
        opening: fields of `open`.

    Raises:
        Exists: a run has this name.
        SpecError: no run can have this name.
    """
    run, token = run_root(root, name), secrets.token_hex(16)
    document = {"version": VERSION, "name": name, "run": token, "time": time.time()}
    written = [RUN]
    try:
        run.store.create(RUN, json.dumps(document).encode())
        for file, data in files.items():
            written.append(file)
            run.store.put(file, data)
        run.log.append(lambda history: Draft("open", None, opening, run=token))
    except AlreadyExists:
        raise
    except BaseException:
        open_store(root).delete(f"{name}/{file}" for file in reversed([*written, slot_name(0)]))
        raise
    return run


def remove_run(run: RunRoot) -> None:
    """Delete everything of a run, its log last and from the highest slot down; an interrupted removal can be repeated.

    The caller has made sure that no job is queued and no attempt lives.
    """
    run.store.discard(run.store.unfinished())
    names = [found.name for found in run.store.list_objects() if found.name != RUN]
    slots = sorted((name for name in names if name.startswith("log/")), reverse=True)
    run.store.delete(name for name in names if not name.startswith("log/"))
    for slot in slots:
        run.store.delete([slot])
    open_store(run.root).delete([f"{run.name}/{RUN}"])


def runs_under(root: str) -> list[RunRoot]:
    """The runs that lie under a root, by name.

    Raises:
        StorageError: the root cannot be read.
    """
    store = open_store(root)
    named = (RunRoot(store.url, name) for name in store.folders() if _NAME.fullmatch(name))
    return [run for run in named if is_run(run)]


def find_run(text: str, roots: Iterable[str]) -> RunRoot:
    """The run that is meant by a folder or URL of its own, by its name, or by a prefix that no other run shares.

    Args:
        text: what a user wrote.
        roots: where runs may lie; one that cannot be read is told of where nothing is found.

    Raises:
        SpecError: no run is meant, or several are; lists them.
    """
    if "/" in text:
        return run_at(text)
    unread: list[str] = []
    candidates = list(_candidates(text, roots, unread))
    found = [run for run in candidates if run.name == text] or candidates
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(run.url for run in found)
        raise SpecError(
            Fault(text, f"means {len(found)} runs: {listed}; name one; give more of the name, or its folder")
        )
    told = "; ".join(unread) or "no root that is known holds it"
    raise SpecError(
        Fault(text, f"no such run ({told}); runs are sought under known roots; name its folder or --root URL")
    )


def run_at(url: str) -> RunRoot:
    """The run whose folder or URL this is.

    Raises:
        SpecError: it holds no run.
    """
    root, _, name = open_store(url).url.rpartition("/")
    run = RunRoot(root, name)
    if not is_run(run):
        raise SpecError(Fault(url, f"holds no run; a run's folder has a {RUN}; name such a folder"))
    return run


def commit_of(run: RunRoot, step: int | None) -> Commit:
    """The run's commit of a step; its youngest where the step is None.

    Raises:
        CheckpointError: there is no such commit.
    """
    commits = run.log.refresh().commits
    found = [commit for commit in commits if step is None or commit.step == step]
    if found:
        return found[-1]
    known = ", ".join(str(commit.step) for commit in commits) or "none"
    wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
    raise CheckpointError(f"{run.url}: {wanted} is asked for, known are {known}; name one of them or train first")


def _candidates(prefix: str, roots: Iterable[str], unread: list[str]) -> Iterator[RunRoot]:
    for root in dict.fromkeys(_resolved(root) for root in roots):
        try:
            store = open_store(root)
            named = (RunRoot(store.url, name) for name in store.folders() if name.startswith(prefix))
            yield from (run for run in named if is_run(run))
        except StorageError as error:
            _log.warning("%s; runs under it are not seen", error)
            unread.append(str(error))


def _resolved(root: str) -> str:
    """One spelling of a root, so that links and slashes do not make two of it."""
    path = root.removeprefix("file://")
    return root.rstrip("/") if "://" in path else os.path.realpath(os.path.expanduser(path))


def is_run(run: RunRoot) -> bool:
    """Whether a run lies here, or what a cut off submission or removal left of one: `gmml rm` deletes either."""
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


def _roots_file() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "gmml" / "roots"
