"""What a soak plans, judges and counts; the runs themselves are made by `make soak`."""

import json
import math
from itertools import pairwise

import pytest

from benchmarks.faults_every import __main__ as faults_every
from benchmarks.faults_every.limit import Case, waiting_for_saves
from benchmarks.soak import __main__ as soak
from benchmarks.soak import cost, judge, report
from benchmarks.soak.__main__ import MOST, Share, shares
from benchmarks.soak.disturb import Done
from benchmarks.soak.plan import ENDING, WEIGHTS, Disturbance, disturbances


def done(kind, at, *, attempt=1, lasts=0.0, number=1):
    return Done(Disturbance(number, kind, "training", 0, 0.0, lasts), at, at + lasts, attempt)


def commit(step, at):
    return {"kind": "commit", "attempt": 1, "step": step, "time": at + 0.5, "seconds": 0.5}


def end(attempt, cause, at, **fields):
    return {"kind": "end", "attempt": attempt, "cause": cause, "time": at, **fields}


def test_a_seed_plans_the_same_disturbances_and_another_one_others():
    plan = disturbances(1, 200, ranks=2, without=())
    assert plan == disturbances(1, 200, ranks=2, without=())
    assert plan != disturbances(2, 200, ranks=2, without=())
    assert {each.kind for each in plan} == set(WEIGHTS)
    assert "disk" not in {each.kind for each in disturbances(1, 200, ranks=2, without=("disk",))}


def test_no_two_starts_in_a_row_are_hit_and_none_that_nothing_ended():
    plan = disturbances(4, 1000, ranks=2, without=())
    starts = [(before, each) for before, each in pairwise(plan) if each.moment == "starting"]
    assert len(starts) > 20
    assert all(before.kind in ENDING and before.moment != "starting" for before, _ in starts)


