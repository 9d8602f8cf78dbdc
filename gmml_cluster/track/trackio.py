"""trackio."""

from collections.abc import Mapping, Sequence
from typing import Any

import trackio

from gmml_cluster.track.protocol import Tracked, curves, flat


class Trackio:
    """One trackio run for the run, which goes on in every process."""

    def __init__(self, project: str, space: str | None, tracked: Tracked) -> None:
        trackio.init(
            project=project,
            name=tracked.name,
            space_id=space,
            config=dict(flat(tracked.spec)),
            resume="allow",
            embed=False,
        )

    def send(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Hand the lines to trackio's own thread."""
        for line in lines:
            trackio.log(dict(curves(line)), step=line["step"])

    def close(self, *, finished: bool) -> None:
        """Wait until all is kept."""
        trackio.finish()
