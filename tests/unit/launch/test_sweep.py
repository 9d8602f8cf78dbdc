"""A sweep is submitted whole or not at all, and nothing of it twice."""

import pytest
import yaml
from click.testing import CliRunner

from gmml_cluster import api
from gmml_cluster.cli.cancel import command as cancel
from gmml_cluster.cli.resume import command as resume
from gmml_cluster.cli.submit import command
from gmml_cluster.errors import Fault, LaunchError, PreflightError, SpecError, StorageError
from gmml_cluster.launch import submit as submit_module
from gmml_cluster.launch import sweep
from gmml_cluster.launch.local.launcher import LocalLauncher
from gmml_cluster.launch.protocol import JobReport, Queue
from gmml_cluster.launch.sweep import prepare_sweep, resume_all, submit_sweep
from gmml_cluster.run.finding.sweeps import entries_of
from gmml_cluster.run.root import create_run, run_root
from tests.fixtures import submissions
from tests.fixtures.outputs import checked
from tests.unit.launch.checks.test_preflight import png, shard

LR = "optim.lr=1e-4,3e-4"
RUNS = ["few-lr1e-4", "few-lr3e-4"]


class Scheduler:
    """Takes every run, but those whose names end as `refused` does; remembers what it was handed in each call."""

    def __init__(self):
        self.calls, self.queue, self.refused = [], set(), "never"

    def submit_all(self, submissions):
        self.calls.append([(each.name, each.queue) for each in submissions])
        return [self._taken(each) for each in submissions]

    def _taken(self, submission):
        if submission.name.endswith(self.refused):
            return LaunchError(Fault("sbatch", "full"))
        self.queue.add(submission.token)
        return submission.token

    def poll(self, asked):
        return {job: JobReport("queued" if job in self.queue else "gone") for job in asked}


@pytest.fixture
def scheduler(monkeypatch):
    made = Scheduler()
    monkeypatch.setattr(LocalLauncher, "submit_all", lambda self, submissions: made.submit_all(submissions))
    monkeypatch.setattr(LocalLauncher, "poll", lambda self, asked: made.poll(asked))
    monkeypatch.setattr(LocalLauncher, "cancel", lambda self, job: made.queue.discard(job))
    return made


