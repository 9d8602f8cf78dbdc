"""A run's life through the commands, on the real local launcher and log, with a stand-in for the training worker."""

import hashlib
import json
import time
from pathlib import Path
from socket import gethostname

import pytest

import gmml_cluster
from gmml_cluster.cli import run_command
from gmml_cluster.cli.main import group
from gmml_cluster.cli.submit import command as gmml_submit
from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.launch import code as launch_code
from gmml_cluster.launch import prepare, submit
from gmml_cluster.launch.checks import existing
from gmml_cluster.launch.checks.indexed import Indexed
from gmml_cluster.launch.local.launcher import LocalLauncher
from gmml_cluster.launch.local.lock import holder, state_folder
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.plan.sample_layout import CorpusShape
from gmml_cluster.run import protocol
from gmml_cluster.run.root import SPEC, code_name, create_run, run_root
from gmml_cluster.spec.identity import identity
from gmml_cluster.spec.loading.validate import dump, load_job, to_yaml

WORKER = """
import argparse, os, signal
parser = argparse.ArgumentParser()
for name in ("root", "run", "submit", "job"):
    parser.add_argument("--" + name)
parser.add_argument("--restart", type=int)
given = parser.parse_args()
if os.environ["RANK"] != "0":
    os._exit(0)
from gmml_cluster.run import protocol
from gmml_cluster.run.root import run_root
log = run_root(given.root, given.run).log
me = dict(submit=given.submit, job=given.job, restart=given.restart)
attempt = protocol.claim(log, **me, topology={}, machine={}).attempt
protocol.begin(log, attempt, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
print("attempt", attempt, "works", flush=True)
if attempt == 2:
    protocol.end(log, attempt, "finished", step=9)
    os._exit(78)
signal.sigwait([signal.SIGTERM])
protocol.end(log, attempt, "cancelled" if protocol.look(log, attempt).stopped else "notice")
os._exit(77)
"""
JOB = """
name: tryit
model: {width: 32, depth: 2, heads: 2, patch_size: 4}
method: {name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 2}
data: {corpora: [{url: corpus, samples: 6400}], image_size: 32, group: 8}
batch: {size: 64}
run: {steps: 10}
"""


def stand_in(*_):
    package = Path(gmml_cluster.__file__).parent
    files = {f"gmml_cluster/{path.relative_to(package)}": path.read_bytes() for path in package.rglob("*.py")}
    return Snapshot.of({**files, "gmml_cluster/train/worker.py": WORKER.encode()})


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch_code, "take", stand_in)
    monkeypatch.setattr(submit, "preflight", lambda *_: [])
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "here.yaml").write_text("{launcher: local, root: runs, ranks_per_node: 2}")
    (tmp_path / "job.yaml").write_text(JOB)
    yield
    for path in state_folder().glob("*.lock"):  # no supervisor outlives its test, whatever failed
        left = holder(path)
        if left is not None:
            left.terminate()


@pytest.fixture
def call(monkeypatch, capsys):
    def run(command, *arguments):
        monkeypatch.setattr("sys.argv", [command, *arguments])
        with pytest.raises(SystemExit) as left:
            run_command.run(gmml_submit if command == "gmml-submit" else group)
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return run


@pytest.fixture
def unstarted(monkeypatch):
    """Jobs are taken and none starts: for tests that need a run and no process."""
    monkeypatch.setattr(LocalLauncher, "submit", lambda self, submission: f"{gethostname()}:none:{submission.token}")


def submitted(call, *arguments):
    return call("gmml-submit", "job.yaml", "--cluster", "here", *arguments)


def wait_for(call, state, deadline_s=60):
    until = time.monotonic() + deadline_s
    while True:
        _, out, _ = call("gmml", "status", "tryit", "--json")
        if json.loads(out)["state"] == state:
            return json.loads(out)
        assert time.monotonic() < until, out
        time.sleep(0.05)


