"""A method or an encoder with a commit's weights, of a live run as well."""

import pytest
import torch

from gmml_cluster.errors import CheckpointError
from gmml_cluster.methods.build import build
from gmml_cluster.run import protocol
from gmml_cluster.run.folders import checkpoint_folder
from gmml_cluster.run.root import SPEC, create_run, run_root
from gmml_cluster.run.saving.retention import retire
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from gmml_cluster.train.checkpoints.load_trained import load_trained
from gmml_cluster.train.checkpoints.read import CheckpointReader
from gmml_cluster.train.engines.slices import Slice
from tests.unit.train.checkpoints.test_save import save

JOB = parse_job(
    {
        "name": "live",
        "model": {"width": 8, "depth": 1, "heads": 1, "patch_size": 4},
        "method": {"name": "gmml", "views": 1},
        "data": {"corpora": [{"url": "x"}], "image_size": 16, "group": 4},
        "batch": {"size": 8},
        "run": {"steps": 10},
    }
)


class LiveRun:
    """A run of one attempt that commits weights which all are its step, and keeps one commit."""

    def __init__(self, folder):
        self.folder = folder
        self.run = create_run(str(folder), "live", {SPEC: to_yaml(JOB).encode()}, {})
        token = protocol.submit(self.run.log, launcher="local", code="c", bounds={})
        self.attempt = protocol.claim(self.run.log, submit=token, job="1", restart=0, topology={}, machine={}).attempt

    def commit(self, step):
        state = build(JOB).module.state_dict()
        whole = [
            Slice(n, tuple(w.shape), 0, {"value": torch.full((w.numel(),), float(step))}) for n, w in state.items()
        ]
        _, saved = save(self.folder / "live", [whole], step=step)
        (self.folder / "live" / saved.folder).rename(self.folder / "live" / checkpoint_folder(step, self.attempt))
        protocol.commit(self.run.log, self.attempt, step=step, manifest=saved.manifest_sha256, size=1, seconds=1.0)
        retire(self.run.store, self.run.log, self.attempt, keep=1, keep_every=None)


@pytest.fixture
def live(tmp_path):
    run = LiveRun(tmp_path)
    run.commit(3)
    return run


def go_on_at_the_first_read(live, monkeypatch):
    """Let the run make its next commit, and drop the one before, once a first tensor was read."""
    real, steps = CheckpointReader.tensor, iter([4])

    def tensor(self, name):
        found = real(self, name)
        for step in steps:
            live.commit(step)
            self._cache.clear()
        return found

    monkeypatch.setattr(CheckpointReader, "tensor", tensor)


def test_of_a_commit_that_is_dropped_while_it_is_read_all_weights_are_of_the_latest_instead(live, monkeypatch):
    go_on_at_the_first_read(live, monkeypatch)
    trained = load_trained(str(live.folder), "live")
    assert trained.step == 4
    assert all(bool((tensor == 4).all()) for tensor in trained.method.module.state_dict().values())


def test_a_step_that_was_asked_for_is_not_replaced_by_another(live, monkeypatch):
    go_on_at_the_first_read(live, monkeypatch)
    with pytest.raises(CheckpointError, match="is missing"):
        load_trained(str(live.folder), "live", step=3)


def test_a_missing_file_of_a_commit_that_was_not_dropped_is_damage(live):
    run = run_root(str(live.folder), "live")
    (commit,) = run.log.refresh().commits
    run.store.delete([f"{commit.folder}/rank-00000.safetensors"])
    with pytest.raises(CheckpointError, match="is missing; the checkpoint is damaged"):
        load_trained(str(live.folder), "live")
