"""What an evaluation finds is kept once, said in the log, and changes nothing of the run."""

import json

import pytest
from click.testing import CliRunner

from gmml_cluster.cli import metrics
from gmml_cluster.cli.compare import command
from gmml_cluster.cli.evaluation_lines import evaluation_lines
from gmml_cluster.cli.log import sentence
from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.launch.jobs import Jobs, refs_of
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import status as launch_status
from gmml_cluster.launch.runs.status import statuses
from gmml_cluster.run import protocol
from gmml_cluster.run.results.evaluation_progress import EvaluationProgress, head_name, head_of
from gmml_cluster.run.results.evaluations import find, keep, kept, table, with_scores
from gmml_cluster.run.root import create_run, run_root
from gmml_cluster.track.protocol import curves


def document(step=7, accuracy=50.0, *, untrained=False, corpus="c1", bank="b", **settings):
    score = {"score": "knn", "feature": "mean", "accuracy": accuracy, "error": 1.5, "samples": 100, "k": 20, **settings}
    return {
        "version": 2,
        "step": step,
        "untrained": untrained,
        "code": "abc",
        "protocol": "p",
        "bank": {"url": "/bank", "samples": 900, "digest": bank},
        "corpus": {"url": "/held-out", "samples": 100, "digest": corpus},
        "scores": [{**score, "main": True}, {**score, "k": 10, "main": False}],
    }


def run_of(tmp_path, name="first"):
    return create_run(str(tmp_path), name, {"spec.yaml": b"{}"}, {})


def test_a_document_is_kept_once_and_the_log_says_so_with_its_digest(tmp_path):
    run = run_of(tmp_path)
    before = run.log.refresh()
    name = keep(run, document())
    assert keep(run, document()) == name
    (entry,) = [entry for entry in run.log.read(0) if entry.kind == "score"]
    assert entry.fields["file"] == name
    assert entry.fields["step"] == 7
    assert [score["accuracy"] for score in entry.fields["scores"]] == [50.0]
    assert kept(run) == [document()]
    after = run.log.refresh()
    assert (after.finished, after.attempts, after.submit) == (before.finished, before.attempts, before.submit)


def test_a_document_whose_entry_was_never_written_gets_it_with_the_next_call(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("gmml_cluster.run.protocol.score", lambda *arguments, **fields: None)
        keep(run, document())
    for _ in range(2):
        name = keep(run, document())
        assert [entry.fields["file"] for entry in run.log.read() if entry.kind == "score"] == [name]


ASKED = {"protocol": "p", "bank": "b", "corpus": "c1", "scores": [("knn", "mean")]}


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (8, {}),
        (7, {"bank": "other"}),
        (7, {"corpus": "other"}),
        (7, {"protocol": "other"}),
        (7, {"scores": [("knn", "mean"), ("linear", "mean")]}),
    ],
)
def test_a_document_answers_the_very_request_alone(tmp_path, step, changed):
    run = run_of(tmp_path)
    keep(run, document())
    keep(run, document(-1))
    assert find(run, 7, ASKED) == document()
    assert find(run, step, {**ASKED, **changed}) is None
    assert find(run, 0, ASKED) is None, "the document of the untrained network lies under the same prefix"


def test_documents_are_listed_by_step_and_only_their_main_scores(tmp_path):
    run = run_of(tmp_path)
    for step in (30, 4):
        keep(run, document(step))
    keep(run, document(-1, 10.0, untrained=True))
    assert [row["step"] for row in table(kept(run))] == [None, 4, 30]


def test_nothing_is_kept_where_there_is_no_run(tmp_path):
    assert keep(run_root(str(tmp_path), "none"), document()) is None
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_a_run_shows_its_scores(tmp_path):
    run = run_of(tmp_path)
    keep(run, document())
    assert lines_of(run) == ["  knn          50.0 ± 1.5 % by mean, step 7, on /held-out"]


def lines_of(run):
    (found,) = statuses([run], evaluations=True).documents
    return evaluation_lines(found["evaluations"])


def in_training(step, accuracy, seconds=2.5):
    return {**document(step, accuracy), "attempt": 1, "seconds": seconds}


