"""What the method computes: what MAE does, and no sooner than 0.1 s after the step before."""

import time

from torch import Tensor

from gmml_cluster.methods.mae import Mae
from gmml_cluster.methods.protocol import Draws, Forward, Losses, Setting

STEP_S = 0.1


class Paced(Mae):
    """MAE that waits, so that a step takes the same time on a busy machine as on an idle one."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, setting.options)  # type: ignore[arg-type]
        self._before = 0.0

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """MAE's, late."""
        time.sleep(max(0.0, self._before + STEP_S - time.monotonic()))
        self._before = time.monotonic()
        return super().loss(forward, images, draws)
