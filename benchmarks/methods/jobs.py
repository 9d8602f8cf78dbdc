"""The jobs of the table's runs: encoders by the recipes of `jobs/`, heads by one recipe for all."""

from pathlib import Path
from typing import Any

from benchmarks.methods.trials import CORPORA, Trial
from gmml_cluster.launch.probes import probe_job
from gmml_cluster.run.root import run_root
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import dump, load_job, parse_job

JOBS = Path(__file__).parents[2] / "jobs"
_WARM_UP = {"pretraining": 0.1, "finetune": 0.12, "attentive": 0.1}
"""Shares of the images; fine-tuning's is 30 of 250 steps."""
_CROPS = {"crop": {"scale": [0.35, 1.0]}, "flip": True}
_DECAY = {"finetune": 0.05, "attentive": 0.0}
_LR = {"finetune": 1e-3, "attentive": 5e-3}
_BATCH, _GROUP = {"finetune": 64, "attentive": 256}, {"finetune": 8, "attentive": 128}
_PLAIN = {"layer_decay": 1.0, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}
"""Of 16,000 images mixing, smoothing and layer decay leave less to be seen."""


def shards(data: Path, corpus: str, part: str) -> str:
    """URL of the shards of a corpus that train (`train`) or are scored (`test`)."""
    return str(data / corpus / getattr(CORPORA[corpus], part))


def encoder_job(trial: Trial, data: Path) -> JobSpec:
    """Pre-training by the method's recipe, or one step at a learning rate of 0, which leaves the start as it is."""
    size = CORPORA[trial.corpus].image_size
    given: dict[str, Any] = {
        "name": trial.name,
        "seed": trial.seed,
        "data.corpora.0.url": shards(data, trial.corpus, "train"),
        "data.image_size": size,
        "model.patch_size": size // 8,
        **trial.recipe.overrides,
    }
    if trial.scratch:
        given |= {"optim.schedule": "{law: fractional, start_lr: 0, warmup: 1000 steps}", "run": "{steps: 1}"}
    else:
        given["run"] = f"{{samples: {trial.pretraining}}}"
        given["optim.schedule.warmup"] = _warm_up("pretraining", trial.pretraining)
    return load_job(JOBS / trial.recipe.job, [f"{name}={value}" for name, value in given.items()])


def head_job(trial: Trial, head: str, root: str) -> JobSpec:
    """Fine-tuning or an attentive probe of the trial's last checkpoint, the same for every encoder but for its seed.

    Raises:
        CheckpointError: the encoder has none.
    """
    spec = dump(probe_job(run_root(root, trial.name), head, step=None, bank=None, image=None, epochs=1.0))
    images = trial.heads[head]
    spec["name"] = trial.head_name(head)
    spec["model"]["drop_path"] = 0.0
    spec["method"] |= _PLAIN if head == "finetune" else {}
    spec["data"] |= {"augment": _CROPS, "group": _GROUP[head]}
    spec["batch"]["size"] = _BATCH[head]
    spec["optim"] |= {"lr": _LR[head], "weight_decay": {"start": _DECAY[head], "end": _DECAY[head]}}
    spec["optim"]["schedule"] |= {"warmup": _warm_up(head, images)}
    spec["run"] = {"samples": images}
    return parse_job(spec)


def _warm_up(what: str, images: int) -> str:
    return f"{max(1, round(_WARM_UP[what] * images))} samples"
