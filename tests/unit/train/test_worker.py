"""A rank that fails on its way to its peers."""

import subprocess
import sys

from gmml_cluster.run.codes import UNMET

BROKEN = """
import sys
sys.modules["torch"] = None
from gmml_cluster.train.worker import main
main("--root r --run a --submit t --job 17 --restart 0".split())
"""


def test_a_rank_that_cannot_import_torch_says_so_and_leaves_with_a_code_of_its_own():
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True)
    assert done.returncode == UNMET, done.stderr
    assert "ModuleNotFoundError: import of torch" in done.stderr