@pytest.fixture
def job(tmp_path, monkeypatch, scheduler):
    """Job file and profile of a tiny run."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    corpus = shard(tmp_path / "few.tar", {f"{y}.png": png() for y in range(8)})
    spec = {**submissions.TINY, "name": "few", "data": {"corpora": [{"url": corpus}], "image_size": 8}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"launcher": "local", "root": str(tmp_path / "runs")}))
    return str(tmp_path / "job.yaml"), str(tmp_path / "cluster.yaml")


def submit(job, *swept, parallel=None, **options):
    prepared = prepare_sweep(job[0], swept, cluster=job[1], parallel=parallel, overrides=options.pop("overrides", ()))
    return submit_sweep(prepared, **options)


def actions(launched):
    return {done.run.name: done.action for done in launched.done}


def histories(tmp_path):
    return [run_root(str(tmp_path / "runs"), name).log.refresh() for name in RUNS]


def test_all_runs_are_handed_over_by_one_call_and_the_record_names_them(job, scheduler, tmp_path):
    assert actions(submit(job, LR, parallel=2)) == dict.fromkeys(RUNS, "submitted")
    queue = Queue("few-lr", 2)
    assert scheduler.calls == [[(name, queue) for name in RUNS]]
    assert [history.submit.bounds["queue"] for history in histories(tmp_path)] == [
        {"name": "few-lr", "parallel": 2}
    ] * 2
    assert [history.submit.failed for history in histories(tmp_path)] == [None] * 2
    entries = entries_of(str(tmp_path / "runs"), "few-lr")
    assert [(entry.run, entry.overrides) for entry in entries] == [
        (name, (f"optim.lr={lr}",)) for name, lr in zip(RUNS, ("1e-4", "3e-4"), strict=True)
    ]
    assert [run_root(str(tmp_path / "runs"), name).job({}).optim.lr for name in RUNS] == [1e-4, 3e-4]


def test_the_same_sweep_again_submits_nothing_twice_and_one_that_grew_its_new_runs(job, scheduler, tmp_path):
    submit(job, LR)
    assert actions(submit(job, LR)) == dict.fromkeys(RUNS, "already")
    assert scheduler.calls[1:] == []
    assert actions(submit(job, f"{LR},1e-3")) == {**dict.fromkeys(RUNS, "already"), "few-lr1e-3": "submitted"}
    assert [name for name, _ in scheduler.calls[-1]] == ["few-lr1e-3"]
    assert len(entries_of(str(tmp_path / "runs"), "few-lr")) == 3


def test_all_refusals_come_at_once_and_nothing_is_submitted(job, scheduler, tmp_path):
    with pytest.raises(SpecError) as refused:
        submit(job, "optim.lr=1e-4,-1", "batch.size=16,none", overrides=["optim.momentum=1"])
    said = "\n".join(map(str, refused.value.faults))
    assert said.count("unknown key") == 1, "what is wrong with all runs is said once"
    assert "few-lr1-size16, few-lr1-size-none: override optim.lr=-1" in said
    assert "few-lr1e-4-size-none, few-lr1-size-none: override batch.size=none" in said
    assert scheduler.calls == []
    assert not (tmp_path / "runs").exists()


def test_a_preflight_that_refuses_one_run_refuses_all(job, scheduler, tmp_path, monkeypatch):
    def preflight(self, submission):
        return [Fault("memory", "too little", "buy some")] if submission.name == RUNS[1] else []

    monkeypatch.setattr(LocalLauncher, "preflight", preflight)
    with pytest.raises(PreflightError, match=f"{RUNS[1]}: memory: too little; buy some"):
        submit(job, LR)
    assert scheduler.calls == []
    assert not list((tmp_path / "runs").glob("few*"))


def test_a_run_that_the_scheduler_refuses_touches_no_other_and_leaves_nothing(job, scheduler, tmp_path):
    scheduler.refused = "3e-4"
    launched = submit(job, LR)
    assert actions(launched) == {RUNS[0]: "submitted"}
    assert str(launched.failed[RUNS[1]]) == "sbatch: full"
    assert not (tmp_path / "runs" / RUNS[1]).exists()
    scheduler.refused = "never"
    assert actions(submit(job, LR)) == {RUNS[0]: "already", RUNS[1]: "submitted"}


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), LaunchError("out of reach")])
def test_where_handing_over_fails_as_a_whole_no_run_is_left(job, tmp_path, monkeypatch, trouble):
    def fail(self, submissions):
        raise trouble

    monkeypatch.setattr(LocalLauncher, "submit_all", fail)
    with pytest.raises(type(trouble)):
        submit(job, LR)
    assert not list((tmp_path / "runs").glob("few*"))


def test_where_a_run_cannot_be_created_those_before_it_are_removed(job, scheduler, tmp_path, monkeypatch):
    real = submit_module.create_run

    def created(root, name, *rest):
        if name == RUNS[1]:
            raise StorageError("disk full")
        return real(root, name, *rest)

    monkeypatch.setattr(submit_module, "create_run", created)
    with pytest.raises(StorageError, match="disk full"):
        submit(job, LR)
    assert scheduler.calls == []
    assert not list((tmp_path / "runs").glob("few*"))


def test_another_method_replaces_the_section_as_its_options_mean_nothing_to_it(job):
    prepared = prepare_sweep(job[0], ["method.name=mae,relvit"], cluster=job[1])
    assert [each.job.method.name for each in prepared.prepared] == ["mae", "relvit"]
    assert prepared.prepared[0].job.method.decoder_width == 8


def test_an_option_that_is_given_to_all_methods_of_a_sweep_reaches_each(job):
    given = ["method.mask_ratio=0.5", "data.image_size=32"]
    prepared = prepare_sweep(job[0], ["method.name=mae,simmim"], cluster=job[1], overrides=given)
    assert [each.job.method.mask_ratio for each in prepared.prepared] == [0.5, 0.5]
    with pytest.raises(SpecError, match=r"few-relvit: .*method\.mask_ratio"):
        prepare_sweep(job[0], ["method.name=mae,relvit"], cluster=job[1], overrides=given)


def test_one_run_written_in_two_ways_is_refused(job):
    with pytest.raises(SpecError, match=r"few-lr1e-4, few-lr0\.0001: are the same run, written in several ways"):
        submit(job, "optim.lr=1e-4,0.0001")


def test_a_sweep_whose_name_a_run_has_is_refused(job, tmp_path):
    create_run(str(tmp_path / "runs"), "few-lr", {}, {})
    with pytest.raises(SpecError, match=r"few-lr: a run under .* has the name that the sweep would have; add name="):
        submit(job, LR)


def test_a_job_whose_name_no_run_can_have_is_refused_as_by_a_single_submission(job):
    with pytest.raises(SpecError, match="override name=A b"):
        submit(job, LR, overrides=["name=A b"])


def invoke(of, *arguments):
    done = CliRunner().invoke(of, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_sweep_is_cancelled_and_resumed_by_its_name_with_its_limit(job, scheduler, tmp_path):
    root = ("--root", tmp_path / "runs")
    shown = invoke(command, job[0], "--cluster", job[1], "--sweep", LR, "--parallel", 2)
    assert "few-lr: 2 runs, 2 at once" in shown
    assert all(f"{name}: submitted as job" in shown for name in RUNS)
    assert [line.split(":")[0] for line in invoke(cancel, "few-lr", *root).splitlines()] == RUNS
    assert scheduler.queue == set()
    assert all(history.stopped for history in histories(tmp_path))
    assert invoke(cancel, "few-*", *root).startswith("no run is at work")
    assert all(f"{name}: resumed as job" in invoke(resume, "few-lr", *root) for name in RUNS[:1])
    assert scheduler.calls[-1] == [(name, Queue("few-lr", 2)) for name in RUNS]


def test_a_run_that_cannot_be_resumed_keeps_no_other_from_it(job, scheduler, tmp_path, monkeypatch):
    submit(job, LR)
    invoke(cancel, *RUNS, "--root", tmp_path / "runs")
    real = sweep.ask

    def asked(ready):
        if ready.run.name == RUNS[0]:
            raise StorageError("out of reach")
        return real(ready)

    monkeypatch.setattr(sweep, "ask", asked)
    done = resume_all([run_root(str(tmp_path / "runs"), name) for name in RUNS])
    assert (actions(done), str(done.failed[RUNS[0]])) == ({RUNS[1]: "resumed"}, "out of reach")
    assert [history.stopped is None for history in histories(tmp_path)] == [False, True]


def test_several_runs_are_cancelled_by_their_names(job, scheduler, tmp_path):
    submit(job, LR)
    shown = invoke(cancel, *RUNS, "--root", tmp_path / "runs")
    assert [line.split(":")[0] for line in shown.splitlines()] == RUNS
    assert scheduler.queue == set()


def test_programs_get_what_came_of_each_run(job, scheduler, tmp_path):
    scheduler.refused = "3e-4"
    done = CliRunner().invoke(command, [job[0], "--cluster", job[1], "--sweep", LR, "--json"])
    (document,) = checked("sweep", done.stdout)
    assert (document["version"], document["sweep"], document["root"]) == (1, "few-lr", str(tmp_path / "runs"))
    assert [(run["run"], run["action"], run["overrides"]) for run in document["runs"]] == [
        (RUNS[0], "submitted", ["optim.lr=1e-4"])
    ]
    (failed,) = document["failed"]
    assert (failed["run"], failed["problem"]) == (RUNS[1], "sbatch: full")
    assert (failed["error"], failed["exit_code"], failed["faults"][0]["problem"]) == ("LaunchError", 4, "full")


def test_a_dry_run_plans_every_run_and_touches_nothing(job, scheduler, tmp_path):
    arguments = [job[0], "--cluster", job[1], "--sweep", LR, "--dry-run"]
    shown = CliRunner().invoke(command, arguments).stdout
    assert "few-lr1e-4: optim.lr=1e-4" in shown
    assert "--queue few-lr --parallel 1" in shown
    (document,) = checked("sweep-dry-run", CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert [run["spec"]["optim"]["lr"] for run in document["runs"]] == [1e-4, 3e-4]
    assert scheduler.calls == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "said"), [(["--follow", "--sweep", LR], "--follow shows one run"), (["--parallel", "2"], "is of a sweep")]
)
def test_options_that_do_not_go_together_are_refused(job, more, said):
    done = CliRunner().invoke(command, [job[0], *more])
    assert (done.exit_code, said in done.output) == (2, True)


def test_from_python_a_sweep_is_a_mapping_of_values(job, scheduler):
    done = api.submit_sweep(job[0], {"optim.lr": [1e-4, "3e-4"], "seed": [1]}, job[1], parallel=1)
    assert [run.name for run in done.runs] == ["few-lr0.0001-seed1", "few-lr3e-4-seed1"]
    assert [run.submitted.action for run in done.runs] == ["submitted"] * 2


def test_of_two_submissions_of_a_sweep_at_once_one_starts_its_runs(job, scheduler, monkeypatch):
    prepared = prepare_sweep(job[0], [LR], cluster=job[1])
    real, others = sweep.ask, []

    def asked(ready):
        if not others:
            others.append({})
            others[0] = actions(submit_sweep(prepared))
        return real(ready)

    monkeypatch.setattr(sweep, "ask", asked)
    assert actions(submit_sweep(prepared)) == dict.fromkeys(RUNS, "already")
    assert others == [dict.fromkeys(RUNS, "submitted")]
    assert len(scheduler.calls) == 1
