import pytest

from gmml_cluster.evaluate.demo.digits import Digits, load
from gmml_cluster.methods.build import build
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.checkpoints.load_trained import Trained

METHODS = {
    "capi": {"name": "capi", "clusters": 4, "registers": 4, "predictor_depth": 1},
    "conmim": {"name": "conmim", "projector": [16, 16, 8]},
    "gmml": {"name": "gmml", "views": 1, "taps": [1, 2]},
    "mae": {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "ijepa": {"name": "ijepa", "predictor_width": 16, "predictor_depth": 1},
    "simmim": {"name": "simmim"},
    "relvit": {"name": "relvit"},
}


@pytest.fixture(scope="session")
def digits() -> Digits:
    pytest.importorskip("sklearn")
    return load()


@pytest.fixture
def trained(tmp_path):
    """A run's method with its initial weights, by name; its corpus is `<tmp_path>/train`."""

    def make(name: str) -> Trained:
        job = JobSpec.model_validate(
            {
                "name": "small",
                "model": {"width": 16, "depth": 2, "heads": 2, "patch_size": 4},
                "method": METHODS[name],
                "data": {
                    "corpora": [{"url": str(tmp_path / "train" / "*.tar")}],
                    "image_size": 16,
                    "augment": "none",
                    "normalise": {"mean": [0.3] * 3, "std": [0.32] * 3},
                },
                "batch": {"size": 256 if name in ("capi", "conmim") else 16},
                "run": {"steps": 10},
            }
        )
        return Trained(job, build(job), -1)

    return make
