"""The lines by which a profile's image and modules reach the batch script, run by a real bash with stand-ins."""

import hashlib
import subprocess
from difflib import ndiff
from pathlib import Path

import pytest
from pydantic import ValidationError

from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.slurm import batch
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.run.codes import UNFIT
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions

DATA = b"not really a zip"
SRUN = (
    'gmml_ranks() { srun "${gmml_step[@]}" --unbuffered --output /jobs/%j/%j_%t_log.out --error /jobs/%j/%j_%t_log.err '
    "--ntasks-per-node=1 --cpus-per-task=1 --kill-on-bad-exit=1 --export=ALL "
)
RANKS = " -u -m submitit.core._submit /jobs/%j; }"
CHECK = " -m gmml_cluster.launch.imports --exit 80 torch || exit 80"
PYXIS = (
    "'--container-image=lab#gmml:1' --container-mounts=/runs:/runs,/jobs:/jobs,/data:/data,/x:/y:ro "
    "--container-env=PYTHONPATH,NCCL_DEBUG env PYTHONNOUSERSITE=1 /opt/gmml/bin/python3"
)
APPTAINER = (
    "apptainer exec --nv --bind=/runs:/runs --bind=/jobs:/jobs --bind=/data:/data --bind=/x:/y:ro 'lab#gmml:1' "
    "env PYTHONNOUSERSITE=1 /opt/gmml/bin/python3"
)
MODULES = """\
for gmml_file in /etc/profile.d/{modules,lmod,z00_lmod}.sh; do
    declare -F module >/dev/null || [ ! -r "$gmml_file" ] || . "$gmml_file" || true
done
for gmml_module in gcc/12 'cuda 12'; do
    module load "$gmml_module" ||
        { echo "slurm.modules: $gmml_module cannot be loaded on $(hostname)" >&2; exit 1; }
done""".splitlines()


def submission(root: str = "/runs", **slurm: object) -> Submission:
    section = {"python": "the_python", "folder": "/jobs", "gpus_per_node": 4, **slurm}
    profile = {"launcher": "slurm", "root": root, "environment": {"NCCL_DEBUG": "WARN"}, "slurm": section}
    code = Snapshot(hashlib.sha256(DATA).hexdigest(), DATA)
    return submissions.submission(ClusterProfile.model_validate(profile), token="tok3n", code=code)


def container(runtime: str, **fields: object) -> dict[str, object]:
    given = {"image": "lab#gmml:1", "mounts": ["/data", "/x:/y:ro"], "python": "/opt/gmml/bin/python3"}
    return {"container": {"runtime": runtime, **given, **fields}}


def changed(made: Submission, plain: Submission) -> tuple[list[str], list[str]]:
    """Lines that a script has not any more and those that it has instead, beside the same one without the field."""
    lines = list(ndiff(batch.text(plain).splitlines(), batch.text(made).splitlines()))
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


@pytest.mark.parametrize(
    ("fields", "taken", "added"),
    [
        (container("pyxis"), [f"the_python{CHECK}", f"{SRUN}the_python{RANKS}"], [f"{SRUN}{PYXIS}{RANKS}"]),
        (
            container("apptainer"),
            [f"the_python{CHECK}", f"{SRUN}the_python{RANKS}"],
            [
                'export APPTAINERENV_PYTHONPATH="$PYTHONPATH"',
                'export APPTAINERENV_NCCL_DEBUG="$NCCL_DEBUG"',
                f"{APPTAINER}{CHECK}",
                f"{SRUN}{APPTAINER}{RANKS}",
            ],
        ),
        ({"modules": ["gcc/12", "cuda 12"]}, [], MODULES),
        ({"reservation": "spring"}, [], ["#SBATCH --reservation=spring"]),
    ],
    ids=["pyxis", "apptainer", "modules", "reservation"],
)  # fmt: skip
def test_a_field_changes_these_lines_of_the_script_and_no_other(
    fields: dict[str, object], taken: list[str], added: list[str]
) -> None:
    assert changed(submission(**fields), submission()) == (taken, added)


