"""`python -m gmml_cluster.cli.tensorboard DIR`: TensorBoard's event file from metric lines on standard input.

A process of its own, because TensorBoard's writer imports numpy and protobuf. Event files are rebuilt from the joined
lines, so that steps which a resumed run repeated appear once.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.wording import counted

_NOT_PLOTTED = ("step", "time", "attempt")


def scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of a metric line that are curves."""
    for name, value in line.items():
        if name not in _NOT_PLOTTED and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def write(lines: Iterable[dict[str, Any]], folder: Path) -> int:
    """Write one event file into `folder`, replacing those it wrote before; the number of steps."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for old in folder.glob("events.out.tfevents.*.gmml"):
        old.unlink()
    writer = EventFileWriter(str(folder), filename_suffix=".gmml")
    steps = 0
    for line in lines:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(line)]
        writer.add_event(Event(wall_time=line.get("time", 0.0), step=line["step"], summary=Summary(value=values)))
        steps += 1
    writer.close()
    return steps


def main() -> int:
    """Read lines, write events, say so."""
    folder = Path(sys.argv[1])
    try:
        steps = write((json.loads(line) for line in sys.stdin), folder)
    except OSError as error:
        problem = f"events cannot be written there ({error.strerror or error})"
        fault = StorageError(Fault(str(folder), problem, "name a folder that you may write"))
        print(fault, file=sys.stderr)
        return fault.exit_code
    print(f"{counted(steps, 'step')} in {folder}; look at them with: tensorboard --logdir {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
