"""`init` in a job file: which run and step are meant, and what is refused before anything is submitted."""

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.launch.init_source import with_source
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
            ["init={run: first, what: all}", "method={name: mae, decoder_width: 32}"],
            "init.what: 'all' from a run of .*",
        ),
    ],
)
def test_what_cannot_be_begun_from_is_refused_by_field(tmp_path, source, overrides, message):
    with pytest.raises(SpecError, match=message) as refused:
        resolved(tmp_path, *overrides)
    assert len(refused.value.faults) == 1


def test_weights_of_another_method_are_asked_for(tmp_path, source):
    assert resolved(tmp_path, "init={run: first}", "method={name: mae, decoder_width: 32}").init.step == 7


def test_the_fault_names_file_and_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("NAME", "fork") + "init: {run: none}\n")
    (tmp_path / "here.yaml").write_text("{launcher: local, root: runs, ranks_per_node: 2}")
    with pytest.raises(SpecError, match=rf"^{path}:8: init.run: {tmp_path}/runs/none: holds no run"):
        prepare(str(path), cluster="./here.yaml")
