"""TensorBoard's event files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gmml_cluster.track.protocol import curves

SUFFIX = ".gmml"


class TensorBoard:
    """Writes one more event file into a folder, behind those of earlier processes.

    Args:
        folder: made where there is none.
        first: the step that comes next. Readers drop what earlier files have of it and of later ones: of a process that
            sent them and died before it could say so.
    """

    def __init__(self, folder: Path, first: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder), filename_suffix=SUFFIX)
        self._writer.add_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def send(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write the lines, on disk when this returns."""
        for line in lines:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in curves(line)]
            event = Event(wall_time=line.get("time", 0.0), step=line["step"], summary=Summary(value=values))
            self._writer.add_event(event)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._writer.close()
