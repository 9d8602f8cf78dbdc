"""`init` in a job file: which run and step or file is meant, and what is refused before anything is submitted."""

import hashlib

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.launch.checks.init_source import with_source
from gmml_cluster.launch.prepare import prepare
from gmml_cluster.run import protocol
from gmml_cluster.run.root import SPEC, create_run
from gmml_cluster.spec.loading.validate import load_job, to_yaml

JOB = """
name: NAME
model: {width: 32, depth: 2, heads: 2, patch_size: 4}
method: {name: gmml, taps: [1, 2]}
data: {corpora: [{url: corpus, samples: 6400}], image_size: 32, group: 8}
batch: {size: 64}
run: {steps: 10}
"""


def job(tmp_path, name="fork", *overrides):
    path = tmp_path / f"{name}.yaml"
    path.write_text(JOB.replace("NAME", name))
    return load_job(path, overrides)


def made(tmp_path, spec, steps=()):
    """A run of this spec with commits."""
    run = create_run(str(tmp_path / "runs"), spec.name, {SPEC: to_yaml(spec).encode()}, {})
    token = protocol.submit(run.log, launcher="local", code="c", bounds={})
    attempt = protocol.claim(run.log, submit=token, job="1", restart=0, topology={}, machine={}).attempt
    for step in steps:
        commit(run, attempt, step)
    return run, attempt


def commit(run, attempt, step):
    protocol.commit(run.log, attempt, step=step, manifest="m", size=1, seconds=1.0)


@pytest.fixture
def source(tmp_path):
    return made(tmp_path, job(tmp_path, "first"), steps=(3, 7))


def resolved(tmp_path, *overrides):
    return with_source(job(tmp_path, "fork", *overrides), str(tmp_path / "runs"))


def test_a_name_under_the_same_root_is_written_out_and_the_latest_commit_is_taken(tmp_path, source):
    init = resolved(tmp_path, "init={run: first}").init
    assert (init.run, init.step, init.what) == (f"{tmp_path}/runs/first", 7, "weights")


def test_a_folder_and_an_older_step_may_be_named(tmp_path, source):
    assert resolved(tmp_path, f"init={{run: {tmp_path}/runs/first/, step: 3}}").init.step == 3


def test_the_step_stays_what_it_was_at_the_first_submission_even_without_the_other_run(tmp_path, source):
    first = resolved(tmp_path, "init={run: first}")
    made(tmp_path, first)
    commit(*source, 9)
    assert resolved(tmp_path, "init={run: first}") == first
    (tmp_path / "runs" / "first").rename(tmp_path / "elsewhere")
    assert resolved(tmp_path, "init={run: first}") == first
    assert resolved(tmp_path, "init={run: first, step: 9}").init.step == 9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init={run: none}"], "init.run: .*/runs/none: holds no run"),
        (["init={run: first, step: 4}"], "init.step: .*a checkpoint of step 4 is asked for, known are 3, 7"),
        (["init={run: first}", "model.depth=4", "method.taps=null"], "model.depth: 4, but .* has 2"),
        (
            ["init={run: first, what: all}", "method={name: relvit, position_embeddings: true}"],
            "init.what: 'all' from a run of .*",
        ),
        (
            ["init={run: first}", "method={name: mae, decoder_width: 32}"],
            "init.run: .*/first was trained by gmml, whose encoder has learned positions and a class token; that of",
        ),
        (
            ["init={run: first, what: all}", "data.image_size=64"],
            "init.what: 'all' from a grid of 8 patches a side to one of 16; positions are .*; write weights",
        ),
        (["init={run: first}", "model.heads=4"], "model.heads: 4, but .* has 2; init takes whole tensors"),
        (
            ["init={run: first}", "method={name: linear, classes: 10, encoder: {positions: none}}"],
            "method.encoder: {positions: none}, but that of .*/first is a plain one; leave it out",
        ),
    ],
)
def test_what_cannot_be_begun_from_is_refused_by_field(tmp_path, source, overrides, message):
    with pytest.raises(SpecError, match=message) as refused:
        resolved(tmp_path, *overrides)
    assert len(refused.value.faults) == 1


def test_weights_of_another_method_are_asked_for(tmp_path, source):
    assert resolved(tmp_path, "init={run: first}", "method={name: finetune, classes: 5}").init.step == 7


def test_the_fault_names_file_and_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("NAME", "fork") + "init: {run: none}\n")
    (tmp_path / "here.yaml").write_text("{launcher: local, root: runs, ranks_per_node: 2}")
    with pytest.raises(SpecError, match=rf"^{path}:8: init.run: {tmp_path}/runs/none: holds no run"):
        prepare(str(path), cluster="./here.yaml")


WEIGHTS = b"not read here, only hashed"
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "vit.pth"
    path.write_bytes(WEIGHTS)
    return path


def test_a_file_is_fixed_by_its_sha256(tmp_path, weights, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in (weights, "files/vit.pth", "./files", f"{tmp_path}/files/"):
        init = resolved(tmp_path, f"init={{url: {url}}}").init
        assert (init.url, init.sha256, init.run, init.step, init.what) == (str(weights), DIGEST, None, None, "weights")


def test_the_digest_stays_what_it_was_at_the_first_submission_even_without_the_file(tmp_path, weights):
    first = resolved(tmp_path, f"init={{url: {weights}}}")
    made(tmp_path, first)
    weights.write_bytes(b"another")
    assert resolved(tmp_path, f"init={{url: {weights}}}") == first
    weights.unlink()
    assert resolved(tmp_path, f"init={{url: {weights.parent}}}") == first
    other = resolved(tmp_path, f"init={{url: {weights}, sha256: {'a' * 64}}}").init
    assert other.sha256 == "a" * 64


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("{url: files/none.pth}", "^init.url: .*/files/none.pth does not exist"),
        ("{url: nowhere}", "^init.url: .*/nowhere holds 0 files that end in .safetensors, .pth, .pt; one is needed"),
        (f"{{url: files/vit.pth, sha256: {'a' * 64}}}", f"^init.sha256: a*, but .*/vit.pth has {DIGEST}"),
    ],
)
def test_a_file_that_is_not_there_is_refused_by_field(tmp_path, weights, monkeypatch, override, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=message):
        resolved(tmp_path, f"init={override}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("{run: first, url: x.pth}", "init: run and url given; give exactly one"),
        ("{what: encoder}", "init: neither run nor url given; give exactly one"),
        ("{url: x.pth, step: 3}", "init: step given beside url; a file has neither steps nor moments"),
        ("{url: x.pth, what: all}", "init: what: all given beside url"),
        (f"{{run: first, sha256: {'a' * 64}}}", "init: sha256 given; a run's commits have digests of their own"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, override, message):
    with pytest.raises(SpecError, match=message):
        job(tmp_path, "fork", f"init={override}")
