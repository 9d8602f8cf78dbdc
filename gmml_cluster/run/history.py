"""What a log says so far: an immutable value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gmml_cluster.run.folders import checkpoint_folder, maps_folder
from gmml_cluster.run.goodput import RankTimeAccount

VERSION = 14


@dataclass(frozen=True)
class Commit:
    """A checkpoint: the log has its `commit` and no `drop` of it.

    Attributes:
        manifest: SHA-256 of its `manifest.json`.
        size: bytes of all its files.
        trained_s: rank-seconds of training that it holds, of all attempts.
        save_s: how long the save took.
    """

    slot: int
    attempt: int
    step: int
    manifest: str
    size: int
    trained_s: float = 0.0
    save_s: float = 0.0

    @property
    def folder(self) -> str:
        """Its folder within the run root."""
        return checkpoint_folder(self.step, self.attempt)


@dataclass(frozen=True)
class Maps:
    """The maps of all images that a pass over the corpora made; a `map` entry (docs/reference/maps.md).

    Attributes:
        step: the first step that reads them.
        of_step, of_attempt: the commit whose weights made them.
        manifest: SHA-256 of their `manifest.json`.
        size: bytes of all its files.
    """

    slot: int
    attempt: int
    step: int
    of_step: int
    of_attempt: int
    manifest: str
    size: int

    @property
    def folder(self) -> str:
        """Their folder within the run root."""
        return maps_folder(self.of_step, self.of_attempt)


@dataclass(frozen=True)
class Submit:
    """A `submit` entry: a request, of a person or of a job that needs a successor, to start or continue the run.

    Attributes:
        launcher: which launcher took it.
        job: id that the scheduler gave; None before its `queued`.
        code: digest of the code that its attempts run.
        changed: fields outside the identity that hold for its attempts: name -> [value in spec.yaml, value now].
        bounds: what was asked for, as the launcher's profile and the job say.
        failed: message of a job that ended without a claim; None once a job of this submit has claimed.
        failed_starts: how many have since the last checkpoint.
    """

    slot: int
    token: str
    time: float
    launcher: str
    code: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, Any] = field(default_factory=dict)
    job: str | None = None
    failed: str | None = None
    failed_starts: int = 0


@dataclass(frozen=True)
class Attempt:
    """One start of the run that won a claim.

    Attributes:
        topology: what exactness depends on; its `micro` is what the job says, from `begin` on the number of images.
        first_step: the step it began with; None before its `begin`.
        last_step: the last step by its `commit` or `end`; None before the first of them.
        ended: cause in its `end`; None as long as there is none.
        resolved: cause that a later `cause` entry proved.
        details: what its `end` adds, as far as known: message, rank, host, node (that is to blame), proof, micro.
        host, nodes: where rank 0 runs and on how many nodes, by the claim.
        launcher: which took the job, as the submit that it claimed for says.
        evaluation_s: seconds that it spent on scoring its own weights, as far as the scores were kept.
    """

    number: int
    submit: str
    job: str
    restart: int
    time: float
    code: str
    topology: Mapping[str, Any] = field(default_factory=dict)
    first_step: int | None = None
    last_step: int | None = None
    ended: str | None = None
    resolved: str | None = None
    end_time: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    launcher: str = ""
    host: str = ""
    nodes: int | None = None
    evaluation_s: float = 0.0

    @property
    def cause(self) -> str | None:
        """Why it ended: what was proved, else what its `end` says; None while it has no `end`."""
        return self.resolved or self.ended


@dataclass(frozen=True)
class History:
    """The fold of the entries in slots 0 to `slots` - 1.

    Attributes:
        run: the run's token; empty before `open`.
        opened: fields of `open`.
        location: folder or URL of the run, by `open` or the last submit that found it elsewhere; empty in logs of
            earlier versions, which do not record it.
        submit: the latest.
        unclaimed: tokens of the last 20 submits that a later one replaced before any of their jobs had claimed.
        last_attempt: number of the last claim; 0 before the first.
        attempts: the last 50, oldest first; causes of the older ones are counted in `older`.
        commits: checkpoints not dropped, oldest first.
        maps: of each step that begins with new ones, steps rising; the first entry of a step counts.
        platforms: (attempt, device and versions by its claim) of the first attempt and of each that had others than the
            one before; the last 20.
        begins: (attempt, first step) of the attempts whose steps count, steps rising: an attempt that begins at a step
            removes the earlier ones that began there or after it.
        pin: fields of the first `pin`, with the `corpora` of the last `pin` that has `repinned`.
        excluded: nodes that the run avoids, and why.
        forgiven: the last attempt before a submit that took all nodes again; it and those before blame none.
        stopped: reason of the last `stop`; None once a later submit lifted it.
        gave_up: whether no person stopped it, but its `retries` were spent.
        finished: whether there is an `end finished` and no later submit.
        account: where the time of the ranks went (docs/reference/goodput.md).
    """

    slots: int = 0
    run: str = ""
    opened: Mapping[str, Any] = field(default_factory=dict)
    location: str = ""
    submit: Submit | None = None
    unclaimed: tuple[str, ...] = ()
    last_attempt: int = 0
    attempts: tuple[Attempt, ...] = ()
    older: Mapping[str, int] = field(default_factory=dict)
    commits: tuple[Commit, ...] = ()
    maps: tuple[Maps, ...] = ()
    platforms: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    begins: tuple[tuple[int, int], ...] = ()
    pin: Mapping[str, Any] | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    forgiven: int = 0
    stopped: str | None = None
    gave_up: bool = False
    finished: bool = False
    account: RankTimeAccount = field(default_factory=RankTimeAccount)

    @property
    def submitted(self) -> str | None:
        """Token of the latest submit; None before the first."""
        return self.submit.token if self.submit else None

    def attempt(self, number: int) -> Attempt | None:
        """The attempt of this number, if it is among those kept."""
        return next((attempt for attempt in self.attempts if attempt.number == number), None)

    def cut(self, attempt: int) -> int | None:
        """The first step that a later attempt made again; from it on the steps of this one do not count."""
        return next((step for number, step in self.begins if number > attempt), None)

    def to_sum(self) -> dict[str, Any]:
        """The history as JSON values, for the `sum` of an entry."""
        return {"version": VERSION, **asdict(self)}


def from_sum(values: Mapping[str, Any]) -> History | None:
    """The history that a `sum` holds; None where another version of the fold wrote it."""
    if values.get("version") != VERSION:
        return None
    fields = {name: value for name, value in values.items() if name != "version"}
    fields["submit"] = Submit(**fields["submit"]) if fields["submit"] else None
    fields["attempts"] = tuple(Attempt(**attempt) for attempt in fields["attempts"])
    fields["commits"] = tuple(Commit(**commit) for commit in fields["commits"])
    fields["maps"] = tuple(Maps(**maps) for maps in fields["maps"])
    fields["unclaimed"] = tuple(fields["unclaimed"])
    fields["platforms"] = tuple((number, platform) for number, platform in fields["platforms"])
    fields["begins"] = tuple((number, step) for number, step in fields["begins"])
    fields["account"] = RankTimeAccount(**fields["account"])
    return History(**fields)
