"""How many kernels the draws and the augmentation of a micro-batch launch: on a GPU each costs the host some 5 us."""

from typing import Any

import pytest
import torch

from gmml_cluster.data.augment import prepare
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.spec.augment import AUGMENTS, NORMALISATIONS
from gmml_cluster.spec.job import SIZES
from tests.fixtures.launches import Launches
from tests.unit.methods.jobs import job

META = torch.device("meta")
IMAGES = 64


@pytest.mark.parametrize(
    ("options", "draws", "augmentation"),
    [
        ({"name": "gmml"}, 169, 171),  # 2,221 and 748 where each purpose and view called the generator
        ({"name": "gmml", "preset": "paper"}, 208, 171),
        ({"name": "mae"}, 44, 45),
        ({"name": "simmim"}, 85, 45),
        ({"name": "conmim"}, 45, 183),
        ({"name": "relvit"}, 40, 205),
        ({"name": "ijepa"}, 120, 45),
        ({"name": "ijepa", "masks": "padded"}, 152, 45),
        ({"name": "finetune", "classes": 1000}, 129, 556),
    ],
    ids=str,
)
def test_a_micro_batch_of_vit_l_launches_few_kernels(options: dict[str, Any], draws: int, augmentation: int) -> None:
    drop_path = 0 if options["name"] in ("mae", "conmim", "ijepa") else 0.1
    method = blank(Setting.of(job(options, image_size=224, model={**SIZES["large"], "drop_path": drop_path})))
    numbers = torch.arange(IMAGES, device=META)
    images = torch.zeros(IMAGES, method.views, 3, 224, 224, dtype=torch.uint8, device=META)
    augment, imagenet = AUGMENTS[options["name"]], NORMALISATIONS["imagenet"]
    for _ in range(2):  # constants are uploaded in the first step
        with Launches() as drawn:
            method.draw(numbers, META)
        with Launches() as augmented:
            prepare(images, numbers, seed=0, augment=augment, normalise=imagenet, patch_size=16)
    assert drawn.total <= draws, drawn.by_name
    assert augmented.total <= augmentation, augmented.by_name


def test_the_counter_counts_kernels_and_no_views() -> None:
    with Launches() as counted:
        (torch.zeros(4, 4, device=META)[1:].T.reshape(12) + 1).view(3, 4)
    assert dict(counted.by_name) == {"zeros": 1, "clone": 1, "add": 1}
