"""What a login node does not need it does not import, and every import contract of the layout holds."""

import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from gmml_cluster.evaluate.demo.digits import pack_digits
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run

HEAVY = ("pydantic", "torch", "submitit", "ray", "numpy", "deepspeed", "s3fs", "fsspec", "obstore", "asyncio")
OF_A_PLAN = {"pydantic", "numpy"}

REPORT = """
import json, sys
from gmml_cluster.cli import run_command
sys.argv = json.loads(sys.argv[1])
from {module} import {name} as command
try:
    run_command.run(command)
finally:
    print("\\n" + json.dumps(sorted(set(sys.modules) & set({heavy}))), file=sys.stderr)
"""


def heavy_imports(module, name, *arguments, cwd, **environment):
    script = REPORT.format(module=module, name=name, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(["gmml", *arguments])],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={"HOME": str(cwd), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.strip().splitlines()[-1])


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["resume", "--help"], ["eval", "--help"]])
def test_help_of_gmml_imports_nothing_heavy(arguments, tmp_path):
    assert heavy_imports("gmml_cluster.cli.main", "group", *arguments, cwd=tmp_path) == []


def test_help_of_gmml_submit_imports_nothing_heavy(tmp_path):
    assert heavy_imports("gmml_cluster.cli.submit", "command", "--help", cwd=tmp_path) == []


def test_a_dry_run_of_a_local_job_imports_no_library_of_object_stores(tmp_path):
    pack_digits(tmp_path / "demo" / "digits")
    arguments = ("quickstart", "--dry-run", f"data.corpora=[{{url: {tmp_path}/demo/digits/train/*.tar}}]")
    assert set(heavy_imports("gmml_cluster.cli.submit", "command", *arguments, cwd=tmp_path)) == OF_A_PLAN


def test_status_without_runs_imports_nothing_heavy(tmp_path):
    assert heavy_imports("gmml_cluster.cli.main", "group", "status", cwd=tmp_path) == []


def test_status_of_runs_of_every_launcher_imports_nothing_heavy(tmp_path):
    for name, job in (("here", "host:here:0"), ("there", "4711")):
        log = create_run(str(tmp_path / "runs"), name, {}, {"spec": "0", "code": "0", "versions": {}}).log
        token = protocol.submit(log, launcher="local" if ":" in job else "slurm", code="0", bounds={})
        protocol.queued(log, token, job)
        protocol.claim(log, submit=token, job=job, restart=0, topology={}, machine={})
    assert heavy_imports("gmml_cluster.cli.main", "group", "status", "--root", "runs", cwd=tmp_path) == []


@pytest.mark.parametrize("line", ["gmml st", "gmml status q", "gmml drill quickstart optim.", "gmml eval x --cluster "])
def test_a_shell_that_asks_for_candidates_imports_nothing_heavy(line, tmp_path):
    asked = {"_GMML_COMPLETE": "bash_complete", "COMP_LINE": line}
    assert heavy_imports("gmml_cluster.cli.main", "group", cwd=tmp_path, **asked) == []


def test_the_import_contracts_hold():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_no_file_imports_itself_by_way_of_others_not_even_for_types():
    graph = grimp.build_graph("gmml_cluster")
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 150
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
