"""The loop makes every step once, saves on the step that all ranks agree on, and stops for the right reason."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.corpus.pinned import PinnedCorpus, PinnedShard, PinnedShards
from gmml_cluster.data.node_cache.cache import CacheFigures
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.fetch import Wanted
from gmml_cluster.data.reader.stream import HostBatch
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import EmaUpdate, Losses
from gmml_cluster.plan.sample_layout import MicroBatches
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.train.checkpoints.resume import skips_to_resume
from gmml_cluster.train.engines.schedule import Schedule
from gmml_cluster.train.loop import run
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.stepper import Skip, Stepper, padded

GROUP, BATCH = 2, 12
PIN = Pin([PinnedCorpus("/c", 1.0, "identity", PinnedShards.of([PinnedShard(ShardFile("/c/s.tar", 1, "1"), 24)], ""))])


def job(augment="none"):
    return parse_job(
        {
            "name": "x",
            "model": {"width": 8, "depth": 1, "heads": 1, "patch_size": 4},
            "method": {"name": "mae", "decoder_width": 8, "decoder_heads": 1},
            "data": {"corpora": [{"url": "/c"}], "image_size": 8, "group": GROUP, "augment": augment},
            "batch": {"size": BATCH},
            "run": {"steps": 100},
        }
    )


class Engine:
    """Stands for an engine of one rank: the update is remembered, the vector is the extras behind one norm."""

    def __init__(self, bad_steps=()):
        self.losses, self.lasts, self.updates, self.bad_steps = [], [], [], bad_steps
        self.follows = []
        self.names = ("w",)
        self.adam_step, self.skips_in_a_row = 0, torch.zeros((), dtype=torch.int64)

    def forward(self, images):
        return images.mean((1, 2, 3, 4))

    def backward(self, loss, last):
        self.losses.append(float(loss.detach()))
        self.lasts.append(last)

    def lerp(self, targets, sources, weight):
        self.follows.append((len(self.updates), targets, sources, weight))

    def step(self, lr, weight_decay, extras):
        self.updates.append((lr, weight_decay))
        norm = float("nan") if len(self.updates) - 1 in self.bad_steps else 4.0
        return torch.cat([torch.tensor([norm], dtype=torch.float64), extras])


class Method:
    """Loss of a group: the sum of its samples' numbers."""

    views = 1

    def draw(self, numbers, device):
        return {"numbers": numbers}

    def loss(self, forward, images, draws):
        groups = draws["numbers"].view(-1, GROUP).sum(1).float()
        return Losses(groups, {"two": torch.stack([2 * groups, groups], 1)}, {})


class Batches:
    def __init__(self, first=0):
        self.step = first

    def next(self):
        numbers = np.arange(self.step * BATCH, (self.step + 1) * BATCH)
        self.step += 1
        return HostBatch(self.step - 1, numbers, np.zeros((BATCH, 1, 3, 8, 8), np.uint8), (Wanted(0, 5),), unchecked=7)


class Taught(Method):
    """Has a teacher whose weight falls with the schedule."""

    def after_step(self, step, steps):
        return EmaUpdate(("teacher.w",), ("encoder.w",), 1 - step / steps)


def stepper(engine, *, method=None, micro=None, stop_request=None, save_due=lambda: False, first=0):
    spec = job()
    return Stepper(
        job=spec,
        method=method or Method(),
        engine=engine,
        batches=Batches(first),
        schedule=Schedule.of(spec.optim, batch=BATCH, run_steps=100, epoch_steps=1),
        micro=micro or MicroBatches(6, 1, 0.0),
        groups=6,
        group=GROUP,
        rank_info=RankInfo(0, 1, 0, 1),
        device=torch.device("cpu"),
        stop_request=stop_request or StopRequest(),
        limit=Limit(PIN, 0.5),
        attempt=3,
        save_due=save_due,
    )


class Saver:
    def __init__(self):
        self.saved = []

    def begin(self, step, state):
        self.saved.append(step)

    def check(self):
        pass

    def finish(self):
        self.saved.append("committed")


def train(engine, *, first=0, total=8, every_steps=None, evaluation=None, maps=None, **options):
    saver, reports = Saver(), []
    outcome, last = run(
        stepper(engine, first=first, **options),
        saver,
        first=first,
        total=total,
        every_steps=every_steps,
        write=reports.append,
        evaluation=evaluation,
        maps=maps,
    )
    return outcome, last, saver.saved, [report.line for report in reports]


def test_every_step_is_made_once_and_has_one_line():
    engine = Engine()
    outcome, last, saved, lines = train(engine, total=7)
    assert (outcome, last, saved) == ("finished", 6, [6])
    assert [line["step"] for line in lines] == list(range(7))
    assert len(engine.updates) == 7


