"""The oldest torch that is taken trains, replays to the bit and is loaded: `pytest tests/drills -m old_torch`.

In an environment of its own, which takes several GB from the index: deselected unless the marker is asked for.
"""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from gmml_cluster.evaluate.demo.digits import pack_digits
from tests.fixtures import packages

ROOT = Path(__file__).parents[2]
(TRAIN,) = (
    line
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    if line.startswith("torch>=")
)
OLDEST = f"{TRAIN.removeprefix('torch>=')}.0"

pytestmark = pytest.mark.old_torch


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Programs of an environment with the oldest torch; GMML_OLD_TORCH names one that is there already."""
    if given := os.environ.get("GMML_OLD_TORCH"):
        return Path(given) / "bin"
    if packages.unreachable():
        pytest.skip(packages.unreachable())
    folder = tmp_path_factory.mktemp("old")
    wheel = packages.build_wheel(folder)
    return packages.environment(folder / "venv", f"torch=={OLDEST}", f"{wheel}[train]")


@pytest.fixture
def call(programs, tmp_path):
    pack_digits(tmp_path / "demo" / "digits")
    given = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def call(*words: str) -> str:
        done = subprocess.run(
            [programs / words[0], *words[1:]], cwd=tmp_path, env=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    return call


@pytest.mark.parametrize("engine", ["engine.zero=1", "engine.zero=2", "engine.zero=3", "engine.zero=ddp"])
def test_a_run_trains_replays_to_the_bit_and_is_loaded(call, engine):
    call("gmml-submit", "quickstart", "run.steps=6", "checkpoint.every=2 steps", engine, "--follow")
    lines = [json.loads(line) for line in call("gmml", "metrics", "quickstart", "--json").splitlines()]
    assert [line["step"] for line in lines] == list(range(6))
    (claim,) = (
        entry
        for entry in map(json.loads, call("gmml", "log", "quickstart", "--json").splitlines())
        if entry["kind"] == "claim"
    )
    assert re.match(rf"{re.escape(OLDEST)}(\+|$)", claim["machine"]["torch"])
    replayed = call("gmml", "replay", "quickstart", "--from", "2", "--to", "5")
    assert "equal" in replayed
    loaded = call("python", "-c", "import gmml_cluster; print(type(gmml_cluster.load_encoder('quickstart')).__name__)")
    assert loaded.strip()
