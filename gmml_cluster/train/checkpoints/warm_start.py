"""A first step from another run's checkpoint or from a file of weights, as a job's `init` asks.

Of a checkpoint each rank reads just the ranges that it holds; a file is read by rank 0, which sends it to the others.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import AfterStep, Method, Setting, exported_name
from gmml_cluster.models.regrid import differs_in_grid, on_grid
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.run.finding.discovery import run_at
from gmml_cluster.run.history import Commit
from gmml_cluster.run.root import RunRoot, commit_of
from gmml_cluster.spec.job import Init, JobSpec
from gmml_cluster.store.file import read_file
from gmml_cluster.train.checkpoints.public_names import ENCODER, listed, translated
from gmml_cluster.train.checkpoints.read import CheckpointReader
from gmml_cluster.train.checkpoints.resume import Peers
from gmml_cluster.train.checkpoints.weight_file import read_weights
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.slices import VALUE, saved_shapes
from gmml_cluster.train.ranks.rendezvous import START_S

_POSITIONS = "encoder.pos_embed"
_LISTED = 5

Shapes = Mapping[str, tuple[int, ...]]

_log = logging.getLogger(__name__)


def take_init(peers: Peers, job: JobSpec, method: Method, engine: Engine) -> None:
    """Take the weights of another run's commit or of a file. A collective.

    Args:
        job: this run's, with an `init`.
        method: this run's.

    Raises:
        CheckpointError: the commit or file is gone or damaged, or does not hold what this run's module needs.
        StorageError: the file is not the one that was submitted.
    """
    assert job.init is not None
    if job.init.url is None:
        _take_of_run(peers, job, job.init, method, engine)
    else:
        _take_of_file(peers, job, job.init, method, engine)


def _take_of_run(peers: Peers, job: JobSpec, init: Init, method: Method, engine: Engine) -> None:
    """Take weights, and with `all` AdamW's moments and step count."""
    assert init.run is not None
    source = run_at(init.run)
    theirs = source.job({})
    whole = theirs.method.name == job.method.name and init.what != "encoder"
    try:
        commit = _agreed(peers, source, init)
        held = Held(None, {}) if whole else _held(theirs, _teachers(method), engine.shapes)
        _take(source, commit, init, held, engine)
    except CheckpointError as error:
        hint = f"if {source.name} dropped it meanwhile, gmml rm {peers.run.name} and submit with a step that it keeps"
        raise CheckpointError(Fault("init", str(error), hint)) from error


def _take_of_file(peers: Peers, job: JobSpec, init: Init, method: Method, engine: Engine) -> None:
    teachers = _teachers(method)
    read = _of_file(job, init, engine.shapes) if peers.rank_info.rank == 0 else {}
    if peers.rank_info.rank == 0:
        peers.kv.set("init", list(read))
    # the names are set once all is read and found to fit, so that no rank waits in a broadcast for one that has failed
    names = peers.kv.wait("init", timeout_s=START_S)
    held = {name: _sent(read.get(name), name, peers, engine) for name in names}

    def of_held(name: str, key: str, start: int, numel: int) -> Tensor | None:
        value = held.get(teachers.get(name, name))
        return None if value is None or key != VALUE else value.flatten()[start : start + numel]

    engine.load(of_held)


def _of_file(job: JobSpec, init: Init, needed: Shapes) -> dict[str, Tensor]:
    """What a file has for this job's module, by the module's names."""
    assert init.url is not None
    assert init.sha256 is not None
    module = blank(Setting.of(job)).module
    computed = {name: buffer for name, buffer in module.named_buffers() if name not in needed}
    try:
        weights, beside = read_weights(init.url, read_file(init.url, init.sha256))
        taken = translated(weights, needed, computed, decoder=job.method.name == "mae" and init.what == "weights")
    except CheckpointError as error:
        problem = str(error) if str(error).startswith(init.url) else f"{init.url}: {error}"
        raise CheckpointError(Fault("init", problem)) from error
    counts = f"{len(taken.weights)} of {len(weights)} tensors taken"
    _log.info("init: %s: %s; left out: %s", init.url, counts, listed([*taken.dropped, *beside]))
    return taken.weights


def _sent(value: Tensor | None, name: str, peers: Peers, engine: Engine) -> Tensor:
    """Rank 0's tensor on every rank, on the CPU."""
    if peers.rank_info.ranks == 1:
        assert value is not None
        return value
    sent = torch.empty(engine.shapes[name]) if value is None else value
    sent = sent.to(engine.device)
    dist.broadcast(sent, 0)
    return sent.cpu()