def test_a_resumed_loop_starts_at_its_step_with_that_steps_samples():
    _, last, _, lines = train(Engine(), first=4, total=6)
    assert [line["step"] for line in lines] == [4, 5]
    assert lines[0]["loss"] == sum(range(48, 60)) / 6
    assert last == 5


def test_saves_fall_on_multiples_of_the_interval_and_on_the_last_step():
    _, _, saved, lines = train(Engine(), total=8, every_steps=3)
    assert saved == [2, 5, 7]
    assert [line["step"] for line in lines] == list(range(8))


def test_a_notice_is_read_one_step_late_and_the_step_made_then_is_saved():
    stop_request = StopRequest()
    stop_request.give("notice")
    engine = Engine()
    outcome, last, saved, lines = train(engine, stop_request=stop_request)
    assert (outcome, last, saved) == ("notice", 1, [1])
    assert len(engine.updates) == 2
    assert [line["step"] for line in lines] == [0, 1]


def test_a_notice_in_the_last_step_loses_to_the_end_of_the_run():
    stop_request = StopRequest()
    stop_request.give("notice")
    assert train(Engine(), total=2, stop_request=stop_request)[:3] == ("finished", 1, [1])


def test_a_cancel_outranks_a_notice():
    stop_request = StopRequest()
    stop_request.give("cancelled")
    stop_request.give("notice")
    assert train(Engine(), stop_request=stop_request)[0] == "cancelled"


def test_a_save_by_time_is_agreed_through_the_vector_and_does_not_stop_the_run():
    due = iter([False, True, False, False, False, False])
    outcome, _, saved, lines = train(Engine(), total=6, save_due=lambda: next(due))
    assert (outcome, saved) == ("finished", [2, 5])
    assert [line["step"] for line in lines] == list(range(6))


class Evaluation:
    """Scores every third step, which takes a while."""

    def __init__(self, engine, result=""):
        self.engine, self.result, self.seen = engine, result, []

    def due(self, step):
        return (step + 1) % 3 == 0

    def run(self, step, committed):
        committed()
        self.seen.append((step, len(self.engine.updates)))
        time.sleep(0.2)
        return self.result


def test_a_step_that_is_scored_is_saved_and_nothing_is_enqueued_before_its_score():
    engine = Engine()
    evaluation = Evaluation(engine)
    outcome, last, saved, lines = train(engine, total=7, evaluation=evaluation)
    assert (outcome, last, saved) == ("finished", 6, [2, "committed", 5, "committed", 6])
    assert evaluation.seen == [(2, 3), (5, 6)]
    assert [line["step"] for line in lines] == list(range(7))
    assert all(line["step_s"] < 0.2 for line in lines), "the evaluation's time is no step's"


def test_a_stop_during_an_evaluation_ends_the_attempt_at_its_step():
    engine = Engine()
    assert train(engine, evaluation=Evaluation(engine, "notice"))[:3] == ("notice", 2, [2, "committed"])
    assert len(engine.updates) == 3


def test_a_stop_that_came_before_is_not_kept_waiting_by_an_evaluation():
    stop_request, engine = StopRequest(), Engine()
    stop_request.give("notice")
    evaluation = Evaluation(engine)
    assert train(engine, first=1, stop_request=stop_request, evaluation=evaluation)[:2] == ("notice", 2)
    assert evaluation.seen == []


def test_weights_that_are_not_finite_are_not_scored():
    engine = Engine(bad_steps={0, 1, 2})
    evaluation = Evaluation(engine)
    assert train(engine, total=3, evaluation=evaluation)[0] == "not_finite"
    assert evaluation.seen == []


def test_one_step_that_is_not_finite_is_reported_and_passed_over():
    outcome, _, _, lines = train(Engine(bad_steps={2}), total=5)
    assert outcome == "finished"
    assert [line["skipped"] for line in lines] == [False, False, True, False, False]
    assert lines[2]["grad_norm"] is None


class Spoilt(Method):
    """The loss of the group of samples 14 and 15 is not a number."""

    def loss(self, forward, images, draws):
        made = super().loss(forward, images, draws)
        bad = (draws["numbers"].view(-1, GROUP) == 14).any(1)
        return replace(made, groups=torch.where(bad, torch.nan, made.groups))


@pytest.mark.parametrize("micro", [MicroBatches(6, 1, 0.0), MicroBatches(4, 2, 0.25)])
def test_a_skipped_step_names_the_loss_and_the_samples_of_its_group(micro):
    made = stepper(Engine(), method=Spoilt(), micro=micro)
    reports = [made.read_step(made.enqueue(step)) for step in range(3)]
    assert [report.skip for report in reports] == [None, Skip(1, "the loss", (12, 23), [14, 15]), None]


def test_a_skipped_step_whose_losses_are_finite_names_the_gradient():
    made = stepper(Engine(bad_steps={0}))
    assert made.read_step(made.enqueue(0)).skip == Skip(0, "the gradient of w", (0, 11), [])


