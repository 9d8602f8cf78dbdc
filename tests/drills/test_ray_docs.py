"""The commands of docs/ray.md for a cluster on one machine, as they stand there, in a fresh clone."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.runs import REPOSITORY

pytestmark = pytest.mark.timeout(1800)

# ports, processes and `/proc` of its own: the commands name no port, and leave a cluster behind
ALONE = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]
INSTALL = ["make install", ". .venv/bin/activate"]


def shown():
    """The commands, without those that install, which take minutes and change the environment of these tests."""
    page = (REPOSITORY / "docs" / "ray.md").read_text()
    section = page.partition("\n## A cluster on one machine\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```sh by \S+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = block.splitlines()
    assert lines[:2] == INSTALL
    return lines[2:]


@pytest.fixture
def clone(tmp_path):
    if subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("processes and ports of its own are for root alone")
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, tmp_path / "clone"], check=True)
    return tmp_path / "clone"


def test_the_quickstart_runs_on_ray_by_the_commands_of_the_docs(clone, tmp_path):
    activated = Path(sys.prefix, "bin", "activate")
    lines = ["set -e", "ip link set lo up", f". {shlex.quote(str(activated))}", *shown(), "gmml log quickstart --json"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_", "XDG_"))}
    variables |= {"HOME": str(tmp_path), "PYTHONPATH": str(clone)}
    done = subprocess.run(
        [*ALONE, "bash", "-c", "\n".join(lines)], cwd=clone, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines() if '"slot":' in line]
    assert [entry["launcher"] for entry in entries if entry["kind"] == "submit"] == ["ray"]
    assert [entry["topology"]["ranks"] for entry in entries if entry["kind"] == "claim"] == [2]
    assert [entry["cause"] for entry in entries if entry["kind"] == "end"] == ["finished"]
    assert re.search(r"^quickstart .*finished", done.stdout, re.MULTILINE)
