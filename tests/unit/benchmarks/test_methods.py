"""The table of methods: names of runs, what is resumed and not run again, and the report of what has finished."""

from types import SimpleNamespace

import pytest

from benchmarks.methods import __main__ as command
from benchmarks.methods import costs, measured, runs
from benchmarks.methods.costs import Cost
from benchmarks.methods.jobs import JOBS, encoder_job, head_job
from benchmarks.methods.results import Result, Scored, result, scores_of
from benchmarks.methods.runs import Bench, measure, train
from benchmarks.methods.table import report
from benchmarks.methods.trials import CORPORA, IMAGES, METHODS, Trial, trials
from benchmarks.rows import Ratio
from gmml_cluster.errors import Fault, RunFailed
from gmml_cluster.launch import probes
from gmml_cluster.launch.prepare import with_absolute_paths
from gmml_cluster.run.results.evaluations import keep
from gmml_cluster.run.root import SPEC, create_run, run_root
from gmml_cluster.spec.job import run_name
from gmml_cluster.spec.loading.validate import dump, to_yaml
from tests.unit.data.conftest import write_tar

MAE = Trial("cifar10", "mae", 0, 2000)
START = Trial("cifar10", "mae", 0, 2000, scratch=True)


def wanted(**changes):
    return list(trials(**{"only": command.ALL, "corpora": tuple(CORPORA), "seeds": 3, "images": IMAGES, **changes}))


# ---- what is measured, and its names ------------------------------------------------------------------------------


def test_the_whole_table_has_three_seeds_of_gmml_mae_and_their_starts_and_one_of_them_on_the_other_corpus():
    chosen = [(trial.corpus, trial.method, trial.seed, trial.scratch) for trial in wanted()]
    both = ((c, s) for c in CORPORA for s in range(3) if c == "cifar10" or s == 0)
    seeded = {(c, m, s, x) for c, s in both for m in ("mae", "gmml") for x in (False, True)}
    others = {("cifar10", m, 0, x) for m in METHODS if m not in ("mae", "gmml") for x in (False, True)}
    assert set(chosen) == seeded | others
    assert len(chosen) == len(set(chosen))
    assert [seed for *_, seed, _ in chosen] == sorted(seed for *_, seed, _ in chosen)


def test_only_seeds_and_corpora_restrict_the_table():
    names = [trial.name for trial in wanted(only=("mae", "scratch"), seeds=1, corpora=("cifar10",), images=2000)]
    assert names == ["cifar10-mae-2000-s0", "cifar10-mae-start-s0"]
    assert [trial.row for trial in wanted(only=("capi",))] == ["capi"]
    assert {trial.scratch for trial in wanted(only=("scratch",))} == {True}
    assert {trial.method for trial in wanted(only=("scratch",))} == set(METHODS)


def test_a_name_holds_method_seed_corpus_and_budget_and_no_two_runs_share_one():
    every = [trial for images in (2000, IMAGES) for trial in wanted(images=images)]
    encoders = {trial.name for trial in every if not trial.scratch} | {trial.name for trial in every if trial.scratch}
    heads = [trial.head_name(head) for trial in every for head in trial.heads]
    assert len(heads) == len(set(heads))
    assert not encoders & set(heads)
    assert all(run_name(name) == name for name in [*encoders, *heads])
    assert Trial("tiny_imagenet_50", "gmml", 2, IMAGES).name == "tiny_imagenet_50-gmml-300000-s2"
    assert Trial("cifar10", "mae", 1, IMAGES).head_name("finetune") == "cifar10-mae-100000-s1-finetune-16000"


def test_the_command_beside_the_table_repeats_it_without_this_machines_folders(tmp_path):
    asked = command.parsed(["--only", "mae,scratch", "--seeds", "1", "--root", str(tmp_path), "--report"])
    assert command.command_of(asked) == "python -m benchmarks.methods --only mae,scratch --seeds 1"
    assert command.command_of(command.parsed([])) == "python -m benchmarks.methods"


@pytest.mark.parametrize("words", [["--only", "mae,dino"], ["--seeds", "0"], ["--corpora", "photos"]])
def test_what_is_not_known_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        command.parsed(words)
    assert words[0] in capsys.readouterr().err


