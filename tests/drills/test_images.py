"""The steps of docker/Dockerfile, executed in a root of nothing but Debian's files, without docker.

That root stands for the base image: Debian's Python of the same version. An image registry, docker and a GPU have no
part in it.
"""

from pathlib import Path

import pytest

from gmml_cluster.evaluate.demo.digits import pack_digits
from tests.fixtures import images, packages

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "docker" / "Dockerfile").read_text()
REASON = images.missing() or packages.unreachable()

pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return lambda target, **arguments: images.build(RECIPE, target, ROOT, folder / target, arguments)


def test_the_launcher_plans_a_run_on_slurm_as_a_user_without_rights_and_has_no_torch(build):
    image = build("launcher")
    assert image.entry == ("gmml-submit",)
    assert image.run("id -u; touch /opt/gmml/x 2>/dev/null || echo refused").split() == ["10001", "refused"]
    assert "Usage: gmml-submit" in image.run("gmml-submit --help")
    corpus = "data.corpora=[{url: none, samples: 6400}]"
    shown = image.run(f"cd /home/gmml; gmml-submit quickstart '{corpus}' --cluster slurm --dry-run")
    assert "#SBATCH --gpus-per-node=8" in shown
    assert image.run("python3 -c 'import torch' 2>&1 || true").rstrip().endswith("No module named 'torch'")


def test_the_worker_trains(build):
    image = build("worker", TORCH="cpu")
    assert image.environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    home = image.root / "home" / "gmml"
    pack_digits(home / "demo" / "digits")
    for path in (home / "demo", *(home / "demo").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    steps = image.run(
        "cd /home/gmml; export HOME=$PWD; gmml-submit quickstart run.steps=20 --follow; gmml metrics quickstart --json"
    )
    assert '"step": 19' in steps
