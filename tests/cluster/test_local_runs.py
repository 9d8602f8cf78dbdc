"""Runs on this machine finish by themselves, and go on from the very step whatever was taken from them."""

import json
import os
import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fixtures.runs import ended
from tests.fixtures.supervised import ranks_of, supervisor_of, wait_for

KEYS = ("step", "loss", "grad_norm", "lr", "wd", "masked")


def figures(lines):
    return [tuple(line[key] for key in KEYS) for line in lines]


def committed(entries):
    return [entry["step"] for entry in entries if entry["kind"] == "commit"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits):
    """Metric lines of the run that nobody disturbs."""
    from tests.fixtures.runs import Workshop

    folder = tmp_path_factory.mktemp("undisturbed")
    shop = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), {})
    shop.call("gmml-submit", shop.job("calm"), "--cluster", shop.profile(2), "--follow")
    assert ended(shop.entries("calm")) == ["finished"]
    return shop.lines("calm")


def begin(workshop, **sections):
    """Submit the same run, which slows down before its half, and wait until it has made a checkpoint."""
    workshop.pace(3, after=25)
    profile = workshop.profile(2, environment=workshop.gates)
    workshop.call("gmml-submit", workshop.job("calm", **sections), "--cluster", profile)
    workshop.until("calm", committed)


