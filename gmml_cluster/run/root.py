"""The run root: what lies where in it, how a run is made, read and removed."""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster import __version__
from gmml_cluster.errors import CheckpointError, Fault, Fenced, RunDamaged, SpecError, StorageError
from gmml_cluster.run.history import Commit, History
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.store.open import open_store, scheme_of
from gmml_cluster.store.protocol import AlreadyExists, NotFound, Store
from gmml_cluster.store.verified import read_verified

if TYPE_CHECKING:
    from gmml_cluster.spec.job import JobSpec

VERSION = 1
SPEC = "spec.yaml"
RUN = "run.json"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class RunRoot:
    """A run where it was found: `<root>/<name>`, its store and its log.

    Every file of which the log has a digest is read by a method of this class, which compares the two each time:
    a file that was edited or damaged since the submission would otherwise silently train something else.

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
            RunDamaged: `spec.yaml` or `run.json` is not what was submitted.
            SpecError: another version of gmml_cluster wrote it and this one cannot read it.
        """
        from gmml_cluster.spec.stored import load_resolved  # `gmml status` reads runs without pydantic

        version = json.loads(self._submitted(RUN))["version"]
        if version != VERSION:
            problem = f"version {version}; {VERSION} is known here; {self._versions}"
            raise SpecError(Fault(f"{self.url}/{RUN}", problem, "use the one that submitted it"))
        try:
            return load_resolved(self._submitted(SPEC), changed)
        except SpecError as error:
            faults = [
                Fault(
                    f"{self.url}/{SPEC}",
                    f"{fault.where}: {fault.problem}; {self._versions}",
                    "use the one that submitted it",
                )
                for fault in error.faults
            ]
            raise SpecError(faults) from error

    def code(self, digest: str) -> bytes:
        """The zip of the code that a submit or an attempt names.

        Raises:
            RunDamaged: its bytes are not those of the digest.
        """
        return self._read(code_name(digest), digest, _sha256, f"restore it, or gmml resume {self.name} --code")

    def corpora(self, digest: str) -> bytes:
        """The corpora as a `pin` fixed them: what `Pin.from_bytes` reads.

        Raises:
            RunDamaged: the document is not the one of the digest.
        """
        hint = f"restore it; without it the samples of {self.name} are not known"
        try:
            return self._read(corpora_name(digest), digest, _sha256, hint)
        except NotFound:  # of a version that wrote JSON
            return self._read(json_corpora_name(digest), digest, _json_corpora_digest, hint)

    def _submitted(self, name: str) -> bytes:
        """A file that was written once, at submission. Logs of earlier versions have no `files`: it is not compared."""
        digest = self.log.opened().get("files", {}).get(name)
        hint = "restore the submitted file; to train something else submit it under another name"
        return self.store.get(name) if digest is None else self._read(name, digest, _sha256, hint)

    def _read(self, name: str, digest: str, digest_of: Callable[[bytes], str], hint: str) -> bytes:
        def check(data: bytes) -> None:
            found = digest_of(data)
            if found != digest:
                problem = f"has SHA-256 {found[:12]}..., but the log records {digest[:12]}...: edited or damaged since"
                raise RunDamaged(Fault(f"{self.url}/{name}", problem, hint))

        return read_verified(lambda: self.store.get(name), check)

    @property
    def _versions(self) -> str:
        theirs = self.log.opened().get("versions", {}).get("gmml_cluster", "of an unknown version")
        return f"the run was submitted with gmml_cluster {theirs}, this is {__version__}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json_corpora_digest(data: bytes) -> str:
    """Of the `corpora` alone, in a fixed spelling."""
    try:
        return _sha256(json.dumps(json.loads(data)["corpora"], sort_keys=True).encode())
    except (ValueError, KeyError, TypeError):
        return "no JSON document"


def absolute(url: str) -> str:
    """A URL as it is, a path made absolute.

    Raises:
        SpecError: the URL is empty, or no store has its scheme.
    """
    is_path = scheme_of(url) == "file" and not url.startswith("file://")
    return str(Path(url).expanduser().absolute()) if is_path else url.rstrip("/")