def test_a_run_is_submitted_once_cancelled_resumed_finished_and_deleted(call, tmp_path):
    code, out, _ = submitted(call)
    assert code == 0
    assert "gmml logs -f tryit" in out
    assert json.loads(wait_for(call, "running") and submitted(call, "--json")[1])["action"] == "already"
    code, _, err = call("gmml", "rm", "tryit", "--yes")
    assert code == 2
    assert "it is running" in err
    assert "stopping" in call("gmml", "cancel", "tryit")[1]
    assert [attempt["cause"] for attempt in wait_for(call, "stopped")["attempts"]] == ["cancelled"]
    code, _, err = call("gmml", "resume", "tryit", "--follow")
    assert code == 0
    assert "attempt 2 works" in err
    assert wait_for(call, "finished")["step"] == 9
    assert json.loads(submitted(call, "--json", "checkpoint.keep=7")[1])["action"] == "finished"
    kinds = [json.loads(line)["kind"] for line in call("gmml", "log", "tryit", "--json")[1].splitlines()]
    first = ["open", "submit", "queued", "claim", "begin", "stop", "end"]
    assert sorted(kinds) == sorted([*first, "submit", "queued", "claim", "begin", "end"])
    assert call("gmml", "rm", "tryit", "--yes")[0] == 0
    assert not (tmp_path / "runs" / "tryit").exists()


def test_changes_outside_the_identity_are_kept_by_the_submit(call):
    submitted(call)
    wait_for(call, "running")
    call("gmml", "cancel", "tryit")
    wait_for(call, "stopped")
    out = json.loads(submitted(call, "--json", "checkpoint.keep=7")[1])
    assert (out["action"], out["changed"]) == ("resumed", {"checkpoint.keep": [3, 7]})
    wait_for(call, "finished")
    entries = [json.loads(line) for line in call("gmml", "log", "tryit", "--json")[1].splitlines()]
    assert [entry["changed"] for entry in entries if entry["kind"] == "submit"] == [{}, {"checkpoint.keep": [3, 7]}]


def test_another_identity_is_refused_and_lists_what_differs(call, unstarted):
    submitted(call)
    code, _, err = submitted(call, "batch.size=128", "seed=5")
    assert code == 2
    differing = [line.split(",")[0] for line in err.splitlines()]
    assert sorted(differing) == ["override batch.size=128: batch.size: 128", "override seed=5: seed: 5"]


def test_faults_of_plan_and_preflight_name_file_and_line(call, tmp_path, monkeypatch):
    code, _, err = call("gmml-submit", "job.yaml", "--cluster", "here", "data.lanes=1", "resources.nodes=4")
    assert code == 2
    assert err.startswith("override resources.nodes=4: resources.nodes: 4 nodes have 4 ranks or more")
    corpus = str(tmp_path / "corpus")
    faults = [Fault(corpus, "no shards"), Fault("slurm.folder", "none"), Fault("memory", "too little")]
    monkeypatch.setattr(submit, "preflight", lambda *_: faults)
    code, _, err = submitted(call)
    assert code == 3
    assert err.splitlines() == [
        f"job.yaml:5: data.corpora.0.url: {corpus}: no shards",
        "clusters/here.yaml:1: slurm.folder: none",
        "memory: too little",
    ]


def test_faults_of_job_and_profile_are_reported_together(call, tmp_path):
    (tmp_path / "clusters" / "odd.yaml").write_text("launcher: local\nroot: runs\nranks: 2\n")
    code, _, err = call("gmml-submit", "job.yaml", "--cluster", "odd", "batch.sise=3")
    assert code == 2
    assert [line.split(";")[0] for line in err.splitlines()] == [
        "override batch.sise=3: batch.sise: unknown key",
        "clusters/odd.yaml:3: ranks: unknown key",
    ]


def test_a_dry_run_names_the_line_of_a_profile_that_no_script_can_be_made_of(call, tmp_path, monkeypatch):
    def unreachable(root, name):
        raise StorageError(f"{root}: no answer")

    monkeypatch.setattr(existing, "run_root", unreachable)
    monkeypatch.setattr(prepare, "look_up", lambda job, root, **_: Indexed(None))
    profile = "launcher: slurm\nroot: s3://bucket/runs\nslurm: {cpus_per_rank: 1}\nranks_per_node: 2\n"
    (tmp_path / "clusters" / "far.yaml").write_text(profile)
    code, _, err = call("gmml-submit", "job.yaml", "--cluster", "far", "--dry-run")
    assert code == 3
    assert err.startswith("clusters/far.yaml:3: slurm.folder: 's3://bucket/runs/.slurm' is no folder; ")


