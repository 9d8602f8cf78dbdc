import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gmml_cluster.errors import LaunchError, PreflightError
from gmml_cluster.launch import imports
from gmml_cluster.launch.protocol import Queue, Submission
from gmml_cluster.launch.slurm import batch
from gmml_cluster.launch.slurm.errors import refusal
from gmml_cluster.launch.slurm.folders import job_folder, shared_folder
from gmml_cluster.launch.slurm.launcher import SlurmLauncher
from gmml_cluster.launch.slurm.options import control_characters, refused_options
from gmml_cluster.launch.slurm.preflight import limit
from gmml_cluster.launch.slurm.states import reports
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions

Tools = Callable[..., Path]


def submission(
    root: str = "/runs", nodes: str = "2", ranks: int = 4, cache: dict[str, str] | None = None, **slurm: object
) -> Submission:
    profile = ClusterProfile.model_validate(
        {"launcher": "slurm", "root": root, "environment": {"A": "it's"}, "secrets": ["KEY"], "slurm": slurm}
        | ({} if cache is None else {"node_cache": cache})
    )
    code = Snapshot("d1ge5t", b"")
    return submissions.submission(profile, token="tok3n", nodes=nodes, ranks_per_node=ranks, code=code)


def polled(**jobs: str) -> dict[str, str]:
    """States that the launcher reports, of jobs whose names begin with `j`: id -> run."""
    found = SlurmLauncher().poll({job.removeprefix("j"): name for job, name in jobs.items()})
    return {job: report.state for job, report in found.items()}


def options(made: Submission) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in batch.text(made).splitlines() if line.startswith("#SBATCH ")}


def test_every_field_of_the_profile_reaches_the_script() -> None:
    made = submission(
        partition="gpu", account="acc", qos="low", constraint="a100", exclude="n7", reservation="spring",
        gpus_per_node=4, cpus_per_rank=8, memory_per_node="64 GiB", time="90 min", notice="2 min",
        modules=["gcc/12", "cuda/12.4"], setup=["ulimit -n 8192"], folder="/shared/jobs",
        sbatch_args={"mail_type": "END", "exclusive": True}, srun_args=["--cpu-bind=none"],
        python="apptainer exec i.sif python", cache={"folder": "$TMPDIR/gmml", "limit": "2 GiB"},
    )  # fmt: skip
    assert options(made) >= {
        "--partition=gpu", "--account=acc", "--qos=low", "--constraint=a100", "--exclude=n7", "--gpus-per-node=4",
        "--reservation=spring",
        "--cpus-per-task=8", "--ntasks-per-node=4", "--mem=65536M", "--time=90", "--signal=USR2@120", "--requeue",
        "--open-mode=append", "--comment=tok3n", "--job-name=a-run", "--nodes=2", "--mail-type=END", "--exclusive",
        "--output=/shared/jobs/%j/%j_0_log.out",
    }  # fmt: skip
    lines = batch.text(made).splitlines()
    srun = next(line for line in lines if line.startswith("gmml_ranks()"))
    for word in (
        "--kill-on-bad-exit=1",
        "--export=ALL",
        "--ntasks-per-node=4",
        "--cpu-bind=none",
        "i.sif python -u -m",
    ):
        assert word in srun
    loaded = lines.index("for gmml_module in gcc/12 cuda/12.4; do")
    assert loaded < lines.index("ulimit -n 8192") < lines.index(srun)
    assert "export A='it'\"'\"'s'" in lines
    assert """export GMML_NODE_CACHE='{"folder":"$TMPDIR/gmml","limit":"2147483648 B"}'""" in lines


def test_guards_come_first_and_the_exit_code_is_taken_at_once() -> None:
    lines = batch.text(submission()).splitlines()
    assert lines[lines.index("# setup") + 1] == "trap '' TERM CONT USR2"
    assert lines[lines.index("# teardown") + 1 :] == ["gmml_after"]
    after = [line.strip() for line in lines[lines.index("gmml_after() {") + 1 :]]
    assert after[0] == "local rc=$?"
    assert after[2] == "trap '' TERM CONT USR2"


def test_a_range_of_nodes_asks_for_whole_shares_so_that_all_free_nodes_are_given() -> None:
    made = options(submission(nodes="2..16", cpus_per_rank=3))
    assert {"--nodes=2-16", "--cpus-per-task=12"} <= made
    assert not any(option.startswith("--ntasks") for option in made)


