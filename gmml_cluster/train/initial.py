"""A fresh start from another run's commit, as a job's `init` asks; each rank reads just the ranges that it holds."""

from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from gmml_cluster.errors import CheckpointError
from gmml_cluster.run.history import Commit
from gmml_cluster.run.root import RunRoot, commit_of, run_at
from gmml_cluster.spec.job import Init
from gmml_cluster.train.engine import Engine
from gmml_cluster.train.rendezvous import START_S
from gmml_cluster.train.restore import Reader
from gmml_cluster.train.resuming import Peers
from gmml_cluster.train.slices import VALUE

ENCODER = "encoder."
_LISTED = 5

Shapes = Mapping[str, tuple[int, ...]]


def take_init(peers: Peers, init: Init, method: str, engine: Engine) -> None:
    """Take the weights of another run's commit, and with `all` AdamW's moments and step count. A collective.

    Args:
        method: name of this run's method.

    Raises:
        CheckpointError: the commit is gone or damaged, or does not hold what this run's module needs.
    """
    source = run_at(init.run)
    try:
        _take(source, _agreed(peers, source, init), init, method, engine)
    except CheckpointError as error:
        cure = f"if {source.name} dropped it meanwhile, gmml rm {peers.run.name} and submit with a step that it keeps"
        raise CheckpointError(f"init: {error}; {cure}") from error


def _agreed(peers: Peers, source: RunRoot, init: Init) -> Commit:
    """The commit that rank 0 finds, on every rank."""
    if peers.place.rank == 0:
        peers.board.set("init", asdict(commit_of(source, init.step)))
    return Commit(**peers.board.wait("init", timeout_s=START_S))


def _take(source: RunRoot, commit: Commit, init: Init, method: str, engine: Engine) -> None:
    reader = Reader(source.store, commit.folder, commit.manifest)
    alike = source.job({}).method.name == method
    names = taken(engine.shapes, reader.shapes, same_method=alike)

    def read(name: str, key: str, start: int, numel: int) -> Tensor | None:
        wanted = name in names and (key == VALUE or init.what == "all")
        return reader.read(name, key, start, numel) if wanted else None

    engine.load(read)
    if init.what == "all":
        engine.set_adam_step(reader.manifest["adam_step"])


def taken(needed: Shapes, held: Shapes, *, same_method: bool) -> frozenset[str]:
    """Names of the tensors to take: all that the module needs, or of another method's run those of the encoder.

    Args:
        needed: shapes of the module's tensors.
        held: shapes in the checkpoint.

    Raises:
        CheckpointError: one is missing, or has another shape.
    """
    names = [name for name in needed if same_method or name.startswith(ENCODER)]
    differ = [f"{name} {list(needed[name])} ({_told(held, name)})" for name in names if held.get(name) != needed[name]]
    if differ:
        more = f" and {len(differ) - _LISTED} more" if len(differ) > _LISTED else ""
        what = f"{len(differ)} of {len(names)} tensors disagree: {', '.join(differ[:_LISTED])}{more}"
        raise CheckpointError(f"{what}; names and shapes are to be equal; give the model and method of that run")
    return frozenset(names)


def _told(held: Shapes, name: str) -> str:
    return f"there {list(held[name])}" if name in held else "not there"
