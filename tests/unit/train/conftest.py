"""A small real corpus for tests that train."""

import subprocess
import sys

import pytest

from tests.fixtures.ranks import ROOT


@pytest.fixture(scope="session")
def digits_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of shards of scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("digits")
    command = [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return str(folder / "train")