def plotted(folder):
    """Steps of the loss as TensorBoard reads them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return [point.step for point in events.Scalars("loss")] if "loss" in events.Tags()["scalars"] else []


def test_an_undisturbed_run_has_a_line_for_every_step_and_learns(undisturbed):
    assert [line["step"] for line in undisturbed] == list(range(60))
    losses = [line["loss"] for line in undisturbed]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


def test_a_run_cancelled_half_way_and_resumed_equals_the_undisturbed_one_bit_for_bit(workshop, undisturbed):
    begin(workshop)
    workshop.call("gmml", "cancel", "calm")
    entries = workshop.until("calm", ended)
    workshop.pace(0)
    assert ended(entries) == ["cancelled"]
    stopped_at = committed(entries)[-1]
    assert stopped_at < 59
    workshop.call("gmml", "resume", "calm", "--follow")
    entries = workshop.entries("calm")
    assert ended(entries) == ["cancelled", "finished"]
    begins = [entry for entry in entries if entry["kind"] == "begin"]
    assert begins[1]["step"] == stopped_at + 1
    assert figures(workshop.lines("calm")) == figures(undisturbed)


def test_a_killed_rank_costs_an_attempt_and_the_run_finishes_by_itself_with_one_curve(workshop, undisturbed):
    begin(workshop, metrics={"tensorboard": "auto"})
    os.kill(ranks_of(workshop, "calm")[1], signal.SIGKILL)
    workshop.pace(0)
    entries = workshop.until("calm", lambda entries: "finished" in ended(entries))
    assert ended(entries) == ["lost", "finished"]
    assert figures(workshop.lines("calm")) == figures(undisturbed)
    status = json.loads(workshop.call("gmml", "status", "calm", "--json"))
    assert [attempt["cause"] for attempt in status["attempts"]] == ["killed", "finished"]
    wait_for(lambda: plotted(Path(workshop.root) / "calm" / "tensorboard") == list(range(60)))


def test_ranks_whose_supervisor_is_killed_save_and_leave_and_a_resume_continues(workshop, undisturbed):
    begin(workshop)
    pids = ranks_of(workshop, "calm").values()
    os.kill(supervisor_of(workshop, "calm"), signal.SIGKILL)
    assert ended(workshop.until("calm", ended)) == ["notice"]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    status = json.loads(workshop.call("gmml", "status", "calm", "--json"))
    assert status["state"] == "interrupted"
    assert status["committed_step"] == status["step"] < 59
    assert "attempt 1 ended with notice; gmml resume calm continues it" in workshop.call("gmml", "status", "calm")
    workshop.pace(0)
    workshop.call("gmml", "resume", "calm", "--follow")
    begins = [entry["step"] for entry in workshop.entries("calm") if entry["kind"] == "begin"]
    assert begins == [0, status["committed_step"] + 1]
    assert figures(workshop.lines("calm")) == figures(undisturbed)


def test_a_resume_while_a_rank_of_a_dead_supervisor_still_leaves_restarts_the_run(workshop, undisturbed):
    begin(workshop)
    ranks = ranks_of(workshop, "calm")
    os.kill(ranks[1], signal.SIGSTOP)  # it can neither save nor leave, and holds the run's lock
    os.kill(supervisor_of(workshop, "calm"), signal.SIGKILL)
    wait_for(lambda: json.loads(workshop.call("gmml", "status", "calm", "--json"))["state"] == "interrupted")
    assert "still" in workshop.call("gmml", "rm", "calm", "--yes", code=2, errors=True)
    workshop.pace(0)
    with ThreadPoolExecutor(1) as pool:
        resumed = pool.submit(workshop.call, "gmml", "resume", "calm", "--follow")
        workshop.until("calm", lambda entries: sum(entry["kind"] == "submit" for entry in entries) == 2)
        os.kill(ranks[1], signal.SIGCONT)
        assert "is resumed as job" in resumed.result()
    assert figures(workshop.lines("calm")) == figures(undisturbed)


def test_shards_that_changed_under_a_run_end_it_after_three_tries_and_status_names_the_shard(workshop):
    corpus = workshop.folder / "corpus"
    shutil.copytree(Path(workshop.corpus).parent, corpus)
    workshop.corpus = f"{corpus}/*.tar"
    # by default all steps are read before the first save
    heard = workshop.folder / "heard"
    notify = {"command": ["sh", "-c", f"cat >> {heard}"]}
    limits = {"data": {"read_ahead": "16 KiB"}, "retries": {"outages": 3}}
    job = workshop.job("calm", engine={"zero": "ddp"}, notify=notify, **limits)
    workshop.pace(3, after=12)
    profile = workshop.profile(1, environment=workshop.gates)
    command = ("gmml-submit", job, "--cluster", profile, "--follow")
    with ThreadPoolExecutor(1) as pool:
        followed = pool.submit(workshop.call, *command, code=5)
        wait_for(lambda: list(Path(workshop.root).glob("calm/checkpoints/*/manifest.json")))
        for shard in corpus.glob("*.tar"):
            shard.write_bytes(b"")
        workshop.pace(0)
        followed.result()
    entries = workshop.entries("calm")
    ends = [entry for entry in entries if entry["kind"] == "end"]
    assert {end["cause"] for end in ends} == {"storage"}
    claims = [entry for entry in entries if entry["kind"] == "claim"]
    assert len(ends) == len(claims) == 3 + any(entry["kind"] == "commit" for entry in entries)
    stop = entries[-1]
    assert (stop["kind"], stop["gave_up"]) == ("stop", True)
    assert stop["reason"] == "no new checkpoint in 3 attempts (3 x storage); retries.outages is 3"
    wait_for(heard.exists)
    assert heard.read_text().startswith(f"calm is not started again, its retries are spent: {stop['reason']}.")
    end = ends[-1]
    assert end["host"] == socket.gethostname()
    assert end["rank"] == 0
    assert ".tar" in end["message"]
    state, problem, *_ = workshop.call("gmml", "status", "calm").splitlines()
    assert (state, end["message"].splitlines()[0] in problem) == ("calm: failed", True)


@pytest.fixture
def stopped(workshop):
    """Commits of a run that was cancelled with two of them and moved away, to be resumed in several ways."""
    begin(workshop)
    workshop.until("calm", lambda entries: len(committed(entries)) >= 2)
    workshop.call("gmml", "cancel", "calm")
    commits = committed(workshop.until("calm", ended))
    wait_for(lambda: "stopped" in workshop.call("gmml", "status", "calm"))
    os.rename(workshop.root, workshop.folder / "moved")  # where it was submitted it would make copies of these
    return commits


def moved(workshop, name):
    """The run of `stopped` under a root of its own."""
    root = str(workshop.folder / name)
    shutil.copytree(workshop.folder / "moved", root)
    return root


OTHER_LAYOUTS = {1: ("engine.zero=ddp",), 3: ("engine.zero=3", "engine.activation_checkpointing=true")}


def test_other_ranks_and_stages_continue_with_equal_losses_and_damage_falls_back(workshop, stopped, undisturbed):
    for ranks, changes in OTHER_LAYOUTS.items():
        root = moved(workshop, f"other-{ranks}")
        profile = workshop.profile(ranks, root)
        workshop.call("gmml-submit", workshop.job("calm"), "--cluster", profile, *changes, "--follow")
        lines = workshop.lines(f"{root}/calm")
        begin = stopped[-1] + 1
        assert [line["step"] for line in lines] == list(range(60))
        assert lines[begin]["attempt"] == 2
        for line, calm in list(zip(lines, undisturbed, strict=True))[begin : begin + 3]:
            assert line["loss"] == pytest.approx(calm["loss"], rel=1e-5)
    root = moved(workshop, "damaged")
    damage(f"{root}/calm/checkpoints/{stopped[-1]:08d}-0001/rank-00001.safetensors")
    workshop.call("gmml", "resume", f"{root}/calm", "--cluster", workshop.profile(2, root), "--follow")
    begins = [entry for entry in workshop.entries(f"{root}/calm") if entry["kind"] == "begin"]
    assert begins[-1]["resumed"]["step"] == stopped[-2]
    assert figures(workshop.lines(f"{root}/calm")) == figures(undisturbed)
    assert "disagrees with its CRC32C" in workshop.call("gmml", "logs", f"{root}/calm", "--attempt", "2")


def damage(path):
    with open(path, "r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def test_a_run_in_bf16_is_near_the_one_in_fp32_and_not_it_and_saves_fp32_weights(workshop, undisturbed):
    changes = ("engine.precision=bf16", "run.steps=6")
    workshop.call("gmml-submit", workshop.job("half"), "--cluster", workshop.profile(2), *changes, "--follow")
    losses = [line["loss"] for line in workshop.lines("half")]
    assert losses == pytest.approx([line["loss"] for line in undisturbed[:6]], rel=0.01)
    assert losses[0] != pytest.approx(undisturbed[0]["loss"], rel=1e-6)
    (weights,) = Path(workshop.root).glob("half/checkpoints/*/rank-00000.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float32}