@pytest.mark.parametrize("kills", [1, 3, 100, 1200])
def test_every_disturbance_is_of_one_run_two_thirds_of_them_on_s3_and_no_two_runs_have_the_same(kills):
    parts = shares(kills, 1, None)
    assert sum(part.count for part in parts) == kills
    assert sum(part.count for part in parts if part.place == "folder") == kills // 3
    assert all(0 < part.count <= MOST for part in parts)
    assert len({(part.place, part.seed) for part in parts}) == len(parts)
    assert {part.place for part in shares(kills, 1, "folder")} == {"folder"}
    assert parts[0] == Share("s3", min(kills - kills // 3, MOST), 1), "a seed has the same ones first"


def leg(seed, lost_s, rank_s, faults=()):
    return {
        "seed": seed,
        "store": "a folder",
        "disturbances": [{"what": {"kind": "rank", "moment": "saving"}}] * len(lost_s),
        "wall_s": 10.0,
        "last_step": 19,
        "step_s": 0.1,
        "load": [0.5, 1.0],
        "attempts": {"lost": len(lost_s)},
        "costs": {"rank": {"count": len(lost_s), "lost_s": lost_s, "replayed": []}},
        "goodput": {"rank_s": rank_s, "training_share": None},
        "faults": {"nobody had to help": list(faults)},
        "checkpoints_compared": 2,
    }


class Ended:
    """A process that has ended and left no figures."""

    def poll(self):
        return 1


def test_a_soak_goes_on_with_the_runs_that_have_no_figures_yet(tmp_path, monkeypatch):
    whole = {**leg(1, [], {"training": 1}), "disturbances": [{"what": {"kind": "rank", "moment": "saving"}}] * MOST}
    for seed, found in ((1, whole), (1001, {**whole, "disturbances": whole["disturbances"][:7]})):  # ended early
        (tmp_path / f"s3-{seed}-{MOST}.json").write_text(json.dumps({"legs": [found]}))
    commands = []
    monkeypatch.setattr(soak.signal, "signal", lambda number, handler: None)  # this process keeps its own
    monkeypatch.setattr(soak.subprocess, "Popen", lambda command, **_: commands.append(command) or Ended())
    soak.main([f"--kills={2 * MOST}", "--on=s3", f"--keep={tmp_path}"])
    assert ["--seed=1001" in command for command in commands] == [True]


def test_the_figures_of_several_runs_are_added_up_and_a_fault_names_its_run():
    legs = [leg(1, [4.0], {"training": 6.0, "unsaved": 9.0}), leg(1001, [6.0, 9.0], {"lost": 2.0}, ["help"])]
    both = report.merged(legs)
    assert both["costs"] == {"rank": {"count": 3, "lost_s": [4.0, 6.0, 9.0], "replayed": []}}
    assert both["goodput"]["training_share"] == pytest.approx(0.75)
    assert both["faults"] == {"nobody had to help": ["a folder, seed 1001: help"]}
    rows = report.table(both).splitlines()
    assert rows[0].startswith("run on a folder, 2 runs together: 3 disturbances, 40 steps of 100 ms, 20 s")
    assert "| kill -9 of a rank | 3 | saving 3 | 6.0 | 9.0 | - | - |" in rows


def test_seconds_lost_are_those_that_the_steps_between_two_saves_do_not_explain():
    entries = [commit(10 * number, 1000.0 + number) for number in range(10)]
    entries += [commit(100, 1030.0), commit(110, 1031.0)]
    found = cost.costs(entries, [done("rank", 1015.0, lasts=0.5)])
    assert found["rank"].lost_s == [pytest.approx(20.0)]


def test_disturbances_between_the_same_saves_share_what_they_cost():
    entries = [*(commit(10 * number, 1000.0 + number) for number in range(10)), commit(100, 1030.0)]
    found = cost.costs(entries, [done("rank", 1012.0), done("notice", 1018.0)])
    assert found["rank"].lost_s == found["notice"].lost_s == [pytest.approx(10.0)]


def test_steps_replayed_are_those_between_the_end_of_an_attempt_and_the_next_begin():
    begins = [{"kind": "begin", "attempt": n, "step": step, "time": 0.0} for n, step in ((1, 0), (2, 40))]
    entries = [*begins, end(1, "lost", 50.0, step=46)]
    assert cost.costs(entries, [done("rank", 49.0)])["rank"].replayed == [7]


def test_a_proved_cause_replaces_that_of_the_end():
    entries = [end(1, "notice", 5.0), end(1, "lost", 6.0), {"kind": "cause", "of": 1, "cause": "preempted"}]
    assert judge.first_ends(entries)[1]["cause"] == "preempted"


@pytest.mark.parametrize(
    ("kind", "cause", "attempt", "explained"),
    [
        ("rank", "lost", 1, True),
        ("rank", "lost", 2, True),  # the next attempt claimed while the disturbance was on its way
        ("rank", "lost", 3, False),
        ("rank", "error", 1, False),
        ("pause", "lost", 1, False),
        ("outage", "storage", 1, True),
    ],
)
def test_an_end_is_explained_by_what_was_done_to_its_attempt_and_ends_so(kind, cause, attempt, explained):
    assert judge._explained(end(attempt, cause, 20.0), [done(kind, 10.0)]) is explained


def test_a_disturbance_is_in_the_log_as_an_end_or_as_a_start_without_a_claim():
    def claim(attempt, restart, submit="t"):
        return {"kind": "claim", "attempt": attempt, "restart": restart, "submit": submit, "time": 5.0}

    assert judge._in_log(done("rank", 10.0), [claim(1, 0), end(1, "lost", 11.0)])
    assert not judge._in_log(done("rank", 10.0), [claim(1, 0), end(1, "lost", 5.0), claim(2, 1)])
    assert judge._in_log(done("notice", 10.0), [claim(1, 0), end(1, "lost", 5.0), claim(2, 2)])
    assert judge._in_log(done("supervisor", 10.0), [claim(1, 0), end(1, "lost", 5.0), claim(2, 0, "u")])


def test_the_share_that_arithmetic_allows_is_what_restarts_replays_and_stalls_leave():
    free = Case(between_s=60.0, save_s=1.0, interval_s=2.0, stall_s=0.0, restart_s=0.0)
    assert free.share == pytest.approx(58 / 60)
    assert Case(60.0, 1.0, 2.0, 0.5, 8.0).share == pytest.approx(50 / 60 * 2 / 2.5)
    assert Case(60.0, 1.0, 2.0, 0.0, 60.0).seconds(100.0) == math.inf
    assert free.seconds(58.0) == pytest.approx(60.0)


def test_a_trainer_that_waits_for_its_saves_saves_at_youngs_interval():
    case = waiting_for_saves(60.0, 1.0, 0.0)
    assert case.interval_s == pytest.approx(math.sqrt(120))
    assert case.share < Case(60.0, 1.0, 2.0, 0.0, 0.0).share
    others = [Case(60.0, 0.0, interval, 1.0, 0.0).share for interval in (6.0, 9.0, 13.0, 20.0)]
    assert case.share > max(others) - 0.01


def test_a_run_under_faults_has_its_share_and_the_limits_beside_it():
    def log(*middle):
        return [{"kind": "open", "attempt": None, "time": 0.0}, *middle]

    def begin(attempt, step, at):
        return {"kind": "begin", "attempt": attempt, "step": step, "time": at}

    saved = {**commit(19, 13.0), "stall_s": 0.0}
    calm = faults_every.Measured(20.0, [], log(begin(1, 0, 10.0), saved, end(1, "finished", 20.0, step=99)))
    entries = log(
        begin(1, 0, 10.0), end(1, "lost", 14.0, step=35), begin(2, 20, 18.0), end(2, "finished", 26.0, step=99)
    )
    hit = faults_every.Measured(26.0, [13.0], entries)
    document = faults_every._document(calm, hit, 60.0, 100, [1.0, 2.0], [])
    assert (document["step_s"], document["restarts_s"], document["replayed"]) == (0.1, [5.0], [16])
    rows = faults_every.table(document).splitlines()
    assert "| undisturbed, measured | 100.0 % | 20 | 1.00 |" in rows
    assert "| a fault every 60 s, measured | 62.5 % | 26 | 1.30 |" in rows
    assert rows[-1] == "losses equal bit for bit: yes"