def test_a_resume_on_a_cluster_that_does_not_fit_names_the_option_or_the_profiles_line(call, tmp_path, monkeypatch):
    job = load_job("job.yaml")
    run = create_run(str(tmp_path / "runs"), "tryit", {SPEC: to_yaml(job).encode()}, {"spec": identity(dump(job))})
    code_digest = hashlib.sha256(b"").hexdigest()
    protocol.submit(run.log, launcher="local", code=code_digest, bounds={"cluster": "here"})
    (tmp_path / "clusters" / "wide.yaml").write_text("launcher: slurm\nroot: runs\nranks_per_node: 9\n")
    code, _, err = call("gmml", "resume", "tryit", "--cluster", "wide")
    assert code == 2
    assert err.startswith("--cluster wide: resources.nodes: 1 node has 9 ranks")
    run.store.put(code_name(code_digest), b"")
    monkeypatch.setattr(submit, "preflight", lambda *_: [Fault("slurm.folder", "none")])
    code, _, err = call("gmml", "resume", "tryit", "--cluster", "here", "--take-over")
    assert code == 3
    assert err == "clusters/here.yaml:1: slurm.folder: none\n"


def test_a_refused_preflight_leaves_nothing_behind(call, tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "preflight", lambda *_: [Fault("store", "refused")])
    assert submitted(call)[0] == 3
    assert not (tmp_path / "runs").exists()


def test_a_job_that_cannot_be_launched_leaves_nothing_behind(call, tmp_path, monkeypatch):
    broken = Snapshot.of({"gmml_cluster/__init__.py": b"raise SystemExit('no bananas')"})
    monkeypatch.setattr(launch_code, "take", lambda *_: broken)
    code, _, err = submitted(call)
    assert code == 4
    assert "no bananas" in err
    assert not (tmp_path / "runs" / "tryit" / "run.json").exists()
    assert "no runs" in call("gmml", "status")[1]