@pytest.mark.parametrize(
    ("root", "fields", "mounts"),
    [
        ("s3://bucket/runs", {"mounts": []}, "/jobs:/jobs"),
        ("/jobs", {"mounts": ["/data"]}, "/jobs:/jobs,/data:/data"),
        ("/runs", {"mounts": ["/scratch/runs:/runs:rw"]}, "/jobs:/jobs,/scratch/runs:/runs:rw"),
    ],
)
def test_the_root_and_the_job_folder_are_mounted_once_unless_the_profile_says_how(
    root: str, fields: dict[str, object], mounts: str
) -> None:
    assert f" --container-mounts={mounts} " in batch.text(submission(root, **container("pyxis", **fields)))


@pytest.mark.parametrize("mount", ["data", "/a,/b", "/a:b", "/a:/b:ro:x", ""])
def test_a_mount_that_would_mean_something_else_is_refused(mount: str) -> None:
    with pytest.raises(ValidationError, match="is no mount"):
        submission(**container("pyxis", mounts=[mount]))


def run(folder: Path, lines: list[str], **scripts: str) -> "subprocess.CompletedProcess[str]":
    """Shell lines as job 17, with shell scripts in place of programs."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    given = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "17", "PYTHONPATH": "/mine"}
    return subprocess.run(["bash", "-c", "\n".join(lines)], env=given, capture_output=True, text=True, check=False)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A job folder in which the code of job 17 and its error file lie."""
    (tmp_path / "17").mkdir()
    (tmp_path / "17/17_0_log.err").touch()
    (tmp_path / "code").mkdir()
    batch.archive(submission(folder=str(tmp_path))).write_bytes(DATA)
    return tmp_path


ENDED = {"scontrol": "echo JobState=RUNNING Restarts=0", "the_python": "echo nothing"}


@pytest.mark.parametrize(("module", "code"), [("cuda", 0), ("rocm", 1)])
def test_a_module_that_cannot_be_loaded_ends_the_job_before_any_rank_and_is_named(
    there: Path, module: str, code: int
) -> None:
    lines = batch.setup_lines(submission(folder=str(there), modules=["gcc", module], setup=["echo after $LOADED"]))
    defined = 'module() { [ "$2" != rocm ] && LOADED="$LOADED $2"; }'
    done = run(there, [defined, *lines, "trap - EXIT", "exit 0"], **ENDED)
    assert done.returncode == code
    assert ("after gcc cuda" in done.stdout) is (code == 0)
    assert ("slurm.modules: rocm cannot be loaded on" in done.stderr) is (code == 1)


def test_an_image_that_lacks_what_ranks_import_ends_the_first_start(there: Path) -> None:
    lines = batch.setup_lines(submission(folder=str(there), **container("apptainer")))
    image = f'echo "$APPTAINERENV_PYTHONPATH|$APPTAINERENV_NCCL_DEBUG|$*" > {there}/asked; exit {UNFIT}'
    done = run(there, [*lines, "echo ran"], apptainer=image, **ENDED)
    assert done.returncode == UNFIT
    assert "ran" not in done.stdout.splitlines()
    code, debug, words = (there / "asked").read_text().split("|")
    assert code == f"{batch.archive(submission(folder=str(there)))}:/mine"
    assert debug == "WARN"
    assert words.startswith("exec --nv --bind=/runs:/runs")
    assert "-m gmml_cluster.launch.imports" in words


def test_the_verdict_is_asked_of_the_node_s_own_python(there: Path) -> None:
    lines = batch.setup_lines(submission(folder=str(there), **container("pyxis")))
    noted = {**ENDED, "the_python": f"echo $* >> {there}/asked; echo nothing"}
    run(there, [*lines, "(exit 77)", "gmml_after"], **noted)
    asked = (there / "asked").read_text().splitlines()
    assert [line.split()[1] for line in asked] == ["gmml_cluster.launch.slurm.restart", "gmml_cluster.launch.notify"]
