"""Which checkpoint an attempt resumes from: rank 0 proposes, every rank checks its share, and all load the same one."""

from dataclasses import asdict, dataclass
from typing import Any

from gmml_cluster.errors import CheckpointError
from gmml_cluster.run import protocol
from gmml_cluster.run.history import Commit
from gmml_cluster.run.root import RunRoot
from gmml_cluster.train.checkpoints.read import CheckpointReader
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.gradients import SKIPS_LATCH
from gmml_cluster.train.ranks.rendezvous import START_S, KeyValueStore, RankInfo


@dataclass(frozen=True)
class Peers:
    """A run, and this rank among those of an attempt."""

    run: RunRoot
    rank_info: RankInfo
    kv: KeyValueStore


def load(peers: Peers, claim: protocol.Claim | None, engine: Engine) -> tuple[Commit | None, dict[str, Any]]:
    """Load the latest commit that is not damaged. A collective.

    All ranks have checked it, each its share of the files, before the first weight is set: a rank that found damage
    halfway would leave an engine that is partly of one checkpoint and partly of another.

    Args:
        claim: rank 0's; None on the other ranks, which follow rank 0.

    Returns:
        The commit and its manifest; None and the state of a fresh start where there is no commit.

    Raises:
        CheckpointError: there are commits, and every one is damaged.
        Fenced: a later attempt has claimed.
    """
    checked = _Checked(peers)
    commit = _propose(peers, claim, checked) if claim is not None else _follow(peers, checked)
    if commit is None:
        return None, {"adam_step": 0, "skipped_steps": [], "skips_in_a_row": 0, "bad": [], "unchecked": 0}
    reader = checked.reader(commit)
    engine.load(reader.read)
    engine.set_adam_step(reader.manifest["adam_step"])
    skips = skips_to_resume(reader.manifest["skips_in_a_row"])
    engine.skips_in_a_row.fill_(skips)
    return commit, {**reader.manifest, "skips_in_a_row": skips}


def skips_to_resume(skips: int) -> int:
    """The count of skips in a row to start from: resuming a run that ended `not_finite` gives it three more tries."""
    return skips if skips < SKIPS_LATCH else 0


class _Checked:
    """This rank's check of its share of the checkpoints that are proposed; keeps what it read of the last one."""

    def __init__(self, peers: Peers) -> None:
        self._store, self._info = peers.run.store, peers.rank_info
        self._last: tuple[Commit, CheckpointReader] | None = None

    def fault(self, commit: Commit) -> str:
        """What is wrong with this rank's share of a checkpoint; empty where nothing is."""
        self._last = None  # before the next is read: two would not fit into memory
        try:
            self.reader(commit).verify(self._info.rank, self._info.ranks)
        except CheckpointError as error:
            return str(error)
        return ""

    def reader(self, commit: Commit) -> CheckpointReader:
        """Reads the checkpoint; with this rank's share in memory where it was the last that was checked."""
        if self._last is None or self._last[0] != commit:
            self._last = commit, CheckpointReader(self._store, commit.folder, commit.manifest)
        return self._last[1]


def _propose(peers: Peers, claim: protocol.Claim, checked: _Checked) -> Commit | None:
    """Rank 0: propose commits to the others, the latest first, until no rank finds a fault."""
    rounds = iter(range(len(claim.commits) + 1))

    def check(commit: Commit) -> None:
        number = next(rounds)
        peers.kv.set(f"resume/{number}", {"verify": asdict(commit)})
        faults = [checked.fault(commit)]
        others = range(1, peers.rank_info.ranks)
        faults += [peers.kv.wait(f"verified/{number}/{rank}", timeout_s=START_S) for rank in others]
        for fault in filter(None, faults):
            raise CheckpointError(fault)

    commit = protocol.resume(peers.run.log, claim, check)
    peers.kv.set(f"resume/{next(rounds)}", {"take": None if commit is None else asdict(commit)})
    return commit


def _follow(peers: Peers, checked: _Checked) -> Commit | None:
    """The other ranks: check what rank 0 proposes, until it says which commit to take."""
    number = 0
    while "take" not in (message := peers.kv.wait(f"resume/{number}", timeout_s=START_S)):
        fault = checked.fault(Commit(**message["verify"]))
        peers.kv.set(f"verified/{number}/{peers.rank_info.rank}", fault)
        number += 1
    return None if message["take"] is None else Commit(**message["take"])