def test_three_in_a_row_that_are_not_finite_end_the_attempt():
    outcome, last, saved, lines = train(Engine(bad_steps={1, 3, 4, 5}), total=20)
    assert (outcome, last, saved) == ("not_finite", 5, [5])
    assert [line["step"] for line in lines] == list(range(6))


@pytest.mark.parametrize("total", [6, 7])
def test_a_run_whose_last_updates_were_left_out_has_not_finished(total):
    outcome, last, saved, _ = train(Engine(bad_steps={3, 4, 5}), total=total)
    assert (outcome, last, saved) == ("not_finite", 5, [5])


def test_skips_are_counted_on_from_the_checkpoint_and_a_latched_count_is_reset():
    assert [skips_to_resume(skips) for skips in range(4)] == [0, 1, 2, 0]
    made = stepper(Engine(bad_steps={0, 1}))
    made.skips_in_a_row = 1
    assert [made.read_step(made.enqueue(step)).stop for step in range(2)] == ["", "not_finite"]


@pytest.mark.parametrize("micro", [MicroBatches(6, 1, 0.0), MicroBatches(2, 3, 0.0), MicroBatches(4, 2, 0.25)])
def test_losses_do_not_depend_on_how_the_batch_is_cut_or_padded(micro):
    engine = Engine()
    *_, lines = train(engine, total=1, micro=micro)
    assert lines[0]["loss"] == sum(range(12)) / 6
    assert sum(engine.losses) == pytest.approx(sum(range(12)) / 6)
    assert lines[0]["two"] == pytest.approx(2.0)
    assert engine.lasts == [False] * (micro.count - 1) + [True]


def test_padding_repeats_the_first_group_and_does_not_count():
    assert padded(5, MicroBatches(2, 3, 1 / 6)) == ([0, 1, 2, 3, 4, 0], [True] * 5 + [False])


def test_bad_and_unchecked_samples_are_counted_over_the_steps_and_saved():
    made = stepper(Engine())
    lines = [made.read_step(made.enqueue(step)).line for step in range(3)]
    assert [line["unchecked"] for line in lines] == [7, 7, 7]
    assert (made.state()["bad"], made.state()["unchecked"]) == ([3], 21)


def test_a_step_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    spec = job(augment="gmml")
    method, engine = build(spec), Engine()
    engine.forward = method.module
    made = replace(stepper(engine), job=spec, method=method)
    assert made.read_step(made.enqueue(0)).line["loss"] > 0
    assert torch.equal(before, torch.get_rng_state())


def test_a_teacher_follows_once_a_step_after_the_update():
    engine = Engine()
    train(engine, method=Taught(), micro=MicroBatches(3, 2, 0.0), total=3)
    assert engine.follows == [(s + 1, ("teacher.w",), ("encoder.w",), 1 - s / 100) for s in range(3)]


class Maps:
    """Stands for what makes maps before some steps; writes down when it does."""

    def __init__(self, *steps, stops=""):
        self.steps, self.stops, self.made = list(steps), stops, []

    def due(self, step):
        return step in self.steps

    def make(self, step):
        self.made.append(step)
        if not self.stops:
            self.steps.remove(step)
        return self.stops


def test_what_steps_wait_for_is_made_of_the_commit_of_the_step_before():
    maps = Maps(3, 5)
    outcome, last, saved, lines = train(Engine(), total=7, maps=maps)
    assert (outcome, last, maps.made) == ("finished", 6, [3, 5])
    assert saved == [2, "committed", 4, "committed", 6]
    assert [line["step"] for line in lines] == list(range(7))
    maps = Maps(3)
    train(Engine(), first=3, total=7, maps=maps)
    assert maps.made == [3], "an attempt that resumes at that commit makes them first"


def test_a_stop_while_they_are_made_ends_the_attempt_at_the_step_that_is_committed():
    engine = Engine()
    outcome, last, saved, lines = train(engine, maps=Maps(3, stops="notice"))
    assert (outcome, last, saved) == ("notice", 2, [2, "committed"])
    assert len(engine.updates) == len(lines) == 3
    assert train(Engine(), first=3, maps=Maps(3, stops="cancelled"))[:2] == ("cancelled", 2)


def test_the_line_has_the_figures_of_the_nodes_caches_where_there_are_any(monkeypatch):
    without = train(Engine(), total=1)[3][0]
    batch = Batches.next
    monkeypatch.setattr(Batches, "next", lambda self: replace(batch(self), cache=CacheFigures(30, 10, 2)))
    line = train(Engine(), total=1)[3][0]
    assert {name: line[name] for name in line.keys() - without.keys()} == {"cache_hits": 0.75, "cache_faults": 2.0}
    monkeypatch.setattr(Batches, "next", lambda self: replace(batch(self), cache=CacheFigures()))
    line = train(Engine(), total=1)[3][0]
    assert {name: line[name] for name in line.keys() - without.keys()} == {"cache_faults": 0.0}
