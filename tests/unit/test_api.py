"""The Python interface on a run whose jobs are only recorded, never started."""

import ast
import inspect
import json
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import gmml_cluster
from gmml_cluster import api
from gmml_cluster.errors import RunFailed, SpecError
from gmml_cluster.launch.jobs import Jobs, refs_of
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import follow
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run, metrics_stem


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "runs")


@pytest.fixture
def jobs(monkeypatch):
    def report(state):
        def poll_one(name, history):
            return Jobs(dict.fromkeys(refs_of(history), JobReport(state)))

        monkeypatch.setattr(follow, "poll_one", poll_one)

    return report


def begun(root, name="tryit"):
    run = create_run(root, name, {}, {"spec": "0", "code": "0", "versions": {}})
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    protocol.queued(run.log, token, "j")
    number = protocol.claim(run.log, submit=token, job="j", restart=0, topology={}, machine={}).attempt
    protocol.begin(run.log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
    return run, number


def test_runs_are_listed_and_found_by_name_prefix_and_folder(root):
    for name in ("alpha", "beta"):
        begun(root, name)
    assert [run.name for run in gmml_cluster.runs(root)] == ["alpha", "beta"]
    assert gmml_cluster.find("al", root) == gmml_cluster.find(f"{root}/alpha")
    assert repr(gmml_cluster.find("beta", root)) == f"Run('{root}/beta')"
    with pytest.raises(SpecError, match="no such run"):
        gmml_cluster.find("gamma", root)


def test_metrics_and_log_are_plain_values(root):
    run, number = begun(root)
    line = {"step": 0, "loss": 0.5}
    run.store.put(f"{metrics_stem(number)}-000000.jsonl", json.dumps(line).encode())
    found = gmml_cluster.find("tryit", root)
    assert found.metrics() == [line]
    assert [entry["kind"] for entry in found.log()] == ["open", "submit", "queued", "claim", "begin"]


def test_waiting_returns_when_a_run_has_finished(root, jobs):
    run, number = begun(root)
    jobs("gone")
    protocol.end(run.log, number, "finished", step=9)
    assert gmml_cluster.find("tryit", root).wait() is None


def test_waiting_for_a_run_that_failed_raises_with_its_message(root, jobs):
    run, number = begun(root)
    jobs("gone")
    protocol.end(run.log, number, "error", message="bang\nat line 3", rank=1, host="n1")
    with pytest.raises(RunFailed, match="attempt 1 ended with error: rank 1 on n1: bang; see gmml logs tryit"):
        gmml_cluster.find("tryit", root).wait()


def test_waiting_gives_up_in_time(root, jobs):
    begun(root)
    jobs("running")
    with pytest.raises(TimeoutError, match="still at work"):
        gmml_cluster.find("tryit", root).wait(timeout_s=0)


def test_an_attempt_that_is_not_there_is_a_lookup_error(root):
    begun(root)
    with pytest.raises(LookupError, match="no attempt 7"):
        gmml_cluster.find("tryit", root).logs(attempt=7)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (["batch.size=512"], ["batch.size=512"]),
        ({"batch.size": 512, "optim.lr": 1e-4}, ["batch.size=512", "optim.lr=0.0001"]),
        ({"resources.nodes": "2..4", "model": {"width": 64}}, ["resources.nodes=2..4", 'model={"width": 64}']),
        ({"optim.clip": None, "engine.deterministic": True}, ["optim.clip=null", "engine.deterministic=true"]),
    ],
)
def test_overrides_may_be_a_mapping(given, written):
    assert api.written(given) == written


def test_importing_the_package_and_listing_runs_imports_nothing_heavy(root):
    begun(root)
    script = (
        "import sys, gmml_cluster; gmml_cluster.runs(sys.argv[1])[0].status();"
        "print([name for name in ('torch', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_type_checkers_see_every_name_and_every_argument():
    stub = ast.parse(Path(gmml_cluster.__file__).with_suffix(".pyi").read_text()).body
    offered = {alias.asname for node in stub if isinstance(node, ast.ImportFrom) for alias in node.names} - {None}
    (function,) = [node for node in stub if isinstance(node, ast.FunctionDef)]
    assert {*offered, function.name, "__version__"} == set(gmml_cluster.__all__)
    assert [each.arg for each in function.args.args] == list(inspect.signature(api.load_encoder).parameters)


def test_what_the_package_offers_is_typed_and_documented():
    for name in gmml_cluster.__all__:
        assert getattr(gmml_cluster, name)
        assert name == "__version__" or getattr(gmml_cluster, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gmml_cluster.nothing


def signature(function):
    """Its parameters as a page writes them: without types, and without the object that it is called on."""
    found = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    return str(inspect.Signature([each.replace(annotation=inspect.Parameter.empty) for each in found]))


def test_the_page_has_every_argument_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    cells = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    calls = dict(call for cell in cells for call in re.findall(r"`([\w.]+)(\([^`]*\))`", cell))
    assert {"submit", "runs", "find", "load_encoder", "Run.resume", "api.submit_sweep"} <= calls.keys()
    for name, written in calls.items():
        assert written == signature(attrgetter(name)(gmml_cluster)), name
