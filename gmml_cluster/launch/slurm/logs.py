"""The last words of a start on SLURM that failed before its claim, from the error files of its ranks."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NOISE = re.compile(r"srun: (error: .*(Exited|exit code|Killed|Terminated)|Terminating|Job step|Force)|slurmstepd: ")
_CHARACTERS = 300


def folder_of(submit: Mapping[str, Any], job: str) -> Path | None:
    """Folder of a job's script and logs; None where its launcher has none.

    Args:
        submit: `bounds` of the `submit` that the job was started for.
        job: its id.
    """
    folder = submit.get("folder")
    return None if folder is None else Path(folder.replace("%j", job))


def error_file(submit: Mapping[str, Any], job: str, rank: int) -> Path | None:
    """What a rank of a job's starts wrote to stderr, rank 0 and the script into one file; None where there is none."""
    folder = folder_of(submit, job)
    path = None if folder is None else folder / f"{job}_{rank}_log.err"
    return path if path is not None and path.exists() else None


def last_words(errors: Path, *, seen: int, rc: int) -> str:
    """Names the error file that tells most and quotes its last line; empty where none says anything.

    Args:
        errors: rank 0's and the script's, `<job>_0_log.err`; the other ranks' lie beside it.
        seen: lines of it that earlier starts wrote.
        rc: highest exit code of the ranks; srun says which rank left with it.
    """
    told = _lines(errors)[seen:]
    blamed = _blamed(errors, told, rc)
    texts = {errors: told} if blamed == errors else {blamed: _lines(blamed), errors: told}
    for file, lines in texts.items():
        own = [line.strip() for line in lines if line.strip() and not _NOISE.match(line)]
        if own:
            return f"{file} ends with {own[-1][:_CHARACTERS]!r}"
    return ""


def _blamed(errors: Path, told: list[str], rc: int) -> Path:
    """The error file of the first rank that srun says left with this code; rank 0's where it says none."""
    found = re.search(rf"task[s]? (\d+).*: Exited with exit code {rc}$", "\n".join(told), re.MULTILINE)
    return errors.with_name(errors.name.replace("_0_log", f"_{found[1]}_log")) if found else errors


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except OSError:
        return []
