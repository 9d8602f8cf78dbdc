"""Whether a run was found where its log says it lies.

A copied or renamed folder carries the log, and so the job ids, of the original: a command that acted on them would stop
or restart a run that was not named.
"""

import json
import os
from dataclasses import dataclass
from typing import Literal

from gmml_cluster.errors import Fault, GmmlError, SpecError
from gmml_cluster.run.root import RUN, RunRoot
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import NotFound


@dataclass(frozen=True)
class Misplaced:
    """A run that was found elsewhere than its log records.

    Attributes:
        kind: `moved` where it is no longer at the recorded location: `gmml resume` may continue it here, and its
            submit records the new one. `copied` where the original is still there, or where that cannot be read.
        recorded: folder or URL by the log.
        fault: for the user.
    """

    kind: Literal["moved", "copied"]
    recorded: str
    fault: Fault


def misplaced(run: RunRoot) -> Misplaced | None:
    """How the location of a run disagrees with its log; None where it agrees, or the log is of an earlier version.

    Costs no request beyond the log's, unless they disagree.
    """
    history = run.log.refresh()
    recorded = history.location
    if recorded in ("", run.url) or _same_folder(recorded, run.url):
        return None
    try:
        original = json.loads(open_store(recorded).get(RUN)).get("run")
    except NotFound:
        original = None
    except (GmmlError, ValueError, AttributeError):
        original = history.run  # it cannot be read, so it may still be there
    if original == history.run:
        problem = f"is a copy of the run at {recorded}, whose jobs its log names"
        hint = "use the original; to train from here submit another name with init"
        return Misplaced("copied", recorded, Fault(run.url, problem, hint))
    problem = f"was moved or renamed; its log names jobs that ran at {recorded}"
    return Misplaced("moved", recorded, Fault(run.url, problem, "move it back, or gmml resume it here"))


def demand_in_place(run: RunRoot, *, moved: bool = False) -> None:
    """Refuse to act on the jobs of a run that was found elsewhere than its log records.

    Args:
        moved: accept one that was moved, as `gmml resume` and `gmml cancel` do: the jobs of its log are its own.

    Raises:
        SpecError: it is a copy, or was moved.
    """
    found = misplaced(run)
    if found is not None and not (moved and found.kind == "moved"):
        raise SpecError(found.fault)


def _same_folder(one: str, other: str) -> bool:
    """Whether two paths lead to one folder, by links or by mounts; URLs never do.

    A file system that is mounted twice may have a device number for each mount. No copy has the original's inode and
    also its time of change, which nothing but the kernel's clock can set.
    """
    if "://" in one + other:
        return False
    try:
        mine, theirs = (os.stat(f"{folder}/{RUN}") for folder in (one, other))
        is_one = os.path.samefile(one, other)
    except OSError:
        return False
    return is_one or (mine.st_ino, mine.st_ctime_ns) == (theirs.st_ino, theirs.st_ctime_ns)
