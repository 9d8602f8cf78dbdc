"""A machine that has `ray[default]` alone, without torch and Ray Train, does with a Ray cluster all there is to do."""

import json
import os
import subprocess
from importlib.metadata import version

import pytest

from tests.drills.on_ray import committed_in, ray_profile
from tests.fixtures import packages
from tests.fixtures.ray import running_ray
from tests.fixtures.runs import ended, json_lines

pytestmark = pytest.mark.timeout(2400)

RAY = version("ray")
OLDER = "<" + ".".join(RAY.split(".")[:2])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if packages.unreachable():
        pytest.skip(packages.unreachable())
    return packages.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def cluster():
    with running_ray(nodes=1) as made:
        yield made


@pytest.fixture
def client(tmp_path_factory, tmp_path, wheel):
    """Makes an environment with a Ray of these versions; what calls its programs, with none of this one in reach."""

    def client(versions):
        programs = packages.environment(
            tmp_path_factory.mktemp("client") / "venv", str(wheel), f"ray[default]{versions}"
        )
        (site,) = (programs.parent / "lib").glob("python3*/site-packages")
        assert not {"torch", "pandas", "pyarrow", "tensorboardX", "deepspeed"} & set(os.listdir(site))
        home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "RAY_AUTH_MODE": "disabled"}

        def call(program, *words, code=0):
            command = [programs / program, *map(str, words)]
            environment = {"PATH": f"{programs}:/usr/bin:/bin", **home}
            done = subprocess.run(
                command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
            )
            assert done.returncode == code, f"{words} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
            return done.stdout if code == 0 else done.stderr

        return call

    return client


def test_it_submits_follows_reads_cancels_resumes_scores_and_indexes(client, workshop, cluster, digits):
    call = client(f"=={RAY}")
    profile = ray_profile(workshop, cluster)
    workshop.pace(2, after=25)
    job = workshop.job("afar", run={"steps": 100}, resources={"nodes": 1})
    call("gmml-submit", job, "--cluster", profile)
    workshop.until("afar", committed_in(1))
    call("gmml", "cancel", "afar")
    workshop.until("afar", lambda entries: ended(entries) == ["cancelled"])
    workshop.pace(0)
    call("gmml", "resume", "afar", "--follow")
    status = json.loads(call("gmml", "status", "afar", "--json"))
    assert (status["state"], status["launcher"]) == ("finished", "ray")
    assert [line["step"] for line in json_lines(call("gmml", "metrics", "afar", "--json"))] == list(range(100))
    assert "step" in call("gmml", "logs", "afar")
    scored = json.loads(call("gmml", "eval", "afar", "--cluster", profile, "--json"))
    assert (scored["run"], scored["step"]) == ("afar", 99)
    shards = digits / "test"
    indexed = json.loads(
        call("gmml", "corpus", "index", shards, "--root", workshop.folder, "--anew", "--cluster", profile, "--json")
    )
    assert indexed["indexed"] == indexed["shards"] == len(list(shards.glob("*.tar")))


def test_one_of_another_ray_is_refused_with_both_versions(client, workshop, cluster):
    call = client(OLDER)
    here = call("python", "-c", "import ray; print(ray.__version__)").strip()
    job = workshop.job("older", run={"steps": 10})
    refused = call("gmml-submit", job, "--cluster", ray_profile(workshop, cluster), code=3)
    assert f"Ray is {RAY} on the cluster and {here} here; submit from an environment with Ray {RAY}" in refused
    assert not (workshop.folder / "runs" / "older").exists()
