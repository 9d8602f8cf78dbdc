"""What a method is given of a rank's batch: the step's images and draws on the device.

Dims: n samples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.data.augment import flip_masks, prepare
from gmml_cluster.data.reader.stream import HostBatch
from gmml_cluster.methods.protocol import LABEL, MAP, MASK, Draws, Guided, Method
from gmml_cluster.spec.job import JobSpec

Upload = Callable[[NDArray[Any]], Tensor]


def method_inputs(
    job: JobSpec,
    method: Method,
    batch: HostBatch,
    samples: "NDArray[np.int64] | slice",
    *,
    upload: Upload,
    device: torch.device,
) -> tuple[Tensor, Draws]:
    """Images and draws of some samples, as `Method.loss` takes them.

    Args:
        job: whose seed and `data` say what is drawn for images.
        method: draws the rest.
        batch: as read.
        samples: which of the batch; whole groups.
        upload: brings an array to the device.
        device: where all is made.

    Returns:
        Normalised float (n, V, 3, S, S), and the draws, with classes and masks where the batch has them.
    """
    numbers, images = upload(batch.numbers[samples]), upload(batch.images[samples])
    data = job.data
    clean = prepare(
        images,
        numbers,
        seed=job.seed,
        augment=data.augment,
        normalise=data.normalise,
        patch_size=job.model.patch_size,
    )
    if batch.maps is None:
        draws = method.draw(numbers, device)
    else:
        assert isinstance(method, Guided)
        draws = method.draw(numbers, device, given={MAP: upload(batch.maps[samples])})
    if batch.labels is not None:
        draws = {**draws, LABEL: upload(batch.labels[samples])}
    if batch.masks is not None:
        masks = flip_masks(upload(batch.masks[samples]), numbers, seed=job.seed, augment=data.augment)
        draws = {**draws, MASK: masks}
    return clean, draws
