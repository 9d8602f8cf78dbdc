"""Weights & Biases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from gmml_cluster.track.protocol import Tracked, curves


class Wandb:
    """One W&B run for the run, of the same id in every process; it takes no step twice by its own rule."""

    def __init__(self, project: str, entity: str | None, mode: str, tracked: Tracked) -> None:
        self._run = wandb.init(
            project=project,
            entity=entity,
            id=tracked.token,
            name=tracked.name,
            resume="allow",
            mode=mode,
            dir=tracked.folder or Path.cwd(),
            config=dict(tracked.spec),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def send(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Hand the lines to W&B's own process, which sends them."""
        for line in lines:
            self._run.log(dict(curves(line)), step=line["step"])

    def close(self, *, finished: bool) -> None:
        """Wait until all is sent, or in its files."""
        self._run.finish(exit_code=0)