def test_the_script_shown_differs_from_the_real_one_in_the_token_alone() -> None:
    made = submission()
    assert batch.shown(made).replace("<token>", "tok3n") == batch.text(made)
    assert batch.shown(made) == batch.shown(replace(made, token="<token>"))


def test_a_job_that_must_not_be_requeued_says_so() -> None:
    made = options(submission(sbatch_args={"no-requeue": True}))
    assert "--no-requeue" in made
    assert "--requeue" not in made


def test_an_object_store_as_root_needs_a_folder_for_scripts() -> None:
    with pytest.raises(PreflightError, match=r"slurm\.folder.*share"):
        job_folder(submission(root="s3://bucket/runs"))
    assert job_folder(submission(root="s3://bucket/runs", folder="/nfs/j%j/x")) == Path("/nfs/j%j/x")
    assert shared_folder(submission(root="s3://bucket/runs", folder="/nfs/j%j/x")) == Path("/nfs")
    assert shared_folder(submission()) == Path("/runs/.slurm")


@pytest.mark.parametrize("name", ["signal", "open_mode", "job-name"])
def test_options_that_restarts_depend_on_are_refused(name: str) -> None:
    assert [fault.where for fault in refused_options(submission(sbatch_args={name: "x"}))] == ["slurm.sbatch_args"]


@pytest.mark.parametrize(("option", "field"), [("mem", "memory_per_node"), ("reservation", "reservation")])
def test_an_option_that_has_a_field_is_refused_and_the_field_named(option: str, field: str) -> None:
    (fault,) = refused_options(submission(sbatch_args={option: "1G"}))
    assert f"write slurm.{field} instead" in fault.hint


def test_gpus_of_a_type_are_in_the_script_once() -> None:
    made = options(submission(gpus_per_node=8, sbatch_args={"gpus-per-node": "a100:8"}))
    assert [option for option in made if option.startswith("--gpus-per-node")] == ["--gpus-per-node=a100:8"]


def test_no_tool_no_submission_and_the_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (fault,) = SlurmLauncher().preflight(submission())
    assert "sbatch, scancel, scontrol, squeue, srun not found" in fault.problem


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", "queued"), ("REQUEUE_HOLD", "queued"), ("CONFIGURING", "queued"),
        ("RUNNING", "running"), ("COMPLETING", "running"), ("SIGNALING", "running"), ("SUSPENDED", "running"),
        ("COMPLETED", "gone"), ("CANCELLED by 1000", "gone"), ("PREEMPTED", "gone"), ("TIMEOUT", "gone"),
        ("A_STATE_OF_NEXT_YEAR", "unknown"),
    ],
)  # fmt: skip
def test_states_of_slurm_are_four(word: str, state: str) -> None:
    assert reports(f"7|{word}|None|N/A|a-run\n", {"7": "a-run"})["7"].state == state


def test_a_job_not_listed_or_of_another_name_is_gone() -> None:
    found = reports("7|RUNNING|None|N/A|other|run\n", {"7": "a-run", "8": "a-run"})
    assert {job: report.state for job, report in found.items()} == {"7": "gone", "8": "gone"}


@pytest.mark.parametrize(
    ("shown", "expected", "has_start"),
    [
        ("Priority|2026-11-30T07:00:00", "higher priority are before it (Priority)", True),
        ("JobHeldUser|N/A", "held by its owner; `scontrol release 7`", False),
        ("ReqNodeNotAvail, UnavailableNodes:n2|N/A", "down, drained or reserved (ReqNodeNotAvail, Unavail", False),
        ("AReasonOfNextYear|N/A", "AReasonOfNextYear", False),
        ("None|N/A", "", False),
    ],
)
def test_a_queued_job_says_what_it_waits_for_and_until_when(shown: str, expected: str, has_start: bool) -> None:
    report = reports(f"7|PENDING|{shown}|a-run\n", {"7": "a-run"})["7"]
    assert expected in report.reason
    assert (report.expected_start is not None) is has_start


