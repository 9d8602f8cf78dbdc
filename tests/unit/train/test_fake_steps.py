"""A step of every method on a device without values: nothing waits, and few copies are made."""

from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from gmml_cluster.methods.protocol import Draws, Forward, Losses
from gmml_cluster.spec.augment import AUGMENTS
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.plugins import BUILT_IN
from tests.fixtures.fake_device import fake_device, make_stepper
from tests.fixtures.launches import Launches
from tests.unit.methods.jobs import job

IMAGES, SIDE, PATCHES = 8, 16, 16
MICRO_BATCHES = 1
CLASSES = {"classes": 10}
METHODS: dict[str, dict[str, Any]] = {
    "gmml": {"name": "gmml"},
    "gmml, AMT": {"name": "gmml", "amt": True},
    "mae": {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "simmim": {"name": "simmim"},
    "conmim": {"name": "conmim", "projector": [32, 32, 16]},
    "capi": {"name": "capi", "clusters": 16, "registers": 4, "predictor_depth": 1, "predict_ratio": 0.3},
    "ijepa": {"name": "ijepa", "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2},
    "ijepa, padded": {
        "name": "ijepa", "masks": "padded", "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2
    },
    "relvit": {"name": "relvit", "distances": True},
    "supervised": {"name": "supervised", **CLASSES},
    "finetune": {"name": "finetune", **CLASSES},
    "linear": {"name": "linear", **CLASSES},
    "attentive": {"name": "attentive", "queries": 4, **CLASSES},
    "segmentation": {"name": "segmentation", **CLASSES},
}  # fmt: skip
BEGIN_ELSEWHERE = ("finetune", "linear", "attentive", "segmentation")


def job_of(name: str, **changes: Any) -> JobSpec:
    options = METHODS[name]
    return job(
        options,
        model={"depth": 2},
        engine={"zero": "ddp"},
        batch={"size": IMAGES, "micro": IMAGES // MICRO_BATCHES},
        init={"run": "other"} if options["name"] in BEGIN_ELSEWHERE else None,
        data={
            "corpora": [{"url": "nowhere"}],
            "image_size": SIDE,
            "group": 4,
            "augment": options["name"] if options["name"] in AUGMENTS else "mae",
        },
        **changes,
    )


def arrays(spec: JobSpec) -> dict[str, np.ndarray]:
    """What the reader delivers beside images for this method."""
    found: dict[str, np.ndarray] = {}
    if getattr(spec.method, "labels", False):
        found["labels"] = np.zeros(IMAGES, np.int64)
    if getattr(spec.method, "amt", None) is not None:
        found["maps"] = np.ones((IMAGES, spec.method.views, PATCHES), np.uint8)
    if spec.method.name == "segmentation":
        found["masks"] = np.zeros((IMAGES, SIDE, SIDE), np.uint8)
    return found


def test_every_method_is_here() -> None:
    assert {options["name"] for options in METHODS.values()} == set(BUILT_IN)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_waits_for_nothing_and_copies_what_it_must(name: str) -> None:
    spec = job_of(name)
    others = arrays(spec)
    with fake_device() as collectives:
        stepper, _ = make_stepper(spec, **others)
        stepper.enqueue(0)  # constants are uploaded in the first step
        collectives.clear()
        with Launches() as counted:
            stepper.enqueue(1)
    of_micro_batch = 2 + len(others)  # numbers, images
    assert counted.uploads == MICRO_BATCHES * of_micro_batch + 1, "one more: what the host knows of the step"
    assert counted.downloads == 0, "the loop reads the step's vector, one step later"
    assert collectives == {"all_reduce": 1}
    assert counted.by_name["_fused_adamw_"] >= 1
    assert not [each for each in counted.by_name if each.endswith("lerp_") and not each.startswith("_foreach")]


@pytest.mark.parametrize(
    ("reads", "error"),
    [
        (lambda images: images.sum().item(), DataDependentOutputException),
        (lambda images: images if images.sum() > 0 else -images, DataDependentOutputException),
        (lambda images: images.nonzero(), DynamicOutputShapeException),
    ],
)
def test_a_method_that_waits_is_found(reads: Any, error: type[Exception]) -> None:
    with fake_device():
        stepper, method = make_stepper(job_of("gmml"))

        def loss(forward: Forward, images: torch.Tensor, draws: Draws) -> Losses:
            reads(images)
            return type(method).loss(method, forward, images, draws)

        method.loss = loss  # type: ignore[method-assign]
        with pytest.raises(error):
            stepper.enqueue(0)
