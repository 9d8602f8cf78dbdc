"""A first step from another run's checkpoint, as a job's `init` asks; each rank reads just the ranges that it holds."""

from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import AfterStep, Method, Setting
from gmml_cluster.run.discovery import run_at
from gmml_cluster.run.history import Commit
from gmml_cluster.run.root import RunRoot, commit_of
from gmml_cluster.spec.job import Init, JobSpec
from gmml_cluster.train.checkpoints.read import CheckpointReader
from gmml_cluster.train.checkpoints.resume import Peers
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.slices import VALUE, saved_shapes
from gmml_cluster.train.ranks.rendezvous import START_S

ENCODER = "encoder."
_LISTED = 5

Shapes = Mapping[str, tuple[int, ...]]


def take_init(peers: Peers, job: JobSpec, method: Method, engine: Engine) -> None:
    """Take the weights of another run's commit, and with `all` AdamW's moments and step count. A collective.

    Args:
        job: this run's, with an `init`.
        method: this run's.

    Raises:
        CheckpointError: the commit is gone or damaged, or does not hold what this run's module needs.
    """
    assert job.init is not None
    source = run_at(job.init.run)
    theirs = source.job({})
    whole = theirs.method.name == job.method.name and job.init.what != "encoder"
    try:
        commit = _agreed(peers, source, job.init)
        _take(source, commit, job.init, None if whole else _teachers(method), _computed(theirs), engine)
    except CheckpointError as error:
        hint = f"if {source.name} dropped it meanwhile, gmml rm {peers.run.name} and submit with a step that it keeps"
        raise CheckpointError(Fault("init", str(error), hint)) from error


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


def _computed(job: JobSpec) -> dict[str, Tensor]:
    """What a method computes from its job and so no checkpoint holds: fixed positions, which may be trained here."""
    module = blank(Setting.of(job)).module
    saved = saved_shapes(module)
    found = {name: buffer for name, buffer in module.named_buffers() if name not in saved}
    return {name: buffer.float() for name, buffer in found.items() if name.startswith(ENCODER)}


def _take(
    source: RunRoot,
    commit: Commit,
    init: Init,
    teachers: Mapping[str, str] | None,
    computed: Mapping[str, Tensor],
    engine: Engine,
) -> None:
    reader = CheckpointReader(source.store, commit.folder, commit.manifest)
    held = {**{name: tuple(value.shape) for name, value in computed.items()}, **reader.shapes}
    names = taken(engine.shapes, held, teachers)

    def read(name: str, key: str, start: int, numel: int) -> Tensor | None:
        if name not in names or not (key == VALUE or init.what == "all"):
            return None
        if names[name] in computed:
            return computed[names[name]].flatten()[start : start + numel] if key == VALUE else None
        return reader.read(names[name], key, start, numel)

    engine.load(read)
    if init.what == "all":
        engine.set_adam_step(reader.manifest["adam_step"])


def taken(needed: Shapes, held: Shapes, teachers: Mapping[str, str] | None) -> dict[str, str]:
    """For each tensor of the module that takes weights, the tensor of the checkpoint that it takes.

    From a run of the same method all do; from one of another method the encoder does, and its teacher.

    Args:
        needed: shapes of the module's tensors.
        held: shapes in the checkpoint.
        teachers: tensors that follow others; None where the checkpoint is of the same method.

    Raises:
        CheckpointError: one is missing, or has another shape.
    """
    names = {name: name if teachers is None else teachers.get(name, name) for name in needed}
    if teachers is not None:
        names = {name: source for name, source in names.items() if source.startswith(ENCODER)}
    differ = [
        f"{name} {list(needed[name])} ({f'there {list(held[source])}' if source in held else 'not there'})"
        for name, source in names.items()
        if held.get(source) != needed[name]
    ]
    if differ:
        more = f" and {len(differ) - _LISTED} more" if len(differ) > _LISTED else ""
        problem = f"{len(differ)} of {len(names)} disagree: {', '.join(differ[:_LISTED])}{more}"
        rule = "names and shapes must be equal"
        raise CheckpointError(Fault("tensors", f"{problem}; {rule}", "use the model and method of that run"))
    return names