@pytest.mark.parametrize(
    ("stderr", "field", "expected"),
    [
        ("allocation failure: Invalid partition name specified", "slurm.partition", "'gpu' refused by SLURM: Invalid"),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "slurm.account",
            "'acc' refused by SLURM: Invalid account or account/partition combination",
        ),
        ("allocation failure: Invalid qos specification", "slurm.qos", "sacctmgr"),
        ("allocation failure: Requested reservation is invalid", "slurm.reservation", "scontrol show reservation"),
        ("sbatch: error: Invalid --distribution specification\n", "slurm.sbatch_args", "Invalid --distribution"),
        (
            "sbatch: unrecognized option '--bogus=1'\nTry \"sbatch --help\" for more information\n",
            "slurm.sbatch_args",
            "unrecognized option '--bogus=1'",
        ),
        ("allocation failure: Invalid node name specified\n", "slurm.exclude", "'n9' refused"),
        ("sbatch: error: Invalid generic resource (gres) specification\n", "slurm.gpus_per_node", "8 refused"),
        ("allocation failure: Requested node configuration is not available\n", "resources.nodes", "4 ranks, 256 CPUs"),
        ("allocation failure: Invalid feature specification\n", "slurm.constraint", "sinfo"),
        (
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's "
            "size and/or time limits)",
            "slurm.qos",
            "ask for less time",
        ),
        (
            "sbatch: error: invalid partition specified: gpu\nallocation failure: Invalid partition name specified\n",
            "slurm.partition",
            "'gpu' refused by SLURM: Invalid partition name specified; ",
        ),
        (
            "allocation failure: Requested time limit is invalid (missing or exceeds some limit)",
            "slurm.time",
            "refused by SLURM: Requested time limit",
        ),
        ("", "SLURM", "no reason given"),
    ],
)
def test_a_refusal_names_the_field_and_keeps_slurms_reason(stderr: str, field: str, expected: str) -> None:
    asked = {"exclude": "n9", "gpus_per_node": 8, "cpus_per_rank": 64}
    fault = refusal(stderr, submission(partition="gpu", account="acc", **asked))
    assert fault.where == field
    assert expected in f"{fault.problem}; {fault.hint}"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Replaces SLURM's tools by shell scripts; each call is noted in `calls`."""

    def put(**scripts: str) -> Path:
        for name, script in scripts.items():
            path = tmp_path / name
            path.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n{script}\n')
            path.chmod(0o755)
        return tmp_path / "calls"

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return put


@pytest.mark.parametrize("variable", ["SQUEUE_PARTITION", "SBATCH_NO_REQUEUE", "SLURM_MEM_PER_CPU"])
def test_no_tool_takes_options_from_the_shell(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "of-the-shell")
    monkeypatch.setenv("SLURM_CONF", "/etc/a/slurm.conf")
    note = f"env >> {tmp_path}/environment"
    tools(srun="", squeue=f"{note}; echo '1|RUNNING|None|N/A|a'", sbatch=f"{note}; echo Submitted batch job 17")
    assert polled(j1="a") == {"1": "running"}
    assert SlurmLauncher().submit(submission(root=str(tmp_path / "runs"))) == "17"
    seen = (tmp_path / "environment").read_text()
    assert "of-the-shell" not in seen
    assert seen.count("SLURM_CONF=/etc/a/slurm.conf") == 2
    assert os.environ[variable] == "of-the-shell"


def test_many_jobs_cost_one_call(tools: Tools) -> None:
    calls = tools(squeue="echo '1|RUNNING|None|N/A|a'; echo '2|PENDING|Priority|N/A|b'", sacct="exit 1")
    assert polled(j1="a", j2="b", j3="c") == {"1": "running", "2": "queued", "3": "gone"}
    assert calls.read_text().splitlines() == ["squeue -h -r -t all -j 1,2,3 -o %i|%T|%r|%S|%j"]
    assert SlurmLauncher().poll({}) == {}


