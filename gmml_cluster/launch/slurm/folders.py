"""Where a job's script, logs and code lie, on a file system that all nodes share."""

from pathlib import Path

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.protocol import Submission


def job_folder(submission: Submission) -> Path:
    """Folder of each job's script and logs, with `%j` for the job's number.

    Raises:
        PreflightError: the root is an object store and the profile names no folder.
    """
    given = submission.profile.slurm.folder or f"{submission.root.rstrip('/').removeprefix('file://')}/.slurm"
    if "://" in given:
        problem = f"{given!r} is no folder; job scripts and logs need one on a file system that all nodes share"
        raise PreflightError(Fault("slurm.folder", problem, "name one"))
    folder = Path(given).expanduser().absolute()
    return folder if "%j" in given else folder / "%j"


def shared_folder(submission: Submission) -> Path:
    """The part of the job folder that does not depend on the job's number; pickles and code lie there."""
    folder = job_folder(submission)
    cut = next(index for index, part in enumerate(folder.parts) if "%j" in part)
    return Path(*folder.parts[:cut])


def archive(submission: Submission) -> Path:
    """Where the code snapshot lies for all nodes."""
    return shared_folder(submission) / "code" / submission.code.file_name


def clean(submission: Submission) -> None:
    """Delete what submitit leaves in the shared folder for this submission.

    submitit 1.5.4 writes `.submission_file_<uuid>.sh` and `<uuid>.pkl` there. It moves both into the job's folder when
    sbatch has answered, but keeps a symlink for the script, and keeps both files where sbatch refused.
    """
    token = submission.token.encode()
    folder = shared_folder(submission)
    for path in [*folder.glob(".submission_file_*.sh"), *folder.glob("*.pkl")]:
        try:
            if token in path.read_bytes():
                path.unlink(missing_ok=True)
        except OSError:  # another submission has just moved its own
            continue