# ---- the jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scratch", [False, True])
def test_every_method_has_one_encoder_and_batch_and_its_budget(method, scratch, tmp_path):
    job = encoder_job(Trial("cifar10", method, 1, IMAGES, scratch), tmp_path)
    assert (job.model.width, job.model.depth, job.model.heads, job.model.patch_size) == (96, 6, 3, 4)
    name = "mae" if method == "amt" else method
    assert (job.method.name, job.seed, job.batch.size, job.data.image_size) == (name, 1, 64, 32)
    assert job.optim.lr_per is None
    if scratch:
        assert (job.run.steps, job.optim.schedule.start_lr, job.optim.schedule.law) == (1, 0, "fractional")
    else:
        assert job.run.samples == (300_000 if method == "gmml" else 100_000)


@pytest.mark.parametrize("method", METHODS)
def test_a_start_differs_from_its_method_in_name_length_and_schedule_alone(method, tmp_path):
    own, start = (
        dump(encoder_job(Trial("cifar10", method, 0, IMAGES, scratch), tmp_path)) for scratch in (False, True)
    )
    for document in (own, start):
        for name in ("name", "run"):
            del document[name]
        del document["optim"]["schedule"]
    assert own == start


def test_images_of_tiny_imagenet_give_as_many_patches():
    for method in ("mae", "gmml"):
        job = encoder_job(Trial("tiny_imagenet_50", method, 0, IMAGES), JOBS)
        assert (job.data.image_size, job.model.patch_size) == (64, 8)


@pytest.fixture
def encoder_of(tmp_path, monkeypatch):
    """Makes the run of a trial's encoder with a checkpoint, on a corpus of ten classes; gives the root."""
    members = [(f"{y:02d}.{end}", b"%d" % (y % 10)) for y in range(30) for end in ("png", "cls")]
    (tmp_path / "cifar10").mkdir()
    write_tar(tmp_path / "cifar10" / "train-0.tar", members)
    monkeypatch.setattr(probes, "commit_of", lambda run, step: SimpleNamespace(step=7))

    def make(trial):
        job = with_absolute_paths(encoder_job(trial, tmp_path))
        create_run(str(tmp_path), trial.name, {SPEC: to_yaml(job).encode()}, {})
        return str(tmp_path)

    return make


@pytest.mark.parametrize("head", ["finetune", "attentive"])
def test_heads_are_trained_alike_on_every_encoder_and_on_its_start(head, encoder_of):
    recipes = []
    for method in METHODS:
        for scratch in (False, True):
            trial = Trial("cifar10", method, 0, IMAGES, scratch)
            job = head_job(trial, head, encoder_of(trial))
            assert (job.name, job.init.what, job.method.classes) == (trial.head_name(head), "encoder", 10)
            assert job.init.run.endswith(trial.name)
            recipe = dump(job)
            del recipe["name"], recipe["init"], recipe["method"]["encoder"]
            recipes.append(recipe)
    assert all(recipe == recipes[0] for recipe in recipes)
    steps = recipes[0]["run"]["samples"] / recipes[0]["batch"]["size"]
    assert (steps, recipes[0]["model"]["drop_path"]) == (250, 0)


# ---- running and resuming ------------------------------------------------------------------------------------------


class FakeRun:
    """A run that answers as the real one, and notes what is asked of it."""

    def __init__(self, action, waits=None):
        self.submitted, self.asked, self.waits = SimpleNamespace(action=action), [], waits

    def wait(self):
        self.asked.append("wait")
        if self.waits is not None:
            raise self.waits

    def cancel(self):
        self.asked.append("cancel")
        return "asked to stop"


@pytest.fixture
def submit(monkeypatch):
    def answers(*actions, waits=None):
        made = [FakeRun(action, waits) for action in actions]
        left = iter(made)
        monkeypatch.setattr(runs.api, "submit", lambda file, profile: next(left))
        monkeypatch.setattr(runs, "_STOPPING_S", 0)
        return made

    return answers


@pytest.mark.parametrize(("action", "asked"), [("finished", []), ("submitted", ["wait"]), ("already", ["wait"])])
def test_a_finished_run_is_not_waited_for_and_one_at_work_is(action, asked, submit, tmp_path):
    (run,) = submit(action)
    train(Bench(tmp_path), encoder_job(MAE, tmp_path))
    assert run.asked == asked
    assert (tmp_path / "jobs" / f"{MAE.name}.yaml").is_file()


def test_a_run_that_saves_yet_is_submitted_again_once_it_has_stopped(submit, tmp_path):
    first, second, third = submit("stopping", "stopping", "resumed")
    train(Bench(tmp_path), encoder_job(MAE, tmp_path))
    assert (first.asked, second.asked, third.asked) == ([], [], ["wait"])