def test_of_scores_made_while_it_trained_the_page_shows_the_latest_of_each_kind(tmp_path):
    run = run_of(tmp_path)
    for made in (in_training(3, 40.0), in_training(7, 45.0), document(9)):
        keep(run, made)
    assert lines_of(run) == [
        "  knn          50.0 ± 1.5 % by mean, step 9, on /held-out",
        "  knn          45.0 ± 1.5 % by mean, step 7, on /held-out, the last of 2 while it trained",
    ]


def test_metric_lines_carry_the_scores_that_were_made_while_it_trained(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in range(3)]
    linear = {**in_training(1, 44.0), "scores": [{**document()["scores"][0], "score": "linear", "main": True}]}
    found = with_scores(lines, [in_training(1, 40.0), linear, document(2)])
    assert found[0] == lines[0]
    assert found[1] == {"step": 1, "loss": 1.0, "knn_mean": 40.0, "linear_mean": 50.0, "evaluation_s": 5.0}
    assert found[2] == lines[2]
    assert metrics.row(found[1]).endswith("  knn_mean 40.0 %  linear_mean 50.0 %")
    assert {name for name, _ in curves(found[1])} == {"loss", "knn_mean", "linear_mean", "evaluation_s"}


def test_a_score_is_one_line_of_the_log(tmp_path):
    run = run_of(tmp_path)
    keep(run, document())
    assert "scores=knn 50.0 % by mean" in sentence(list(run.log.read())[-1])


def test_runs_are_compared_by_the_latest_of_each_kind_and_never_over_corpora(tmp_path):
    first, second = run_of(tmp_path), run_of(tmp_path, "second")
    for step, accuracy in ((4, 40.0), (30, 60.0)):
        keep(first, document(step, accuracy))
    keep(second, document(30, 55.0, corpus="c2"))
    done = CliRunner().invoke(command, ["first", "second", "--root", str(tmp_path), "--json"])
    found = [
        (row["run"], row["step"], row["accuracy"], row["corpus_digest"]) for row in json.loads(done.stdout)["scores"]
    ]
    assert found == [("first", 30, 60.0, "c1"), ("second", 30, 55.0, "c2")]
    shown = CliRunner().invoke(command, ["first", "second", "--root", str(tmp_path)]).stdout
    lines = shown.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["first", "30", "60.0", "±", "1.5", "-"],
        ["second", "30", "-", "55.0", "±", "1.5"],
    ]


def test_runs_of_which_nothing_is_kept_are_named_and_sent_to_eval(tmp_path):
    run_of(tmp_path)
    assert columns(tmp_path, "first") == ["first: no scores are kept; gmml eval first makes some"]
    for name in ("second", "third"):
        keep(run_of(tmp_path, name), document())
    *table, said = columns(tmp_path, "second", "first", "third")
    assert len(table) == 5
    assert said == "first: no scores are kept; gmml eval first makes some"
    done = CliRunner().invoke(command, ["second", "first", "--root", str(tmp_path), "--json"])
    assert [each["run"] for each in json.loads(done.stdout)["not_compared"]] == ["first"]


def test_a_run_that_shares_no_column_with_another_is_named(tmp_path):
    for name, corpus in (("first", "c1"), ("second", "c1"), ("third", "c2")):
        keep(run_of(tmp_path, name), document(corpus=corpus))
    (said,) = [line for line in columns(tmp_path, "first", "second", "third") if line.startswith("third:")]
    assert said.startswith("third: no score of the same corpus, bank and settings")
    assert not any(line.startswith("third:") for line in columns(tmp_path, "third")), "alone it is compared with none"


def columns(tmp_path, *names):
    return CliRunner().invoke(command, [*names, "--root", str(tmp_path)]).stdout.splitlines()


@pytest.mark.parametrize(
    "other", [{"score": "finetune", "epochs": 50}, {"score": "finetune", "epochs": 5, "bank": "b2"}]
)
def test_scores_of_different_protocols_or_banks_have_columns_of_their_own_that_say_so(tmp_path, other):
    keep(run_of(tmp_path), document(accuracy=40.0, score="finetune", epochs=5))
    keep(run_of(tmp_path, "second"), document(accuracy=60.0, **other))
    head, first, second, *notes = columns(tmp_path, "first", "second")
    assert head.split() == ["RUN", "STEP", "finetune", "mean", "[1]", "finetune", "mean", "[2]"]
    assert first.split()[2:] == ["40.0", "±", "1.5", "-"]
    assert second.split()[2:] == ["-", "60.0", "±", "1.5"]
    assert notes[0] == "finetune mean [1]: scored on /held-out, learnt from /bank (bank images 900, epochs 5, k 20)"
    assert notes[1].startswith("finetune mean [2]: ")
    assert [note.partition(":")[0] for note in notes[-2:]] == ["first", "second"]


