"""What two real ranks say of the time of each in their summed vector names the slow one, on both alike."""

from contextlib import contextmanager

from gmml_cluster.train.ranks.stragglers import STEPS, ForwardClock
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import digits_job, train

MAE = {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}


def named(rank, ranks, folder):
    """The slow ranks of each step, where rank 1 says of its forward passes that they take twice as long."""

    @contextmanager
    def timed(clock):
        yield None
        clock.seconds = 1000.0 * (1 + rank)

    ForwardClock.timed = timed
    job = digits_job(folder, MAE, steps=STEPS + 5)
    return [line["slow_ranks"] for line in train(job, range(STEPS + 5), rank=rank, ranks=ranks).lines]


def test_the_slow_one_of_two_ranks_is_named_from_the_hundredth_step_on(digits):
    for found in run_ranks(2, named, f"{digits}/train"):
        assert found == [[]] * (STEPS - 1) + [[1]] * 6