def test_a_dry_run_touches_nothing(call, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, _ = submitted(call, "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["script"].endswith("--submit <token> --module gmml_cluster.train.worker --ranks 2\n")
    assert json.loads(out)["spec"]["data"]["corpora"][0]["url"] == str(tmp_path / "corpus")
    assert submitted(call, "--dry-run")[1].count("<token>") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_dry_run_refuses_what_submit_would_refuse_all_at_once(call, tmp_path, unstarted):
    submitted(call)
    code, _, err = submitted(call, "--dry-run", "seed=5", "resources.nodes=2..3")
    assert code == 2
    assert [line.split(";")[0] for line in err.splitlines()] == [
        "override resources.nodes=2..3: resources.nodes: 2..3 does not fit",
        f"override seed=5: seed: 5, but the run 'tryit' under {tmp_path}/runs was submitted with 0",
    ]


def test_a_dry_run_says_why_a_corpus_or_the_root_is_not_known(call, tmp_path, monkeypatch):
    assert f"not known: {tmp_path}/corpus: no shards" in submitted(call, "--dry-run")[1]

    def unreachable(root, name):
        raise StorageError(f"{root}: no answer")

    monkeypatch.setattr(existing, "run_root", unreachable)
    code, out, _ = submitted(call, "--dry-run")
    assert code == 0
    assert f"whether a run has this name already is not known: {tmp_path}/runs: no answer" in out


def test_samples_that_an_index_contradicts_are_refused(call, monkeypatch):
    monkeypatch.setattr(prepare, "look_up", lambda job, root, **_: Indexed((CorpusShape(1.0, (6000, 40)),)))
    code, _, err = submitted(call)
    assert code == 2
    assert err.startswith("job.yaml:5: data.corpora.0.samples: 6400 given, and the index counts 6040; ")
    assert submitted(call, "--dry-run", "data.corpora.0.samples=6040")[0] == 0


def test_a_dry_run_shows_what_the_local_launcher_sets(call, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = json.loads(submitted(call, "--dry-run", "--json")[1])["plan"]
    assert plan["environment"] == {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(("given", "message"), [("5..3", "runs backwards"), (f"0..{10**30}", "is too large")])
def test_sample_numbers_that_cannot_be_are_refused(call, given, message):
    code, _, err = call("gmml", "order", "job.yaml", "--samples", given)
    assert code == 2
    assert message in err


def test_a_dry_run_of_an_existing_run_shows_the_code_that_it_continues_with(call, unstarted, monkeypatch):
    submitted(call)
    monkeypatch.setattr(launch_code, "take", lambda *_: Snapshot.of({"gmml_cluster/__init__.py": b"new = True"}))
    document = json.loads(submitted(call, "--dry-run", "--json")[1])
    assert document["code"] == run_root("runs", "tryit").log.refresh().submit.code
    assert any("gmml resume tryit --code takes" in word for word in document["plan"]["notes"])


def test_a_run_that_is_still_stopping_is_neither_resumed_nor_taken_over(call, unstarted, monkeypatch):
    submitted(call)
    monkeypatch.setattr(LocalLauncher, "poll", lambda self, jobs: dict.fromkeys(jobs, JobReport("running")))
    run = run_root("runs", "tryit")
    named = {"submit": run.log.refresh().submit.token, "job": run.log.refresh().submit.job, "restart": 0}
    protocol.claim(run.log, **named, topology={}, machine={})
    protocol.stop(run.log, "cancelled by a person")
    code, out, _ = call("gmml", "resume", "tryit")
    assert code == 0
    assert "tryit is still stopping" in out
    assert "--take-over" not in out


def test_a_checked_log_is_reported_as_json_too(call, unstarted):
    submitted(call)
    assert json.loads(call("gmml", "log", "tryit", "--check", "--json")[1]) == {"version": 1, "faults": []}


def test_several_runs_are_listed_and_a_prefix_names_one(call, unstarted):
    submitted(call)
    submitted(call, "name=other")
    assert {run["run"] for run in json.loads(call("gmml", "status", "--json")[1])} == {"tryit", "other"}
    assert json.loads(call("gmml", "status", "oth", "--json")[1])["run"] == "other"


def test_a_broken_profile_or_log_hides_no_other_run(call, tmp_path):
    (tmp_path / "clusters" / "broken.yaml").write_text("{{{")
    for name in ("good", "spoilt"):
        create_run(str(tmp_path / "runs"), name, {}, {"spec": "0", "code": "0", "versions": {}})
    (tmp_path / "runs" / "spoilt" / "log" / "00000000.json").write_text("{")
    code, out, err = call("gmml", "status", "--json")
    assert code == 0
    good, spoilt = json.loads(out)
    assert (good["run"], spoilt["error"]) == ("good", "StorageError")
    assert "spoilt" in spoilt["faults"][0]["where"]
    assert "clusters/broken.yaml:1: no YAML" in err
    assert "spoilt" in err


def test_a_run_that_stopped_counts_as_failed_for_who_followed_it(call):
    submitted(call)
    wait_for(call, "running")
    call("gmml", "cancel", "tryit")
    wait_for(call, "stopped")
    call("gmml", "resume", "tryit", "--follow")
    assert wait_for(call, "finished")
    assert call("gmml", "logs", "tryit")[1] == "attempt 2 works\n"
    assert call("gmml", "logs", "tryit", "--attempt", "1")[1] == "attempt 1 works\n"
    assert call("gmml", "logs", "tryit", "--attempt", "3")[0] == 2
    assert call("gmml", "logs", "-f", "tryit", "--attempt", "1")[1] == "attempt 1 works\nattempt 2 works\n"


def test_an_attempt_older_than_the_last_fifty_is_still_read(call, tmp_path):
    run = create_run(str(tmp_path / "runs"), "restless", {}, {"spec": "0", "code": "0", "versions": {}})
    token = protocol.submit(run.log, launcher="local", code="0", bounds={"cluster": "here"}, changed={})
    for restart in range(53):
        protocol.claim(run.log, submit=token, job="gone", restart=restart, topology={"ranks": 1}, machine={})
    run.store.put("attempts/0002/rank-00000-000000.log", b"here I was\n")
    assert call("gmml", "logs", "restless", "--attempt", "2")[:2] == (0, "here I was\n")
    code, _, err = call("gmml", "logs", "restless", "--attempt", "54")
    assert code == 2
    assert "known are 1 to 53" in err


def test_a_submission_that_was_cut_off_is_reported_and_can_be_deleted(call, tmp_path, unstarted):
    (tmp_path / "runs" / "half").mkdir(parents=True)
    (tmp_path / "runs" / "half" / "run.json").write_text("{}")
    assert "half: its submission was cut off, or is under way; gmml rm half deletes it" in call("gmml", "status")[1]
    code, _, err = submitted(call, "name=half")
    assert code == 2
    assert "gmml rm" in err
    assert call("gmml", "rm", "half", "--yes")[0] == 0
    assert submitted(call, "name=half")[0] == 0


def test_a_rank_that_an_attempt_does_not_have_is_refused(call, tmp_path):
    log = create_run(str(tmp_path / "runs"), "claimed", {}, {"spec": "0", "code": "0", "versions": {}}).log
    token = protocol.submit(log, launcher="local", code="0", bounds={"cluster": "here"}, changed={})
    protocol.queued(log, token, "gone")
    protocol.claim(log, submit=token, job="gone", restart=0, topology={"ranks": 2}, machine={})
    code, _, err = call("gmml", "logs", "claimed", "--rank", "2")
    assert code == 2
    assert "attempt 1 has no rank 2; it has 2, counted from 0" in err
    assert call("gmml", "logs", "claimed", "--rank", "1")[0] == 0
