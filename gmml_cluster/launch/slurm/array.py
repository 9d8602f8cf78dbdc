"""An array of SLURM through submitit: one sbatch for the runs of a sweep, a task each.

submitit 1.5.4 hands an array to an executor that it makes anew, which has neither our script nor the profile's Python.
"""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import JobPaths


def submit_as_array(executor: Any, delayed: Sequence[Any]) -> list[Any]:
    """What submitit does for several functions at once, with this executor itself; the job of each.

    Each task gets a folder of its own with the array's script in it, as a single job has: a task that SLURM does not
    requeue submits its successor with it. The folders come first, for SLURM makes none for a task's output.
    """
    shared = JobPaths.get_first_id_independent_folder(executor.folder)
    shared.mkdir(parents=True, exist_ok=True)
    pickles = [_pickled(executor, each, shared) for each in delayed]
    array = executor._submit_command(executor._submitit_command_str)
    tasks = [
        executor.job_class(folder=executor.folder, job_id=f"{array.job_id}_{n}", tasks=[0]) for n in range(len(delayed))
    ]
    for task in tasks:
        task.paths.folder.mkdir(parents=True, exist_ok=True)
    for task, path in zip(tasks, pickles, strict=True):
        task.paths.move_temporary_file(path, "submitted_pickle")
    for task in tasks:
        shutil.copyfile(array.paths.submission_file, task.paths.folder / f"{task.job_id}_submission.sh")
    for link in shared.glob(".submission_file_*.sh"):
        if link.is_symlink() and link.readlink() == array.paths.submission_file:
            link.unlink()
    shutil.rmtree(array.paths.folder)
    return tasks


def _pickled(executor: Any, delayed: Any, folder: Path) -> Path:
    path = folder / f"{uuid.uuid4().hex}.pkl"
    delayed.set_timeout(executor.parameters["time"], executor.max_num_timeout)
    delayed.dump(path)
    return path