def test_the_one_job_that_squeue_does_not_know_is_gone(tools: Tools) -> None:
    tools(squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert polled(j1="a") == {"1": "gone"}


@pytest.mark.parametrize("accounting", ["exit 1", "echo '1|RUNNING|a'", ""])
def test_where_squeue_fails_only_a_proven_end_is_an_end(tools: Tools, accounting: str) -> None:
    tools(squeue="exit 1", sacct=accounting)
    assert polled(j1="a") == {"1": "unknown"}
    tools(squeue="exit 1", sacct="echo '1|FAILED|a'")
    assert polled(j1="a", j2="b") == {"1": "gone", "2": "unknown"}


def test_cancelling_what_is_gone_is_no_error_and_an_unreachable_slurm_is(tools: Tools) -> None:
    tools(scancel="echo 'scancel: error: Kill job error on job id 1: Invalid job id specified' >&2; exit 1")
    SlurmLauncher().cancel("1")
    tools(scancel="echo 'scancel: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(LaunchError, match="Unable to contact slurm controller"):
        SlurmLauncher().cancel("1")


def test_a_notice_signals_the_ranks_and_a_cancel_ends_the_job(tools: Tools) -> None:
    calls = tools(scancel="")
    SlurmLauncher().give_notice("1")
    SlurmLauncher().cancel("1")
    assert calls.read_text().splitlines() == ["scancel --signal=USR2 1", "scancel 1"]


def test_a_refused_job_is_reported_with_slurms_reason(tools: Tools, tmp_path: Path) -> None:
    tools(srun="", sbatch="echo 'sbatch: error: Batch job submission failed: Job violates policy' >&2; exit 1")
    with pytest.raises(LaunchError, match="Job violates policy"):
        SlurmLauncher().submit(submission(root=str(tmp_path / "runs")))


def test_unset_secrets_are_named(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(srun="", sbatch="", squeue="", scancel="", scontrol="echo 'KillWait                = 30 sec'")
    monkeypatch.delenv("KEY", raising=False)
    assert [fault.where for fault in SlurmLauncher().preflight(submission(root=str(tmp_path)))] == ["secrets"]
    monkeypatch.setenv("KEY", "value")
    assert SlurmLauncher().preflight(submission(root=str(tmp_path))) == []


@pytest.mark.parametrize(
    ("partition", "nodes", "fields"),
    [("short", "2", ["slurm.time"]), ("short,long", "2", []), (None, "2", []), ("long", "9", ["resources.nodes"])],
)
def test_what_a_partition_would_let_wait_for_ever_is_refused(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition: str | None, nodes: str, fields: list[str]
) -> None:
    shown = (
        "PartitionName=short Default=NO MaxNodes=UNLIMITED MaxTime=00:30:00\n"
        "PartitionName=long Default=YES MaxNodes=8 MaxTime=7-00:00:00"
    )
    tools(srun="", sbatch="", squeue="", scancel="", scontrol=f"echo '{shown}'")
    monkeypatch.setenv("KEY", "value")
    faults = SlurmLauncher().preflight(submission(str(tmp_path), nodes, partition=partition, time="2 h"))
    assert [fault.where for fault in faults] == fields


@pytest.mark.parametrize(
    ("python", "expected"),
    [("the_python", "ModuleNotFoundError: fsspec"), ("of-the-nodes", None), (None, None)],
)
def test_a_python_that_cannot_bring_a_job_back_is_refused_where_it_can_be_tried(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str | None, expected: str | None
) -> None:
    tools(
        srun="",
        sbatch="",
        squeue="",
        scancel="",
        scontrol="",
        the_python="echo ModuleNotFoundError: fsspec >&2; exit 1",
    )
    monkeypatch.setenv("KEY", "value")
    faults = SlurmLauncher().preflight(submission(str(tmp_path), python=python))
    assert [fault.where for fault in faults] == ["slurm.python"] * (expected is not None)
    assert all(expected in fault.problem for fault in faults if expected)


def test_limits_are_read_as_slurm_writes_them() -> None:
    assert [limit(shown) for shown in ("8", "1-02:30:00", "00:10:30", "UNLIMITED")] == [8, 1590, 10.5, float("inf")]


@pytest.mark.parametrize(
    "brings",
    [{}, {"setup": ["module load torch"]}, {"modules": ["torch"]},
     {"container": {"runtime": "pyxis", "image": "gmml"}}],
)  # fmt: skip
def test_a_submitting_interpreter_without_torch_is_refused_unless_something_else_may_bring_it(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brings: dict[str, object]
) -> None:
    tools(srun="", sbatch="", squeue="", scancel="", scontrol="")
    monkeypatch.setenv("KEY", "value")
    monkeypatch.setattr(imports, "find_spec", lambda name: None if name == "torch" else object())
    faults = SlurmLauncher().preflight(submission(str(tmp_path), **brings))
    assert [fault.where for fault in faults] == ([] if brings else ["slurm.python"])
    assert all("has no torch" in fault.problem and "gmml-cluster[train]" in fault.hint for fault in faults)


@pytest.mark.parametrize("stderr", ["Unable to contact slurm controller (connect failure)", "Socket timed out on send"])
def test_a_controller_out_of_reach_is_no_refusal(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    tools(srun="", sbatch=f"echo 'sbatch: error: {stderr}' >&2; exit 1", squeue="", scancel="", scontrol="exit 1")
    monkeypatch.setenv("KEY", "value")
    with pytest.raises(LaunchError, match=f"out of reach.*{stderr.split('(')[0]}.*nothing was submitted") as caught:
        SlurmLauncher().preflight(submission(str(tmp_path)))
    assert caught.value.exit_code == 4


def test_a_job_that_cannot_come_back_is_warned_of_and_marked(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tools(srun="", sbatch="", squeue="", scancel="", scontrol="")
    monkeypatch.setenv("KEY", "value")
    made = submission(str(tmp_path), sbatch_args={"no_requeue": True})
    assert SlurmLauncher().preflight(made) == []
    assert "gmml resume a-run" in caplog.text
    assert SlurmLauncher().bounds(made)["requeue"] is False
    assert "requeue" not in SlurmLauncher().bounds(submission(str(tmp_path)))


PARTITIONS = """\
PartitionName=low Default=YES PreemptMode=REQUEUE GraceTime=0
PartitionName=graced Default=NO PreemptMode=CANCEL GraceTime=120
PartitionName=stopped Default=NO PreemptMode=SUSPEND GraceTime=0
PartitionName=high Default=NO PreemptMode=OFF GraceTime=0"""


@pytest.mark.parametrize(
    ("partition", "kind", "preemption"),
    [(None, "partition_prio", 30), ("graced", "partition_prio", 150), ("graced,low", "partition_prio", 30),
     ("high", "partition_prio", None), ("stopped", "partition_prio", None),
     ("low", "none", None), ("low", "qos", None)],
)  # fmt: skip
def test_the_submit_entry_has_how_long_each_notice_is(
    tools: Tools, partition: str | None, kind: str, preemption: int | None
) -> None:
    config = f"echo 'KillWait                = 30 sec'; echo 'PreemptType             = preempt/{kind}'"
    tools(scontrol=f"case \"$*\" in *config*) {config} ;; *) echo '{PARTITIONS}' ;; esac")
    found = SlurmLauncher().bounds(submission(partition=partition, notice="45 s"))["notices"]
    assert found == {"time_limit": 45, **({} if preemption is None else {"preemption": preemption})}


def test_a_suspended_job_runs_and_says_why_nothing_moves() -> None:
    report = reports("7|SUSPENDED|None|2026-11-30T01:00:00|a", {"7": "a"})["7"]
    assert (report.state, report.reason) == ("running", "suspended; its scheduler lets it go on later")


HOSTILE = "a\n#SBATCH --wrap=x"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("slurm.partition", {"partition": HOSTILE}),
        ("slurm.account", {"account": "a\rb"}),
        ("slurm.exclude", {"exclude": HOSTILE}),
        ("slurm.python", {"python": HOSTILE}),
        ("slurm.folder", {"folder": f"/{HOSTILE}"}),
        ("slurm.setup.1", {"setup": ["true", "true\nexit"]}),
        ("slurm.modules.0", {"modules": [HOSTILE]}),
        ("slurm.reservation", {"reservation": HOSTILE}),
        ("slurm.container.image", {"container": {"runtime": "apptainer", "image": HOSTILE}}),
        ("slurm.srun_args.0", {"srun_args": [HOSTILE]}),
        ("slurm.sbatch_args.comment-2", {"sbatch_args": {"comment-2": HOSTILE}}),
        ("slurm.sbatch_args", {"sbatch_args": {HOSTILE: "x"}}),
    ],
)
def test_no_value_of_a_profile_adds_a_line_to_the_script(field: str, values: dict[str, object]) -> None:
    made = submission(**values)
    assert field in [fault.where for fault in control_characters(made)]
    with pytest.raises(PreflightError, match=field):
        SlurmLauncher().script(made)


def test_a_line_break_in_a_variable_or_in_the_root_is_refused_too() -> None:
    made = submission(root="/a\nb")
    profile = made.profile.model_copy(update={"environment": {"A": "b\nc"}})
    found = [fault.where for fault in control_characters(replace(made, profile=profile))]
    assert found == ["root", "environment.A"]
    assert control_characters(submission(partition="a\tb")) == []


@pytest.mark.parametrize("accepted", [True, False])
def test_a_submission_leaves_no_file_outside_its_job_s_folder(tools: Tools, tmp_path: Path, accepted: bool) -> None:
    tools(srun="", sbatch="echo Submitted batch job 17" if accepted else "echo error: full >&2; exit 1")
    other = tmp_path / "runs/.slurm/.submission_file_other.sh"
    other.parent.mkdir(parents=True)
    other.write_text("#SBATCH --comment=another-token")
    if accepted:
        SlurmLauncher().submit(submission(root=str(tmp_path / "runs")))
    else:
        with pytest.raises(LaunchError):
            SlurmLauncher().submit(submission(root=str(tmp_path / "runs")))
    left = {path.name for path in (tmp_path / "runs/.slurm").iterdir()}
    assert left == {"code", other.name} | ({"17"} if accepted else set())
    if accepted:
        script = next((tmp_path / "runs/.slurm/17").glob("*_submission.sh"))
        assert "tok3n" in script.read_text()


def of_sweep(root: str, *names: str, parallel: int | None = 2, **slurm: object) -> list[Submission]:
    made = submission(root=root, **slurm)
    queue = Queue("vit-lr", parallel)
    return [replace(made, name=name, token=f"token-{name}", queue=queue) for name in names]


SBATCH = 'cp "$1" {folder}/script-$$; echo Submitted batch job 17'


def test_runs_of_a_sweep_are_one_array_whose_tasks_know_their_run(tools: Tools, tmp_path: Path) -> None:
    tools(srun="", sbatch=SBATCH.format(folder=tmp_path))
    runs = of_sweep(str(tmp_path / "runs"), "vit-lr1", "vit-lr2", "vit-lr3", python="the_python")
    assert SlurmLauncher().submit_all(runs) == ["17_0", "17_1", "17_2"]
    (script,) = [path.read_text() for path in tmp_path.glob("script-*")]
    folder = tmp_path / "runs/.slurm"
    assert {"#SBATCH --array=0-2%2", "#SBATCH --job-name=vit-lr"} <= set(script.splitlines())
    assert f"#SBATCH --output={folder}/%A_%a/%A_%a_0_log.out" in script
    assert f"1) gmml_run={tmp_path}/runs/vit-lr2 gmml_token=token-vit-lr2 ;;" in script.splitlines()
    assert "the_python -u -m submitit.core._submit" in script, "submitit's own array would take another Python"
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} - {"code/d1ge5t.zip"}
    assert left == {f"17_{n}/17_{n}_{end}" for n in range(3) for end in ("submission.sh", "submitted.pkl")}
    assert all(
        f"token-vit-lr{n + 1}".encode() in (folder / f"17_{n}/17_{n}_submitted.pkl").read_bytes() for n in range(3)
    )


def test_without_a_limit_all_tasks_may_run_at_once() -> None:
    assert "--array=0-1%2" in {
        line.removeprefix("#SBATCH ") for line in batch.text(*of_sweep("/runs", "a1", "a2", parallel=None)).splitlines()
    }


def test_runs_that_ask_for_other_nodes_or_avoid_some_are_arrays_of_their_own(tools: Tools, tmp_path: Path) -> None:
    tools(srun="", sbatch=SBATCH.format(folder=tmp_path))
    runs = of_sweep(str(tmp_path / "runs"), *(f"vit-{n}" for n in range(5)))
    runs[1] = submissions.with_plan(runs[1], nodes=(4, 4))
    runs[3] = submissions.with_plan(runs[3], nodes=(4, 4))
    runs[4] = replace(runs[4], excluded=("n3",))
    assert [[each.name for each in group] for group in batch.arrays(runs)] == [
        ["vit-0", "vit-2"],
        ["vit-1", "vit-3"],
        ["vit-4"],
    ]
    assert SlurmLauncher().submit_all(runs) == ["17_0", "17_0", "17_1", "17_1", "17"]


def test_an_array_that_sbatch_refuses_leaves_no_file_and_says_so_of_each_run(tools: Tools, tmp_path: Path) -> None:
    tools(srun="", sbatch="echo 'error: Invalid job array specification' >&2; exit 1")
    answers = SlurmLauncher().submit_all(of_sweep(str(tmp_path / "runs"), "a1", "a2"))
    assert [str(answer) for answer in answers] == [
        "sbatch: Invalid job array specification; nothing was submitted; remove the reason and submit again"
    ] * 2
    assert {path.name for path in (tmp_path / "runs/.slurm").iterdir()} == {"code"}


@pytest.mark.parametrize(("name", "state"), [("vit-lr", "running"), ("vit-lr1", "running"), ("vit-x", "gone")])
def test_a_task_is_known_by_what_the_names_of_its_array_begin_with(name: str, state: str) -> None:
    assert reports(f"17_1|RUNNING|None|N/A|{name}\n", {"17_1": "vit-lr1"})["17_1"].state == state


def test_a_task_behind_the_limit_says_what_it_waits_for() -> None:
    report = reports("17_1|PENDING|JobArrayTaskLimit|N/A|vit\n", {"17_1": "vit-1"})["17_1"]
    assert (report.state, report.reason.split(":")[0]) == ("queued", "waits for its turn")
