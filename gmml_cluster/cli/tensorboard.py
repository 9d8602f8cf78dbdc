"""`python -m gmml_cluster.cli.tensorboard DIR [--json]`: TensorBoard's event file from metric lines on standard input.

A process of its own, because TensorBoard's writer imports numpy and protobuf. Event files are rebuilt from the joined
lines, so that steps which a resumed run repeated appear once.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gmml_cluster.cli.documents import emit
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.outputs.leave import leave
from gmml_cluster.outputs.run import EventsOutput
from gmml_cluster.wording import counted


def write(lines: Iterable[dict[str, Any]], folder: Path) -> int:
    """Write one event file into `folder`, replacing those it wrote before; the number of steps."""
    from gmml_cluster.track.tensorboard import SUFFIX, TensorBoard

    for old in folder.glob(f"events.out.tfevents.*{SUFFIX}"):
        old.unlink()
    made = list(lines)
    writer = TensorBoard(folder, first=0)
    writer.send(made)
    writer.close(finished=True)
    return len(made)


def main() -> int:
    """Read lines, write events, say so."""
    folder, as_json = Path(sys.argv[1]), "--json" in sys.argv[2:]
    try:
        steps = write((json.loads(line) for line in sys.stdin), folder)
    except OSError as error:
        problem = f"events cannot be written there ({error.strerror or error})"
        fault = SpecError(Fault(str(folder), problem, "name a folder that you may write"))
        leave(fault, as_json=as_json)
    if as_json:
        document: EventsOutput = {"version": 1, "folder": str(folder), "steps": steps}
        emit(document)
        return 0
    print(f"{counted(steps, 'step')} in {folder}; look at them with: tensorboard --logdir {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
