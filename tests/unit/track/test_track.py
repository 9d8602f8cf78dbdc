"""Curves on their way to trackers: each step once, whatever became of the processes that sent them."""

import json
import subprocess
import sys

import pytest
import requests
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmml_cluster.run import protocol
from gmml_cluster.run.log import Draft
from gmml_cluster.run.root import RUN, SPEC, create_run, metrics_stem, part_name
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from gmml_cluster.track.lines import Place, new_figures, new_lines
from tests.fixtures.outputs import checked
from tests.fixtures.slurm import free_ports
from tests.fixtures.submissions import TINY


def run_with(root, **metrics):
    job = parse_job({**TINY, "run": {"steps": 30}, "metrics": metrics})
    files = {SPEC: to_yaml(job).encode(), RUN: json.dumps({"version": 1}).encode()}
    run = create_run(str(root), "mine", files, {"code": "0"})
    protocol.submit(run.log, launcher="local", code="c", bounds={})
    return run


def attempt(run, number, *, first):
    submit = run.log.refresh().submit.token
    protocol.claim(run.log, submit=submit, job="j", restart=number - 1, topology={}, machine={})
    run.log.append(lambda _: Draft("begin", number, {"step": first, "micro": 8}))


def upload(run, number, part, steps):
    lines = [{"step": s, "loss": 1 / (s + 1), "attempt": number, "time": 1e9 + s, "skipped": False} for s in steps]
    run.store.put(part_name(metrics_stem(number), part, "jsonl"), "\n".join(map(json.dumps, lines)).encode())


def look(run):
    done = subprocess.run(
        [sys.executable, "-m", "gmml_cluster.track", run.url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def scored(run, number, step, accuracy):
    found = {"score": "knn", "feature": "mean", "accuracy": accuracy, "error": 1.0, "samples": 100}
    protocol.score(run.log, f"evaluations/{step}.json", "0", step=step, scores=[found], attempt=number, seconds=1.0)


def curve(folder, name="loss"):
    read = EventAccumulator(str(folder))
    read.Reload()
    return [(point.step, point.value) for point in read.Scalars(name)]


def all_new(run, place):
    found = list(new_lines(run.store, run.log.refresh(), place))
    lines = [(line["step"], line["attempt"]) for some, _ in found for line in some]
    return lines, found[-1][1] if found else place


def test_steps_that_a_later_attempt_makes_again_come_once(tmp_path):
    run = run_with(tmp_path)
    attempt(run, 1, first=0)
    upload(run, 1, 0, range(10))
    first, place = all_new(run, Place())
    assert first == [(s, 1) for s in range(10)]
    upload(run, 1, 1, range(10, 15))
    attempt(run, 2, first=12)
    upload(run, 2, 0, range(12, 20))
    second, place = all_new(run, place)
    assert second == [(s, 1) for s in range(10, 15)] + [(s, 2) for s in range(15, 20)]
    assert all_new(run, place) == ([], place)


def all_figures(run, place):
    sent = []
    for lines, at in new_figures(run.store, run.log, place):
        sent += [(line["step"], line.get("loss") is not None, line.get("knn_mean")) for line in lines]
        place = at
    return sent, place


def test_a_score_is_in_the_line_of_its_step_waits_for_it_and_follows_it_where_that_has_gone(tmp_path):
    run = run_with(tmp_path)
    attempt(run, 1, first=0)
    scored(run, 1, 3, 40.0)
    assert all_figures(run, Place()) == ([], Place())
    upload(run, 1, 0, range(5))
    sent, place = all_figures(run, Place())
    assert sent == [(s, True, 40.0 if s == 3 else None) for s in range(5)]
    scored(run, 1, 4, 41.0)
    sent, place = all_figures(run, place)
    assert sent == [(4, False, 41.0)]
    assert all_figures(run, place) == ([], place)


def test_a_score_of_gmml_eval_is_no_point_of_a_curve(tmp_path):
    run = run_with(tmp_path)
    attempt(run, 1, first=0)
    upload(run, 1, 0, range(5))
    scored(run, None, 4, 90.0)
    assert all_figures(run, Place())[0] == [(s, True, None) for s in range(5)]


def test_tensorboard_shows_scores_beside_losses(tmp_path):
    run = run_with(tmp_path)
    attempt(run, 1, first=0)
    scored(run, 1, 9, 42.5)
    upload(run, 1, 0, range(10))
    look(run)
    assert curve(tmp_path / "mine" / "tensorboard", "knn_mean") == [(9, 42.5)]
    assert len(curve(tmp_path / "mine" / "tensorboard")) == 10


def test_tensorboard_shows_one_curve_over_restarts_and_over_senders_that_died(tmp_path):
    run = run_with(tmp_path)
    attempt(run, 1, first=0)
    upload(run, 1, 0, range(10))
    look(run)
    before = run.store.get("tracked.json")
    upload(run, 1, 1, range(10, 15))
    look(run)
    run.store.put("tracked.json", before)  # as if it had died before it could say how far it was
    attempt(run, 2, first=12)
    upload(run, 2, 0, range(12, 20))
    look(run)
    assert curve(tmp_path / "mine" / "tensorboard") == [(s, pytest.approx(1 / (s + 1))) for s in range(20)]


def test_a_tracker_that_is_not_installed_is_named_with_the_cure_and_holds_up_no_other(tmp_path):
    run = run_with(tmp_path, wandb={"project": "p"})
    attempt(run, 1, first=0)
    upload(run, 1, 0, range(10))
    script = (
        "import sys; sys.modules['wandb'] = None; from gmml_cluster.track.__main__ import main;"
        f" sys.exit(main([{run.url!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "metrics.wandb: wandb cannot be imported; pip install 'gmml-cluster[wandb]' where" in done.stderr
    assert [step for step, _ in curve(tmp_path / "mine" / "tensorboard")] == list(range(10))


def test_a_tracker_that_fails_holds_up_no_other(tmp_path):
    (port,) = free_ports(1)
    (tmp_path / "no-folder").write_text("")
    run = run_with(tmp_path / "runs", tensorboard=str(tmp_path / "no-folder"), prometheus=port)
    attempt(run, 1, first=0)
    upload(run, 1, 0, range(10))
    done = subprocess.run(
        [sys.executable, "-m", "gmml_cluster.track", run.url, "--json"], capture_output=True, text=True, check=False
    )
    assert "metrics.tensorboard: FileExistsError" in done.stderr
    (document,) = checked("track", done.stdout)
    assert [(each["tracker"], each["step"], each["failed"]) for each in document["trackers"]] == [
        ("tensorboard", -1, True),
        ("prometheus", 9, False),
    ]
    assert json.loads(run.store.get("tracked.json"))["prometheus"]["step"] == 9


def test_the_latest_figures_can_be_scraped_while_the_run_goes_on(tmp_path):
    (port,) = free_ports(1)
    run = run_with(tmp_path, tensorboard=None, prometheus=port)
    attempt(run, 1, first=0)
    upload(run, 1, 0, range(10))
    command = [sys.executable, "-m", "gmml_cluster.track", run.url, "--follow"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        session = requests.Session()
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=_PATIENT))
        text = session.get(f"http://127.0.0.1:{port}/metrics", timeout=240).text
        process.stdin.close()
    assert process.returncode == 0
    assert 'gmml_step{run="mine"} 9.0' in text
    assert 'gmml_loss{run="mine"} 0.1' in text


_PATIENT = requests.adapters.Retry(total=400, connect=400, backoff_factor=0.2, backoff_max=1)
