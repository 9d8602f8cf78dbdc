"""The GPU check: what of its rows a CPU can make, and what is reported of rows that fail."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import attention, draws, report, speed, steps, training
from benchmarks.gpu_check.processes import ROOT, call, make
from benchmarks.gpu_check.result import Result, Setting
from benchmarks.gpu_check.rows import PARTS, ROWS, Row
from gmml_cluster.data.random import philox_torch

QUICK = Setting("cpu", True, Path("/none"))
LEAVE = "tests.unit.benchmarks.leaving:leave"


def row(name):
    return next(one for one in ROWS if one.name == name)


# ---- rows whose process leaves in every way ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "outcome", "message"),
    [
        ("return", "ok", ""),
        ("raise", "failed", "ValueError: no such thing"),
        ("abort", "crashed", "signal 6 (SIGABRT)\nabout to abort"),
    ],
)
def test_a_row_that_returns_raises_or_aborts_has_its_own_outcome(variant, outcome, message):
    result, seconds = make(Row("x", variant, LEAVE, 120), QUICK)
    assert result.outcome == outcome
    assert result.message.startswith(message)
    assert seconds > 0


def test_a_row_that_hangs_is_killed_with_the_processes_that_it_started(tmp_path):
    setting = dataclasses.replace(QUICK, data=tmp_path / "pid")
    result, _ = make(Row("x", "hang", LEAVE, 10), setting)
    assert result.outcome == "timed out"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 240
    while alive(pid):
        assert time.monotonic() < deadline, "the row's own process was left behind"
        time.sleep(0.05)


def alive(pid):
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


# ---- rows that a CPU can make; those of several processes are in tests/cluster/test_gpu_check.py ------------------


def test_a_state_that_a_skip_changes_fails_the_row(monkeypatch):
    states = iter([{("w", "value", 0): torch.tensor([float(n)])} for n in range(99)])
    monkeypatch.setattr(training.Trainer, "state", lambda _: next(states))
    result = call("benchmarks.gpu_check.steps:not_finite", "ddp", QUICK)
    assert result.outcome == "failed"
    assert "the state changed after one NaN" in result.message


def test_equal_states_are_equal_in_every_bit():
    one, negative = torch.tensor([0.0, math.nan]), torch.tensor([-0.0, math.nan])
    assert training.same({("w", "value", 0): one}, {("w", "value", 0): one.clone()})
    assert not training.same({("w", "value", 0): one}, {("w", "value", 0): negative})
    assert not training.same({("w", "value", 0): one}, {})


def test_draws_of_a_device_are_compared_with_the_hosts():
    result = draws.draws("integers", QUICK)
    assert (result.outcome, result.message) == ("ok", "")
    assert result.figures["values_compared"] > 10**5
    assert draws.draws("normals", QUICK).figures["most_ulps"] == 0


def test_draws_that_differ_are_named(monkeypatch):
    real = philox_torch.integer
    monkeypatch.setattr(philox_torch, "integer", lambda words, m: real(words, m) + (m == 197))
    result = draws.draws("integers", QUICK)
    assert result.outcome == "failed"
    assert "integers below 197 for CROP of seed 0" in result.message
    assert "below 24" not in result.message


def test_distances_in_ulps_cross_zero():
    tiny = torch.tensor([1e-45, 1.0])
    other = torch.tensor([-1e-45, 1.0 + 2**-22])
    assert (draws._ordered(tiny) - draws._ordered(other)).abs().tolist() == [2, 2]


def test_attention_backends_are_compared_or_say_why_they_cannot_run():
    result = attention.attention("math", QUICK)
    assert result.outcome == "ok", result
    assert 0 < result.figures["worst_relative_error"]["bfloat16"]["tiny"] < 0.03
    missing = call("benchmarks.gpu_check.attention:attention", "cudnn", QUICK)
    assert missing.outcome == "not run"
    assert missing.message


def test_a_backend_that_is_wrong_fails(monkeypatch):
    monkeypatch.setattr(attention, "worst_error", lambda *_: math.nan)
    assert attention.attention("math", QUICK).outcome == "failed"


def test_digits_are_read_where_there_are_no_photographs():
    result = call("benchmarks.gpu_check.reading:reading", "2", QUICK)
    assert result.outcome == "ok", result
    assert result.figures["corpus"] == "1297 digits"


def test_several_ranks_need_several_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    setting = dataclasses.replace(QUICK, device="cuda")
    result = call("benchmarks.gpu_check.several:several", "killed", setting)
    assert (result.outcome, result.message) == ("not run", "one GPU only; this needs two or more")


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_is_a_result(monkeypatch, kind):
    def full(*_, **__):
        raise kind("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("benchmarks.gpu_check.speed._measure", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 2**30))
    result = call("benchmarks.gpu_check.speed:speed", "64", QUICK)
    assert (result.outcome, result.message) == ("out of memory", "CUDA out of memory")
    assert result.figures["estimated_gib"] > 0


def test_waits_are_checked_from_the_third_step_on_and_not_where_the_state_is_copied(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits = steps.HostWaits("warn")
    with waits.counted():
        for step in range(training.STEPS):
            waits.after(SimpleNamespace(line={"step": step}))
            if step == 5:
                warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        assert modes == ["warn", "default"]
    assert len(waits.found) == 1


def test_the_check_for_waits_is_off_after_an_error(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits = steps.HostWaits("error")

    def train():
        with waits.counted():
            waits.after(SimpleNamespace(line={"step": 1}))
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        train()
    assert modes == ["error", "default"]


def kernel(start, end, device="CUDA", annotation=False):
    time_range = SimpleNamespace(start=start, end=end)
    device_type = SimpleNamespace(name=device)
    return SimpleNamespace(time_range=time_range, device_type=device_type, is_user_annotation=annotation)


def test_idle_time_is_read_from_kernels_alone():
    events = [kernel(0, 30), kernel(60, 90), kernel(90, 100), kernel(0, 100, "CPU"), kernel(0, 100, annotation=True)]
    found = speed.idle_figures(events)
    assert found == {"launches_per_step": 1, "idle_share": 0.3, "gaps_per_step": 0, "longest_gap_us": 30}
    assert speed.idle_figures([])["idle_share"] is None


def test_gaps_are_what_no_kernel_covers():
    assert speed.gaps_between([(10, 20), (0, 5), (1, 3), (18, 22), (25, 26)]) == [5, 3]
    assert speed.gaps_between([]) == []


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_the_document(tmp_path, capsys):
    path = tmp_path / "check.json"
    arguments = ["--device", "cpu", "--quick", "--only", "attention/math", "attention/cudnn", "--json", str(path)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "attention/math" in printed
    assert "not run" in printed
    content = json.loads(path.read_text())
    assert [(one["variant"], one["outcome"]) for one in content["rows"]] == [("math", "ok"), ("cudnn", "not run")]
    assert content["command"].endswith(str(path))
    assert content["device"] == "cpu"
    assert content["versions"] is None


def test_versions_and_all_outcomes_are_reported_and_bad_ones_exit_with_1(tmp_path, monkeypatch, capsys):
    outcomes = {"install": Result("ok", {"versions": {"torch": "1.2"}}), "vit-l/128": Result("out of memory")}
    outcomes |= {"steps/ddp": Result("crashed", {}, "signal 11 (SIGSEGV)")}
    monkeypatch.setattr(command, "make", lambda one, _: (outcomes.get(one.name, Result("ok")), 1.0))
    path = tmp_path / "check.json"
    assert command.main(["--device", "cpu", "--json", str(path)]) == 1
    content = json.loads(path.read_text())
    assert content["versions"] == {"torch": "1.2"}
    assert len(content["rows"]) == len(ROWS)
    assert "SIGSEGV" in capsys.readouterr().out
    finished = [report.Finished(row("vit-l/128"), Result("out of memory"), 1.0)]
    assert report.bad(finished) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_0(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gpu-check: no GPU on this machine")
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_driver_whose_gpus_torch_does_not_see_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command, "_driver_lists_gpus", lambda: True)
    assert command.main([]) == 1
    assert "nvidia-smi lists GPUs" in capsys.readouterr().out


def test_figures_are_one_line_of_short_numbers():
    found = {"a": 0.123456, "b": [1, 2.0], "c": None, "d": {"e": 12345.6}}
    assert report.figures(found) == "a 0.123, b [1, 2], c -, d (e 12,346)"
    console = Console(file=io.StringIO(), width=80)
    console.print(report.table([report.Finished(row("install"), Result("failed", found, "[why] not"), 2.0)], "cpu"))
    assert "[why] not" in console.file.getvalue()


def test_every_row_has_a_function_and_rows_of_a_part_are_together():
    names = [one.name for one in ROWS]
    assert len(set(names)) == len(names)
    assert [one.part for one in ROWS] == [one.part for part in PARTS for one in ROWS if one.part == part]
    for one in ROWS:
        module, name = one.function.split(":")
        assert callable(getattr(__import__(module, fromlist=[name]), name))
