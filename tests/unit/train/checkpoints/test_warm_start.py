"""What a fresh start takes from another run's commit or a file: by name and shape, or it is refused."""

import hashlib
import logging

import pytest
import torch

from gmml_cluster.errors import CheckpointError, StorageError
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.models.regrid import on_grid
from gmml_cluster.models.vit import sincos_positions
from gmml_cluster.run import protocol
from gmml_cluster.run.folders import checkpoint_folder
from gmml_cluster.run.root import SPEC, create_run
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from gmml_cluster.train.checkpoints.load_trained import load_encoder
from gmml_cluster.train.checkpoints.resume import Peers
from gmml_cluster.train.checkpoints.warm_start import take_init, taken
from gmml_cluster.train.engines.slices import Slice, saved_shapes
from gmml_cluster.train.ranks.rendezvous import RankInfo
from tests.unit.train.checkpoints.test_load_encoder import METHODS, saved_run
from tests.unit.train.checkpoints.test_save import SharedStore, save

NEEDED = {"encoder.norm.bias": (4,), "head.bias": (2,)}
JOB = {
    "name": "first",
    "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4},
    "method": {"name": "gmml"},
    "data": {"corpora": [{"url": "x"}], "image_size": 32, "group": 8},
    "batch": {"size": 64},
    "run": {"steps": 10},
}


def test_the_same_method_takes_every_tensor():
    assert taken(NEEDED, {**NEEDED, "more": (1,)}, None) == {name: name for name in NEEDED}


def test_another_method_takes_the_encoder_alone():
    held = {"encoder.norm.bias": (4,), "head.bias": (3,)}
    assert taken(NEEDED, held, {}) == {"encoder.norm.bias": "encoder.norm.bias"}


def test_a_teacher_of_another_method_begins_equal_to_its_student():
    needed = {**NEEDED, "teacher.norm.bias": (4,)}
    names = taken(needed, {"encoder.norm.bias": (4,)}, {"teacher.norm.bias": "encoder.norm.bias"})
    assert names == {"encoder.norm.bias": "encoder.norm.bias", "teacher.norm.bias": "encoder.norm.bias"}


def test_another_method_takes_the_encoder_that_the_run_yields():
    held = {"encoder.norm.bias": (4,), "teacher.encoder.norm.bias": (4,)}
    assert taken(NEEDED, held, {}, "teacher.encoder.") == {"encoder.norm.bias": "teacher.encoder.norm.bias"}


def test_every_tensor_that_disagrees_is_named_with_both_shapes():
    with pytest.raises(CheckpointError) as refused:
        taken(NEEDED, {"encoder.norm.bias": (5,)}, None)
    message = "tensors: 2 of 2 disagree: encoder.norm.bias [4] (there [5]), head.bias [2] (not there); "
    assert str(refused.value).startswith(message)


def test_many_that_disagree_are_counted():
    with pytest.raises(CheckpointError, match=r"tensors: 9 of 9 disagree: .* and 4 more;"):
        taken({f"t{i}": (1,) for i in range(9)}, {}, None)


class FakeEngine:
    """Takes what it is given of its tensors' keys."""

    shapes = NEEDED

    def load(self, read):
        keys = [(name, key) for name in self.shapes for key in ("value", "exp_avg")]
        given = {key: read(*key, 0, self.shapes[key[0]][0]) for key in keys}
        self.got = {key: tensor.tolist() for key, tensor in given.items() if tensor is not None}

    def set_adam_step(self, step):
        self.adam_step = step


@pytest.fixture
def source(tmp_path):
    """A run with one commit, of step 7: weights 0, 1, 2, ... and their negatives as moments."""
    return committed(tmp_path, JOB)


def committed(tmp_path, job):
    run = create_run(str(tmp_path), "first", {SPEC: to_yaml(parse_job(job)).encode()}, {})
    token = protocol.submit(run.log, launcher="local", code="c", bounds={})
    claim = protocol.claim(run.log, submit=token, job="1", restart=0, topology={}, machine={})
    weights = {name: torch.arange(float(shape[0])) for name, shape in NEEDED.items()}
    whole = [Slice(n, tuple(w.shape), 0, {"value": w, "exp_avg": -w}) for n, w in weights.items()]
    _, saved = save(tmp_path / "first", [whole])
    (tmp_path / "first" / saved.folder).rename(tmp_path / "first" / checkpoint_folder(7, claim.attempt))
    protocol.commit(run.log, claim.attempt, step=7, manifest=saved.manifest_sha256, size=1, seconds=1.0)
    return run