def _agreed(peers: Peers, source: RunRoot, init: Init) -> Commit:
    """The commit that rank 0 finds, on every rank."""
    # once, by rank 0: the source may commit and drop while the ranks look, and each would find another one
    if peers.rank_info.rank == 0:
        peers.kv.set("init", asdict(commit_of(source, init.step)))
    return Commit(**peers.kv.wait("init", timeout_s=START_S))


def _teachers(method: Method) -> Mapping[str, str]:
    """Frozen tensors of a method, and the trained one that each follows and so begins equal to."""
    if not isinstance(method, AfterStep):
        return {}
    update = method.after_step(0, 1)
    return dict(zip(update.targets, update.sources, strict=True))


@dataclass(frozen=True)
class Held:
    """What is taken of a run whose encoder alone is taken, beside the tensors of its checkpoint.

    Attributes:
        teachers: tensors here that follow others; None where all tensors are taken.
        computed: what the method there computes from its job, so that no checkpoint holds it: fixed positions, which
            may be trained here; zeros where its encoder has none at all.
        encoder: name of the encoder that the method there yields, which may be a teacher's.
    """

    teachers: Mapping[str, str] | None
    computed: Mapping[str, Tensor]
    encoder: str = ENCODER


def _held(theirs: JobSpec, teachers: Mapping[str, str], needed: Shapes) -> Held:
    method = blank(Setting.of(theirs))
    encoder, saved = f"{exported_name(method)}.", saved_shapes(method.module)
    computed = {name: buffer for name, buffer in method.module.named_buffers() if name not in saved}
    of_encoder = {name: buffer.float() for name, buffer in computed.items() if name.startswith(encoder)}
    if _POSITIONS in needed and _has_no_positions(method.module.get_submodule(encoder.removesuffix("."))):
        of_encoder[f"{encoder}pos_embed"] = torch.zeros(needed[_POSITIONS])
    return Held(teachers, of_encoder, encoder)


def _has_no_positions(encoder: nn.Module) -> bool:
    """As RelViT's: with zeros for positions another encoder computes the same."""
    return isinstance(encoder, VisionTransformer) and encoder.pos_embed is None and encoder.rel_pos_bias is None


def _take(source: RunRoot, commit: Commit, init: Init, there: Held, engine: Engine) -> None:
    reader = CheckpointReader(source.store, commit.folder, commit.manifest)
    computed = dict(there.computed)
    held = {**{name: tuple(value.shape) for name, value in computed.items()}, **reader.shapes}
    names = taken(engine.shapes, held, there.teachers, there.encoder)
    for name, found in names.items():
        if held[found] != engine.shapes[name]:
            table = computed[found] if found in computed else reader.tensor(found)
            computed[found] = on_grid(name, table, engine.shapes[name])

    def read(name: str, key: str, start: int, numel: int) -> Tensor | None:
        if name not in names or not (key == VALUE or init.what == "all"):
            return None
        if names[name] in computed:
            return computed[names[name]].flatten()[start : start + numel] if key == VALUE else None
        return reader.read(names[name], key, start, numel)

    engine.load(read)
    if init.what == "all":
        engine.set_adam_step(reader.manifest["adam_step"])


def taken(needed: Shapes, held: Shapes, teachers: Mapping[str, str] | None, encoder: str = ENCODER) -> dict[str, str]:
    """For each tensor of the module that takes weights, the tensor of the checkpoint that it takes.

    From a run of the same method all do; from one of another method the encoder does, and its teacher. Positions of
    another grid are taken too, as `gmml_cluster.models.regrid` says.

    Args:
        needed: shapes of the module's tensors.
        held: shapes in the checkpoint.
        teachers: tensors that follow others; None where all tensors are taken.
        encoder: what the names of the encoder's tensors begin with in the checkpoint.

    Raises:
        CheckpointError: one is missing, or has another shape.
    """
    names = {name: name if teachers is None else teachers.get(name, name) for name in needed}
    if teachers is not None:
        inner = {name: source for name, source in names.items() if source.startswith(ENCODER)}
        names = {name: encoder + source.removeprefix(ENCODER) for name, source in inner.items()}
    differ = [
        f"{name} {list(needed[name])} ({f'there {list(held[source])}' if source in held else 'not there'})"
        for name, source in names.items()
        if source not in held or not _fits(name, held[source], needed[name])
    ]
    if differ:
        more = f" and {len(differ) - _LISTED} more" if len(differ) > _LISTED else ""
        problem = f"{len(differ)} of {len(names)} disagree: {', '.join(differ[:_LISTED])}{more}"
        rule = "names and shapes must be equal"
        raise CheckpointError(Fault("tensors", f"{problem}; {rule}", "use the model and method of that run"))
    return names


def _fits(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    return theirs == ours or differs_in_grid(name, theirs, ours)
