"""Which checkpoint an attempt goes on from: rank 0 proposes, every rank checks its share, and all load the same one."""

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
    place: RankInfo
    board: KeyValueStore


def load(peers: Peers, claim: protocol.Claim | None, engine: Engine) -> tuple[Commit | None, dict[str, Any]]:
    """Load the youngest commit that holds; all ranks have seen it whole before the first weight is set. A collective.

    Args:
        claim: rank 0's; None on the other ranks, which follow its word.

    Returns:
        The commit and its manifest; None and the state of a fresh start where there is no commit.

    Raises:
        CheckpointError: there are commits, and every one is damaged.
        Fenced: a younger attempt has claimed.
    """
    commit = _choose(peers, claim) if claim is not None else _follow(peers)
    if commit is None:
        return None, {"adam_step": 0, "skipped_steps": [], "skips_in_a_row": 0, "bad": [], "unchecked": 0}
    reader = CheckpointReader(peers.run.store, commit.folder, commit.manifest)
    engine.load(reader.read)
    engine.set_adam_step(reader.manifest["adam_step"])
    skips = skips_to_resume(reader.manifest["skips_in_a_row"])
    engine.skips_in_a_row.fill_(skips)
    return commit, {**reader.manifest, "skips_in_a_row": skips}


def skips_to_resume(skips: int) -> int:
    """Skips in a row to go on counting from: who resumes a run that ended `not_finite` gives it three more tries."""
    return skips if skips < SKIPS_LATCH else 0


def _choose(peers: Peers, claim: protocol.Claim) -> Commit | None:
    words = iter(range(len(claim.commits) + 1))

    def holds(commit: Commit) -> None:
        word = next(words)
        peers.board.set(f"resume/{word}", {"verify": _told(commit)})
        faults = [_fault(peers, commit)]
        faults += [peers.board.wait(f"holds/{word}/{peer}", timeout_s=START_S) for peer in range(1, peers.place.ranks)]
        for fault in filter(None, faults):
            raise CheckpointError(fault)

    commit = protocol.resume(peers.run.log, claim, holds)
    peers.board.set(f"resume/{next(words)}", {"take": _told(commit)})
    return commit


def _follow(peers: Peers) -> Commit | None:
    word = 0
    while "take" not in (said := peers.board.wait(f"resume/{word}", timeout_s=START_S)):
        commit = _heard(said["verify"])
        assert commit is not None
        peers.board.set(f"holds/{word}/{peers.place.rank}", _fault(peers, commit))
        word += 1
    return _heard(said["take"])


def _fault(peers: Peers, commit: Commit) -> str:
    """What is wrong with this rank's share of a checkpoint; empty where nothing is."""
    try:
        CheckpointReader(peers.run.store, commit.folder, commit.manifest).verify(peers.place.rank, peers.place.ranks)
    except CheckpointError as error:
        return str(error)
    return ""


def _told(commit: Commit | None) -> dict[str, Any] | None:
    return None if commit is None else asdict(commit)


def _heard(fields: dict[str, Any] | None) -> Commit | None:
    return None if fields is None else Commit(**fields)
