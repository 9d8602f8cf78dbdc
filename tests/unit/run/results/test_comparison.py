"""Where two runs part."""

import json
import math

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.cli.diff import command
from gmml_cluster.run import protocol
from gmml_cluster.run.results.comparison import UNPROMISED, Parting, parting
from gmml_cluster.run.root import SPEC, create_run, metrics_stem
from gmml_cluster.spec.loading.validate import parse_job, to_yaml

JOB = {
    "name": "x",
    "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4},
    "method": {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    "data": {"corpora": [{"url": "/corpus"}], "image_size": 32},
    "batch": {"size": 64},
    "run": {"steps": 10},
}


def line(step, loss, **fields):
    return {"step": step, "loss": loss, "lr": 0.1, "attempt": 1, **fields}


def test_the_first_step_that_differs_is_named_with_both_values():
    one = [line(step, 1.0 / (step + 1)) for step in range(6)]
    last_bit = math.nextafter(0.25, 1)
    other = [*one[:3], line(3, last_bit, attempt=2), line(4, 9.0, attempt=2)]
    assert parting(one, other) == Parting(3, {"loss": (0.25, last_bit)}, (1, 2))
    assert parting(one, one) is None


def test_times_and_attempts_are_not_compared_and_a_loss_that_is_not_finite_is():
    one = [line(0, None, **dict.fromkeys(UNPROMISED, 1))]
    assert parting(one, [line(0, None, **dict.fromkeys(UNPROMISED, 2))]) is None
    assert parting(one, [line(0, 0.5)]).fields == {"loss": (None, 0.5)}


def test_steps_and_figures_that_only_one_has_are_not_compared():
    one, other = [line(0, 1.0, masked=0.5), line(1, 2.0)], [line(0, 1.0), line(2, 3.0)]
    assert parting(one, other) is None


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.data())
def test_the_one_step_that_was_changed_is_found(losses, data):
    at = data.draw(st.integers(0, len(losses) - 1))
    changed = [line(step, loss) for step, loss in enumerate(losses)]
    changed[at] = line(at, losses[at], lr=0.2)
    assert parting([line(step, loss) for step, loss in enumerate(losses)], changed) == Parting(
        at, {"lr": (0.1, 0.2)}, (1, 1)
    )


def made(root, name, losses, corpora="c", **changes):
    run = create_run(str(root), name, {SPEC: to_yaml(parse_job({**JOB, **changes, "name": name})).encode()}, {})
    token = protocol.submit(run.log, launcher="local", code="0" * 64, bounds={})
    number = protocol.claim(run.log, submit=token, job="1", restart=0, topology={"ranks": 2}, machine={}).attempt
    protocol.begin(run.log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
    protocol.pin(run.log, number, {"corpora": corpora, "layout": {}, "steps": 10, "decoder": "d"})
    text = "\n".join(json.dumps(line(step, loss)) for step, loss in enumerate(losses))
    run.store.put(f"{metrics_stem(number)}-000000.jsonl", text.encode())


@pytest.fixture
def diff(tmp_path):
    def run(*arguments, code):
        done = CliRunner().invoke(command, [*arguments, "--root", str(tmp_path)], standalone_mode=False)
        assert done.return_value == code, done.output
        return done.output

    return run


def test_the_command_says_where_two_runs_part_and_what_of_their_specs_differs(tmp_path, diff):
    made(tmp_path, "one", [1.0, 0.5, 0.25])
    made(tmp_path, "two", [1.0, 0.5, 0.125, 0.0], corpora="d", seed=7, checkpoint={"keep": 5})
    first, *rest = diff("one", "two", code=1).splitlines()
    assert first == "they part at step 2, of 3 steps compared; 1 step of the second alone"
    assert "  loss: 0.25 | 0.125" in rest
    assert "spec seed: 0 | 7" in rest
    assert "spec checkpoint.keep: 3 | 5" in rest
    assert "corpora: c | d" in rest
    assert "topology: ranks 2, micro 8 (attempt 1)" in rest
    document = json.loads(diff("one", "two", "--json", code=1))
    assert document["parts"] == {"step": 2, "attempts": [1, 1], "fields": {"loss": [0.25, 0.125]}}
    assert document["spec"] == {"seed": [0, 7], "checkpoint.keep": [3, 5]}


def test_equal_runs_exit_with_0_and_runs_without_a_common_step_with_1(tmp_path, diff):
    made(tmp_path, "one", [1.0, 0.5])
    made(tmp_path, "two", [1.0])
    made(tmp_path, "none", [])
    assert diff("one", "two", code=0).startswith("equal over 1 step; 1 step of the first alone\nspec: equal")
    assert "nothing to compare" in diff("one", "none", code=1)
