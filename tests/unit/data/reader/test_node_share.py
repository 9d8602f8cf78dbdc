"""How much of its node a rank takes for reading."""

import os

import pytest

from gmml_cluster.data.reader.node_share import decode_threads


@pytest.mark.parametrize(
    ("usable", "given", "local_ranks", "threads"),
    [
        (16, {}, 2, 7),  # this machine: ranks share its cores
        (2, {}, 2, 1),
        (8, {"SLURM_CPUS_PER_TASK": "8"}, 4, 7),  # SLURM binds a task to its own
        (96, {"GMML_CPUS": "8"}, 4, 7),  # Ray binds nobody, so all 96 could be used
        (4, {"GMML_CPUS": "8"}, 1, 3),  # more than there are
        (96, {"GMML_CPUS": "8", "SLURM_CPUS_PER_TASK": "96"}, 1, 7),  # a Ray cluster within a job of SLURM
        (8, {"GMML_CPUS": "1"}, 1, 1),
        (128, {}, 1, 32),
    ],
)
def test_a_rank_decodes_on_the_cores_that_it_was_given_but_one(usable, given, local_ranks, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(usable)))
    for name in ("GMML_CPUS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert decode_threads(local_ranks) == threads
