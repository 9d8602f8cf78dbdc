"""Rows of the GPU check that train or start several ranks, made on a CPU with tiny sizes."""

from pathlib import Path

import pytest

from benchmarks.gpu_check.processes import make
from benchmarks.gpu_check.result import Setting
from benchmarks.gpu_check.rows import ROWS

QUICK = Setting("cpu", True, Path("/none"))


def made(name):
    result, _ = make(next(row for row in ROWS if row.name == name), QUICK)
    return result


@pytest.mark.parametrize("name", ["install", "steps/zero-3", "not-finite/zero-1", "deterministic/zero-2", "vit-l/8"])
def test_rows_of_one_rank_pass_on_a_cpu(name):
    result = made(name)
    assert result.outcome == "ok", result


def test_ranks_of_one_device_each_meet_and_sum():
    result = made("ranks/one GPU each")
    assert result.outcome == "ok", result
    assert result.figures["ranks"] == len(result.figures["devices"]) == 2


def test_what_the_others_notice_of_a_killed_rank_is_reported():
    result = made("ranks/killed")
    assert result.outcome == "ok", result
    assert result.figures["cause"] == "lost"
    assert result.figures["noticed_s"] > 0