def test_an_interrupted_wait_asks_the_run_to_save_and_stop(submit, tmp_path):
    (run,) = submit("submitted", waits=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        train(Bench(tmp_path), encoder_job(MAE, tmp_path))
    assert run.asked == ["wait", "cancel"]


def test_what_is_scored_is_not_scored_again(monkeypatch, tmp_path):
    trained, called = [], []
    monkeypatch.setattr(runs, "train", lambda bench, job: trained.append(job))
    monkeypatch.setattr(runs, "head_job", lambda trial, head, root: head)
    monkeypatch.setattr(runs, "_python", lambda module, *words: called.append(module))
    have = dict.fromkeys(("knn", "linear", "attentive"), Scored(50.0, 1.0))
    monkeypatch.setattr(runs, "scores_of", lambda root, trial: have)
    measure(Bench(tmp_path), MAE)
    assert trained[1:] == ["attentive", "finetune"]
    assert called == ["gmml_cluster.evaluate.classify"]
    have["finetune"] = Scored(40.0, 1.0)
    called.clear()
    measure(Bench(tmp_path), MAE)
    assert called == []


def test_a_trial_that_fails_hides_no_other_and_the_command_says_so(monkeypatch, tmp_path, capsys):
    def fail_first(bench, trial):
        if trial == MAE:
            raise RunFailed(Fault(trial.name, "it ended with an error"))

    monkeypatch.setattr(command, "measure", fail_first)
    assert command.measure_all(Bench(tmp_path), [MAE, START]) == 1
    assert f"{MAE.name}: it ended" in capsys.readouterr().err


# ---- results and the report ----------------------------------------------------------------------------------------


def test_a_score_of_another_budgets_head_is_not_this_ones(make_run):
    root = make_run(START.name)
    for images, accuracy in ((320, 20.0), (16000, 34.0)):
        keep(run_root(root, START.name), document("finetune", accuracy, f"{START.name}-finetune-{images}"))
    assert scores_of(root, START) == {"finetune": Scored(20.0, 1.0)}


def document(score, accuracy, head):
    found = {"score": score, "feature": "pool", "accuracy": accuracy, "error": 1.0, "samples": 2500, "main": True}
    protocol = f"head of the run {head}, its last checkpoint"
    return {"version": 2, "step": 0, "untrained": False, "protocol": protocol, "scores": [found]}


@pytest.fixture
def make_run(tmp_path):
    def make(name):
        create_run(str(tmp_path), name, {"spec.yaml": b""}, {"spec": {}, "code": "0", "versions": {}})
        return str(tmp_path)

    return make


def test_a_run_that_does_not_exist_is_missing(tmp_path):
    found = result(str(tmp_path), MAE)
    assert (found.finished, found.missing) == (False, [MAE.name])


def done(seed, finetune, *, scratch=False):
    scores = {"finetune": finetune, "attentive": 40.0, "linear": 45.0, "knn": 35.0}
    trial = Trial("cifar10", "mae", seed, IMAGES, scratch)
    known = {name: Scored(value, 1.0) for name, value in scores.items()}
    return Result(trial, True, known, "2 cores")


def test_what_is_measured_is_kept_whole_and_not_measured_again(monkeypatch, tmp_path):
    monkeypatch.setattr(measured, "MEASURED", tmp_path / "measured.json")
    measured.MEASURED.write_text("{}")
    half = Result(Trial("cifar10", "gmml", 0, IMAGES), True, {"knn": Scored(28.0, 0.9)})
    other_budget = Result(START, True, done(0, 30.0).scores)
    whole = [done(0, 43.0), done(0, 34.0, scratch=True)]
    for found in [half, other_budget, Result(Trial("cifar10", "amt", 0, IMAGES), False), *whole]:
        measured.keep(found)
    assert measured.known([*wanted(), START]) == {found.trial: found for found in whole}
    asked = []
    monkeypatch.setattr(command, "measure", lambda bench, trial: asked.append(trial))
    command.measure_all(Bench(tmp_path), [whole[0].trial, half.trial])
    assert asked == [half.trial]


def test_the_table_has_mean_sampling_error_spread_gain_and_cost(monkeypatch, tmp_path):
    monkeypatch.setattr(costs, "COSTS", tmp_path / "costs.json")
    costs.keep_costs({"mae": Cost(400.0, Ratio(1.0, 1.0, 1.0), 1.0), "gmml": Cost(100.0, Ratio(4.0, 3.9, 4.2), 5.0)})
    gmml = Result(Trial("cifar10", "gmml", 0, IMAGES), True, {"knn": Scored(28.0, 0.9)})
    seeds = [done(0, 43.0), done(1, 45.0), done(0, 34.0, scratch=True), done(1, 35.0, scratch=True)]
    text = report([*seeds, gmml], "python -m benchmarks.methods")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    frozen = "40.0 ± 1.0 (0.0) | 45.0 ± 1.0 (0.0) | 35.0 ± 1.0 (0.0)"
    assert rows[1:] == [
        f"| mae | 100,000 | 2 | 44.0 ± 1.0 (1.4) | +9.5 (0.7) | {frozen} | 400 | 1.00 (1.00 to 1.00) | 1.00 |",
        f"| scratch, start of mae | 0 | 2 | 34.5 ± 1.0 (0.7) | - | {frozen} | - | - | - |",
        "| gmml | 300,000 | 1 | - | - | - | - | 28.0 ± 0.9 | 100 | 4.00 (3.90 to 4.20) | 5.00 |",
    ]
    assert "- cifar10-gmml-300000-s0: finetune" in text
    assert "`python -m benchmarks.methods`" in text
    assert "A trial" not in text


def test_the_report_names_what_is_missing_and_that_a_small_budget_compares_nothing():
    text = report([Result(MAE, False), Result(START, False)], "x")
    assert "no figure here compares methods" in text
    assert text.endswith("## Missing\n\n- cifar10-mae-2000-s0\n- cifar10-mae-start-s0\n")
    assert "## cifar10" not in text


def test_a_partial_report_says_so_first_and_of_which_methods_nothing_stands_there():
    unknown = [Result(Trial("cifar10", name, 0, IMAGES), False) for name in ("gmml", "capi")]
    bare = Result(Trial("cifar10", "amt", 0, IMAGES), True, {"knn": Scored(28.0, 0.9)})
    text = report([done(0, 43.0), bare, *unknown, Result(Trial("tiny_imagenet_50", "gmml", 0, IMAGES), False)], "x")
    said = "**Partial: 1 of 5 encoders are trained and scored. Only what was measured is below.**"
    assert text.splitlines()[4:7] == [said, "Nothing of gmml, capi on cifar10.", "Nothing of gmml on tiny_imagenet_50."]
    settings = text.partition("## Settings")[2].partition("## Missing")[0]
    assert "- mae: " in settings
    assert "- amt: " in settings
    assert "- gmml: " not in settings
    assert "Partial" not in report([done(0, 43.0)], "x")


@pytest.mark.parametrize(
    ("own", "start", "said"),
    [
        ((43.0, 45.0), (34.0, 35.0), "which is 1.4 at most: met."),
        ((36.0, 38.0), (33.0, 34.0), "which is 1.4 at most: **not met**."),
        ((40.0, 50.0), (34.0, 35.0), "which is 7.1 at most: **not met**."),
    ],
)
def test_the_report_says_whether_mae_is_as_far_above_its_start_as_it_has_to_be(own, start, said):
    seeds = [done(seed, value) for seed, value in enumerate(own)]
    starts = [done(seed, value, scratch=True) for seed, value in enumerate(start)]
    assert said in report([*seeds, *starts], "x")
    assert "demanded" not in report([seeds[0], starts[0]], "x")


def test_a_seed_without_its_score_is_counted_beside_the_mean():
    bare = Result(Trial("cifar10", "mae", 1, IMAGES), True, {})
    assert "43.0 ± 1.0 [1 of 2 seeds]" in report([done(0, 43.0), bare], "x")


def test_the_page_is_written_only_when_asked(monkeypatch, tmp_path, capsys):
    page = tmp_path / "comparison.md"
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "prepare", lambda *given: None)
    monkeypatch.setattr(command, "measure", lambda bench, trial: None)
    (tmp_path / "expand.py").touch()
    folders = ["--root", str(tmp_path / "bench"), "--data", str(tmp_path), "--images", "2000"]
    assert command.main(folders) == 0
    assert not page.exists()
    assert capsys.readouterr().out.startswith("# Methods compared")
    monkeypatch.setattr(command, "measure", lambda *given: pytest.fail("a report runs nothing"))
    assert command.main([*folders, "--report"]) == 0
    assert "python -m benchmarks.methods --images 2000" in page.read_text()