def started(source, what, method="gmml"):
    engine = FakeEngine()
    peers = Peers(source, RankInfo(0, 1, 0, 1), SharedStore())
    job = parse_job({**JOB, "method": {"name": method}, "init": {"run": source.url, "step": 7, "what": what}})
    take_init(peers, job, blank(Setting.of(job)), engine)
    return engine


def test_weights_leave_moments_and_adams_step_alone(source):
    engine = started(source, "weights")
    assert engine.got == {("encoder.norm.bias", "value"): [0, 1, 2, 3], ("head.bias", "value"): [0, 1]}
    assert not hasattr(engine, "adam_step")


def test_all_takes_moments_and_adams_step_too(source):
    engine = started(source, "all")
    assert engine.got[("encoder.norm.bias", "exp_avg")] == [0, -1, -2, -3]
    assert len(engine.got) == 4
    assert engine.adam_step == 5


def test_of_another_method_the_encoders_weights_are_read_alone(source):
    assert list(started(source, "weights", method="mae").got) == [("encoder.norm.bias", "value")]


def test_a_commit_that_was_dropped_meanwhile_is_reported_with_what_to_do(source):
    (claimed,) = source.log.refresh().commits
    protocol.drop(source.log, claimed.attempt, claimed)
    with pytest.raises(CheckpointError, match=r"init: .* known are none.*; if first dropped it meanwhile, gmml rm"):
        started(source, "weights")


def test_files_that_go_while_they_are_read_are_reported_with_what_to_do(source):
    (claimed,) = source.log.refresh().commits
    source.store.delete([f"{claimed.folder}/rank-00000.safetensors"])
    with pytest.raises(CheckpointError, match=r"init: .*is missing.*; if first dropped it meanwhile"):
        started(source, "weights")


def test_the_encoder_alone_is_taken_of_the_same_method_too(source):
    assert list(started(source, "encoder").got) == [("encoder.norm.bias", "value")]


def test_fixed_positions_that_are_trained_here_begin_as_they_were_there(tmp_path, monkeypatch):
    """MAE computes its positions and saves none; a fine-tuned encoder has them as a parameter."""
    source = committed(tmp_path, {**JOB, "method": {"name": "mae"}})
    monkeypatch.setattr(FakeEngine, "shapes", {"encoder.norm.bias": (4,), "encoder.pos_embed": (1, 65, 32)})
    engine = FakeEngine()
    engine.load = lambda read: setattr(engine, "got", read("encoder.pos_embed", "value", 32, 64))
    job = parse_job({**JOB, "init": {"run": source.url, "step": 7}})
    take_init(Peers(source, RankInfo(0, 1, 0, 1), SharedStore()), job, blank(Setting.of(job)), engine)
    assert torch.equal(engine.got, sincos_positions(32, 8).float().flatten()[32:96])


def test_positions_begin_at_zero_where_the_other_encoder_has_none(tmp_path, monkeypatch):
    """So the encoder that begins here computes what RelViT's does, at any size of images."""
    source = committed(tmp_path, {**JOB, "method": {"name": "relvit"}})
    monkeypatch.setattr(FakeEngine, "shapes", {"encoder.norm.bias": (4,), "encoder.pos_embed": (1, 17, 32)})
    engine = FakeEngine()
    engine.load = lambda read: setattr(engine, "got", read("encoder.pos_embed", "value", 32, 64))
    job = parse_job({**JOB, "init": {"run": source.url, "step": 7}})
    take_init(Peers(source, RankInfo(0, 1, 0, 1), SharedStore()), job, blank(Setting.of(job)), engine)
    assert torch.equal(engine.got, torch.zeros(64))


class WholeEngine(FakeEngine):
    """Keeps the values that it is given of a whole module, in ranges of 100 elements."""

    def __init__(self, module):
        self.shapes = saved_shapes(module)

    def load(self, read):
        self.got = {}
        for name, shape in self.shapes.items():
            total = torch.Size(shape).numel()
            parts = [read(name, "value", start, min(100, total - start)) for start in range(0, total, 100)]
            if parts[0] is not None:
                self.got[name] = torch.cat(parts).reshape(shape)
            assert read(name, "exp_avg", 0, 1) is None


