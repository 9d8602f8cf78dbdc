"""Where the scripts and logs of a run's jobs lie, as its log says for every launcher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def folder_of(submit: Mapping[str, Any], job: str) -> Path | None:
    """Folder of a job's script and logs; None where its launcher has none.

    Args:
        submit: `bounds` of the `submit` that the job was started for.
        job: its id.
    """
    folder = submit.get("folder")
    return None if folder is None else Path(folder.replace("%j", job))