def run_root(root: str, name: str) -> RunRoot:
    """The run of this name under a root, whether or not it exists.

    Raises:
        SpecError: no run can have this name.
    """
    if not NAME.fullmatch(name):
        rule = "1 to 63 characters of a-z, 0-9, `.`, `_`, `-`, the first a letter or a digit"
        raise SpecError(Fault("name", f"{name!r}; a run's name has {rule}", "rename it"))
    return RunRoot(open_store(root).url, name)


def code_name(digest: str) -> str:
    """Name of a code snapshot within the run root."""
    return f"code/{digest}.zip"


def corpora_name(digest: str) -> str:
    """Name of a pin of the corpora within the run root."""
    return f"corpora/{digest}.pin"


def json_corpora_name(digest: str) -> str:
    """Name that a pin of the corpora had while it was JSON."""
    return f"corpora/{digest}.json"


def metrics_stem(attempt: int) -> str:
    """Name of an attempt's metric parts, without number and suffix."""
    return f"attempts/{attempt:04d}/metrics"


def log_stem(attempt: int, rank: int) -> str:
    """Name of a rank's log parts, without number and suffix."""
    return f"attempts/{attempt:04d}/rank-{rank:05d}"


def part_name(stem: str, number: int, suffix: str) -> str:
    """Name of a part within the run root; an attempt numbers the parts of a stem from 0, without gaps."""
    return f"{stem}-{number:06d}.{suffix}"


def create_run(root: str, name: str, files: Mapping[str, bytes], opening: Mapping[str, Any]) -> RunRoot:
    """Make a run: its files, then the `open` entry, from which on it exists. A failure leaves nothing behind.

    Args:
        root: folder or URL under which runs lie.
        name: of the run.
        files: what is written once, by name within the run root: the spec, the code.
        opening: fields of `open` beside `root`, `name` and `files`, which it always has.

    Raises:
        AlreadyExists: a run has this name.
        SpecError: no run can have this name.
    """
    run, token = run_root(root, name), secrets.token_hex(16)
    document = json.dumps({"version": VERSION, "name": name, "run": token, "time": time.time()}).encode()
    digests = {file: _sha256(data) for file, data in {RUN: document, **files}.items()}
    fields = {"root": run.root, "name": name, "files": digests, **opening}
    try:
        run.store.create(RUN, document)
        for file, data in files.items():
            run.store.put(file, data)
        run.log.append(lambda history: Draft("open", None, fields, run=token))
    except AlreadyExists:
        raise
    except BaseException:
        with suppress(StorageError):
            if _is_only_mine(run, document):
                remove_run(run)
        raise
    return run


def _is_only_mine(run: RunRoot, document: bytes) -> bool:
    """Whether a run that could not be made is the one of this document, and nobody relies on it.

    Where no answer came it may be there all the same, or another's submission may have come first.
    """
    try:
        return run.store.get(RUN) == document and withdraw(run)
    except NotFound:
        return False
    except Fenced:  # its log does not open
        return True


def withdraw(run: RunRoot) -> bool:
    """Stop a run whose submission failed, so that none of its jobs may claim; False where somebody relies on it.

    Raises:
        Fenced: its log is empty, or another run's by now.
    """

    def make(history: History) -> Draft | None:
        failed = history.submit is None or history.submit.failed is not None
        alone = failed and not history.attempts and not history.unclaimed
        return Draft("stop", None, {"reason": "its submission failed"}) if alone else None

    return run.log.append(make) is not None


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


def commit_of(run: RunRoot, step: int | None) -> Commit:
    """The run's commit of a step; its latest where the step is None.

    Raises:
        CheckpointError: there is no such commit.
    """
    commits = run.log.refresh().commits
    found = [commit for commit in commits if step is None or commit.step == step]
    if found:
        return found[-1]
    known = ", ".join(str(commit.step) for commit in commits) or "none"
    wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
    raise CheckpointError(
        Fault(run.url, f"{wanted} is asked for, known are {known}", "name one of them or train first")
    )
