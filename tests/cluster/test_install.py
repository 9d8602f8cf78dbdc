"""The wheel, installed into an empty environment as a login node has it."""

import os
import subprocess
from pathlib import Path

import pytest

import gmml_cluster
from tests.fixtures import packages

PROFILE = """\
launcher: slurm
root: runs
slurm: {partition: gpu, gpus_per_node: 8, time: 24 h, container: {runtime: pyxis, image: lab#gmml}, modules: [cuda]}
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The folder of programs of an environment that has the wheel alone, with what it needs."""
    if packages.unreachable():
        pytest.skip(packages.unreachable())
    folder = tmp_path_factory.mktemp("installed")
    return packages.environment(folder / "venv", str(packages.build_wheel(folder)))


@pytest.fixture
def call(programs, tmp_path):
    """Calls a program of the environment, with nothing of this one in reach."""

    def call(program: str, *arguments: str, **environment: str) -> str:
        given = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), **environment}
        done = subprocess.run(
            [programs / program, *arguments], cwd=tmp_path, env=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_a_login_node_has_the_commands_and_no_torch(call, programs):
    assert "Usage: gmml-submit" in call("gmml-submit", "--help")
    assert gmml_cluster.__version__ in call("gmml", "--version")
    assert call("gmml", "status").startswith("no runs; ")
    site = next((programs.parent / "lib").glob("python3*/site-packages"))
    assert not {"torch", "numpy", "deepspeed", "ray"} & set(os.listdir(site))


def test_a_login_node_plans_a_run_on_slurm_and_shows_its_script(call, tmp_path):
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "alps.yaml").write_text(PROFILE)
    corpus = "data.corpora=[{url: none, samples: 6400}]"
    shown = call("gmml-submit", "quickstart", corpus, "--cluster", "alps", "--dry-run")
    for line in ("#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=8", "for gmml_module in cuda; do"):
        assert line in shown.splitlines()
    assert "--container-image=lab#gmml" in shown
    assert not Path(tmp_path / "runs").exists()


def test_fields_are_completed_from_the_schema_in_the_wheel(call):
    asked = {"_GMML_SUBMIT_COMPLETE": "bash_complete", "COMP_LINE": "gmml-submit quickstart batch.s"}
    assert call("gmml-submit", **asked) == "plain,batch.size=\n"
