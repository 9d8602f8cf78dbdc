"""A package that a node of a Ray cluster lacks is that node's, for who reads of it elsewhere."""

import socket
import sys

import click
import pytest

from gmml_cluster.cli.compute import demand
from gmml_cluster.cli.on_ray import OnNode
from gmml_cluster.data.corpus.parquet import demand_pyarrow
from gmml_cluster.errors import DataError, Fault, NotInstalled, PreflightError
from gmml_cluster.launch.ray import module


def cure(package):
    extra = "parquet" if package == "pyarrow" else "data"
    return f"install gmml-cluster[{extra}] in the nodes' environment or image, or add it to ray.runtime_env (pip)"


def job(body):
    """A command that is the job of a cluster."""
    group = OnNode("job")
    group.add_command(click.Command("pack", callback=body))
    return lambda: group.main(["pack"], standalone_mode=False)


@pytest.mark.parametrize("package", ["numpy", "pyarrow", "cv2"])
def test_what_the_node_of_a_job_lacks_is_said_of_that_node_with_the_cure(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed

    def body():
        demand("numpy")
        demand_pyarrow("s3://corpora/a.parquet")
        import cv2  # noqa: F401

    with pytest.raises(PreflightError) as caught:
        job(body)()
    where = f"node {socket.gethostname()}: {sys.executable} has no {package}, which this command needs there"
    assert str(caught.value) == f"{where}; {cure(package)}"


def test_on_this_machine_the_cure_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(PreflightError) as caught:
        demand("numpy")
    assert str(caught.value) == (
        "numpy: not installed here, and this command needs it; pip install 'gmml-cluster[data]'"
    )


def test_other_faults_of_a_job_stay_as_they_are():
    def body():
        raise DataError(Fault("a.tar", "is damaged"))

    with pytest.raises(DataError, match=r"a\.tar: is damaged"):
        job(body)()


def test_a_score_says_which_package_its_node_lacks(tmp_path, monkeypatch, capsys):
    (tmp_path / "needs_it.py").write_text("import not_there.at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "mark_output", lambda: None)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(SystemExit) as caught:
        module.main(["needs_it"])
    assert caught.value.code == PreflightError.exit_code
    printed = capsys.readouterr().err
    assert f"node {socket.gethostname()}: {sys.executable} has no not_there, which" in printed
    assert "install gmml-cluster[train] in" in printed


# Ray 2.60 says this of a task whose function a worker cannot import
UNIMPORTABLE = """ray::pack_shard() (pid=4711, ip=127.0.0.3)
RuntimeError: The remote function failed to import on the worker. This may be because needed library dependencies are
not installed in the worker environment:

ModuleNotFoundError: No module named 'numpy.typing'"""


@pytest.mark.parametrize(
    ("cause", "traceback", "package"),
    [
        (RuntimeError("failed to import"), UNIMPORTABLE, "numpy"),
        (ModuleNotFoundError("No module named 'cv2'"), "ray::f() (pid=1, ip=127.0.0.3)\nNo module named 'cv2'", "cv2"),
        (NotInstalled(Fault("pyarrow", "not installed here")), "ray::f() (pid=1, ip=127.0.0.3)", "pyarrow"),
    ],
    ids=["its function", "in it", "asked for"],
)
def test_a_task_names_what_its_node_lacks(cause, traceback, package):
    tasks = pytest.importorskip("gmml_cluster.launch.ray.tasks")
    found = tasks.cause_of(cause, traceback)
    assert str(found) == f"node 127.0.0.3: Python has no {package}, which this command needs there; {cure(package)}"
    assert found.exit_code == PreflightError.exit_code


def test_other_errors_of_a_task_are_its_own_whatever_they_quote():
    tasks = pytest.importorskip("gmml_cluster.launch.ray.tasks")
    for cause in (DataError(Fault("a.tar", "No module named 'x' is no image")), ValueError("wrong")):
        traceback = f"ray::f() (pid=1, ip=127.0.0.3)\n{cause}"
        assert tasks.cause_of(cause, traceback) is cause