def test_rates_that_linear_probes_chose_by_themselves_share_a_column(tmp_path):
    for name, lr in (("first", 0.1), ("second", 3.0)):
        keep(run_of(tmp_path, name), document(score="linear", lr=lr))
    head, _, second, *notes = columns(tmp_path, "first", "second")
    assert head.split() == ["RUN", "STEP", "linear", "mean"]
    assert second.split()[2] == "50.0"
    assert len(notes) == 2


def claimed(run):
    token = protocol.submit(run.log, launcher="local", code="c", bounds={})
    return protocol.claim(run.log, submit=token, job="1", restart=0, topology={}, machine={}).attempt


def reported(monkeypatch, state):
    jobs = lambda history: Jobs(dict.fromkeys(refs_of(history), JobReport(state)))  # noqa: E731
    monkeypatch.setattr(launch_status, "poll", lambda histories: {run: jobs(found) for run, found in histories.items()})


def evaluations_of(run):
    (found,) = statuses([run], evaluations=True).documents
    return found["evaluations"]


def test_an_evaluation_under_way_shows_its_attempt_and_beginning_until_it_ends_or_the_attempt_is_gone(
    tmp_path, monkeypatch
):
    run = run_of(tmp_path)
    reported(monkeypatch, "running")
    progress = EvaluationProgress(run, claimed(run))
    assert evaluations_of(run)["running"] is None
    progress.begin(7, 5000)
    found = evaluations_of(run)["running"]
    assert {name: found[name] for name in ("attempt", "step", "images")} == {"attempt": 1, "step": 7, "images": 5000}
    (line,) = lines_of(run)
    assert line.startswith("  evaluation   of step 7 on 5,000 images is running: attempt 1 since ")
    with monkeypatch.context() as patched:
        reported(patched, "gone")
        assert lines_of(run) == []
    progress.end()
    assert lines_of(run) == []


def test_an_evaluation_that_was_given_up_shows_its_reason_unless_a_later_attempt_scores_the_step(tmp_path):
    run = run_of(tmp_path)
    progress = EvaluationProgress(run, claimed(run))
    progress.begin(3, 100)
    progress.give_up(3, "StorageError: corpus.tar: gone")
    (given_up,) = evaluations_of(run)["given_up"]
    assert (given_up["attempt"], given_up["step"]) == (1, 3)
    (line,) = lines_of(run)
    assert line.startswith("  evaluation   of step 3 was given up by attempt 1 at ")
    assert line.endswith(": StorageError: corpus.tar: gone")
    claimed(run)
    keep(run, {**in_training(3, 40.0), "attempt": 2})
    assert evaluations_of(run)["given_up"] == []


def test_a_store_that_takes_no_progress_costs_no_score(tmp_path, monkeypatch, caplog):
    run = run_of(tmp_path)

    def fail(*arguments):
        raise StorageError(Fault("s3://b", "gone"))

    monkeypatch.setattr(type(run.store), "put", fail)
    EvaluationProgress(run, 1).begin(3, 100)
    assert "gmml status does not know" in caplog.text


def test_runs_that_train_heads_are_named_with_what_they_are_doing(tmp_path):
    run = run_of(tmp_path)
    head = run_of(tmp_path, head_name("first", "attentive", "0123abcd"))
    run_of(tmp_path, "first-attentive")
    run_of(tmp_path, head_name("second", "attentive", "0123abcd"))
    (found,) = evaluations_of(run)["heads"]
    assert (found["score"], found["run"], found["state"]) == ("attentive", head.name, "empty")
    assert lines_of(run) == ["  attentive    the run first-attentive-0123abcd trains it: empty"]


@pytest.mark.parametrize("name", ["a", "a" * 63])
def test_the_name_of_a_heads_run_leads_back_to_the_run_that_is_scored(name):
    made = head_name(name, "finetune", "0123abcd")
    assert len(made) <= 63
    assert head_of(made, name) == "finetune"
    assert head_of(name, name) is None
