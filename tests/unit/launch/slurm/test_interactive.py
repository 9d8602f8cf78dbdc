"""What scores a checkpoint runs on a node of the profile, by srun; here by a stand-in that keeps its words."""

import json

import pytest

from gmml_cluster.cli.compute import run_module
from gmml_cluster.errors import PreflightError, SpecError
from gmml_cluster.launch.slurm.interactive import command
from gmml_cluster.spec.cluster import ClusterProfile

SRUN = """#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
with open(os.environ["KEPT"], "w") as file:
    json.dump([words, os.environ.get("SLURM_JOB_ID")], file)
first = words.index("bash")
os.execvp("bash", words[first:])
"""
SLURM = "{partition: gpu, gpus_per_node: 8, setup: ['export THERE=1']}"
PROFILE = f"{{launcher: slurm, root: runs, environment: {{WHERE: a b}}, slurm: {SLURM}}}"


@pytest.fixture
def srun(tmp_path, monkeypatch):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "scores.py").write_text(
        "import os, sys\nsys.exit(7 if sys.argv[1:] == ['a b', '--json'] and os.environ['WHERE'] == 'a b' else 1)\n"
    )
    (tmp_path / "there.yaml").write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_module_runs_on_a_node_with_the_profiles_options_and_gives_its_exit_code(srun):
    assert run_module("scores", ["a b", "--json"], needs="no_such_package", cluster="./there.yaml") == 7
    words, job = json.loads((srun / "kept").read_text())
    assert {"--partition=gpu", "--gpus-per-node=1", "--nodes=1", "--ntasks=1", "--export=ALL"} <= set(words)
    assert job is None, "options of an allocation around it are not taken for its own"


def test_a_typed_gpu_and_further_options_are_passed_on():
    slurm = {"sbatch_args": {"gpus_per_node": "a100:8", "no-requeue": True}, "account": "vision", "reservation": "x"}
    profile = ClusterProfile.model_validate({"launcher": "slurm", "root": "r", "slurm": slurm})
    words = command(profile, "scores", ["--run", "x"])
    assert {"--gpus-per-node=a100:1", "--account=vision", "--reservation=x"} <= set(words)
    assert not any("requeue" in word for word in words)
    assert words[-3:] == ["scores", "--run", "x"]


@pytest.mark.parametrize(("runtime", "is_inside"), [("pyxis", True), ("apptainer", False)])
def test_the_modules_of_the_node_are_loaded_on_the_node_and_not_within_its_image(runtime, is_inside):
    container = {"runtime": runtime, "image": "/i.sif"}
    slurm = {"container": container, "modules": ["cuda"], "setup": ["true"], "gpus_per_node": 1}
    profile = ClusterProfile.model_validate({"launcher": "slurm", "root": "/runs", "slurm": slurm})
    words = command(profile, "scores", [])
    script = words[words.index("-c") + 1]
    assert ("module load" in script, "true" in script.splitlines()) == (not is_inside, not is_inside)
    assert ("--container-image=/i.sif" in words) is is_inside
    assert (
        "apptainer exec --nv --bind=/runs:/runs /i.sif env PYTHONNOUSERSITE=1 python3 -m" in script
    ) is not is_inside


def test_without_srun_or_profile_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text(PROFILE)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightError, match="srun: is not installed here"):
        run_module("scores", [], needs="json", cluster="./there.yaml")
    with pytest.raises(SpecError):
        run_module("scores", [], needs="json", cluster="./nowhere.yaml")


def test_a_profile_of_this_machine_runs_it_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yaml").write_text("{launcher: local, root: runs}")
    assert run_module("gmml_cluster.no_such_module", [], needs="json", cluster="./here.yaml") == 1