def begun_from(path, **changes):
    """The engine of a job that begins from this file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    job = parse_job({**JOB, "init": {"url": str(path), "sha256": digest}, **changes})
    method = blank(Setting.of(job))
    engine = WholeEngine(method.module)
    take_init(Peers(None, RankInfo(0, 1, 0, 1), SharedStore()), job, method, engine)
    return engine


@pytest.fixture
def trained(tmp_path):
    """An encoder that another training left, and the file with it."""
    encoder = build(parse_job({**JOB, "seed": 5})).module.encoder
    torch.save({"model": {**encoder.state_dict(), "head.weight": torch.ones(3)}, "epoch": 3}, tmp_path / "vit.pth")
    return encoder, tmp_path / "vit.pth"


def test_a_files_encoder_is_taken_to_the_bit_and_what_is_left_is_logged(trained, caplog):
    encoder, path = trained
    with caplog.at_level(logging.INFO):
        engine = begun_from(path)
    expected = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    assert engine.got.keys() == expected.keys()
    assert all(torch.equal(engine.got[name], value) for name, value in expected.items())
    assert f"init: {path}: 30 of 31 tensors taken; left out: head, epoch" in caplog.text


def test_a_teacher_begins_equal_to_the_files_encoder(tmp_path):
    spec = {"method": {"name": "ijepa"}, "model": {**JOB["model"], "drop_path": 0}}
    encoder = build(parse_job({**JOB, **spec})).module.encoder
    torch.save(encoder.state_dict(), tmp_path / "vit.pth")
    engine = begun_from(tmp_path / "vit.pth", **spec)
    teachers = {name for name in engine.got if not name.startswith("encoder.")}
    assert len(teachers) == len(engine.got) / 2
    for name in teachers:
        assert torch.equal(engine.got[name], encoder.state_dict()[name.split("encoder.")[-1].removeprefix("teacher.")])


def test_a_file_that_changed_after_the_submission_is_refused(trained, monkeypatch):
    _, path = trained
    monkeypatch.setattr("gmml_cluster.store.verified.sleep", lambda seconds: None)
    job = parse_job({**JOB, "init": {"url": str(path), "sha256": "0" * 64}})
    method = blank(Setting.of(job))
    with pytest.raises(StorageError, match=r"vit.pth: has SHA-256 .*, but 000000000000\.\.\. was submitted"):
        take_init(Peers(None, RankInfo(0, 1, 0, 1), SharedStore()), job, method, WholeEngine(method.module))


def test_a_file_of_another_size_is_refused_with_file_and_shapes(trained):
    model = {**JOB["model"], "depth": 3}
    with pytest.raises(CheckpointError, match=r"^init: .*vit.pth: tensors: 12 missing: encoder.blocks.2.norm1.weight"):
        begun_from(trained[1], model=model)


def begun(source, method, image_size, what="weights"):
    """What a job at some image size takes of a run, and what that run's encoder has."""
    theirs = source.job({})
    job = parse_job(
        {
            **JOB,
            "model": theirs.model.model_dump(exclude={"size"}),
            "method": method,
            "data": {**JOB["data"], "image_size": image_size},
            "init": {"run": source.url, "step": 3, "what": what},
        }
    )
    made = blank(Setting.of(job))
    engine = WholeEngine(made.module)
    take_init(Peers(source, RankInfo(0, 1, 0, 1), SharedStore()), job, made, engine)
    return engine.got, load_encoder(source).state_dict()


FINETUNE = {"name": "finetune", "classes": 5}


@pytest.mark.parametrize("method", [FINETUNE, METHODS["gmml"]], ids=["another method", "the same"])
def test_learned_positions_go_to_another_grid(tmp_path, method):
    got, theirs = begun(saved_run(tmp_path, "gmml"), method, 32)
    for name, value in theirs.items():
        assert torch.equal(got[f"encoder.{name}"], on_grid(name, value, tuple(got[f"encoder.{name}"].shape)))
    assert got["encoder.pos_embed"].shape == (1, 65, 8)
    assert not torch.equal(got["encoder.pos_embed"][:, 1:17], theirs["pos_embed"][:, 1:])


def test_fixed_positions_are_those_of_the_grid_here(tmp_path):
    got, theirs = begun(saved_run(tmp_path, "mae"), FINETUNE, 32)
    assert torch.equal(got["encoder.pos_embed"], sincos_positions(8, 8).float())
    assert torch.equal(got["encoder.norm.bias"], theirs["norm.bias"])


@pytest.mark.parametrize("image_size", [16, 32])
def test_capis_teacher_is_what_a_probe_begins_from(tmp_path, image_size):
    probe = {"name": "attentive", "classes": 5, "queries": 4, "encoder": {"rotary": {"registers": 4}}}
    got, theirs = begun(saved_run(tmp_path, "capi"), probe, image_size)
    assert got.keys() == {f"encoder.{name}" for name in theirs}
    assert all(torch.equal(got[f"encoder.{name}"], value) for name, value in theirs.items())
