"""Who is named where nothing goes on: the rank that did not come, and not the one that noticed."""

import threading

import pytest

from gmml_cluster.train.ranks import hang

ERROR = {"rank": 0, "host": "h0", "node": "n0", "kind": "timeout", "cause": "hang", "message": "Hang: no progress"}
PLACES = [{"host": f"h{rank}", "node": f"n{rank}"} for rank in range(3)]


def at(beats=7, phase="a step of training", waits=True):
    return {"phase": phase, "beats": beats, "waits": waits, "at": "load at stream.py:7"}


@pytest.mark.parametrize(
    ("positions", "ranks"),
    [
        ([at(), None, at()], [1]),  # stopped, or its interpreter is blocked
        ([at(), at(waits=False), None], [2]),
        ([at(), at(waits=False), at()], [1]),
        ([at(), at(), at(beats=6)], [2]),
        ([at(), at(), at()], []),  # all are in the same collective
        ([at(waits=False)] * 3, []),  # all wait for a device
        ([at(), at(), at(beats=6, phase="an evaluation")], []),  # beats of other phases say nothing
        ([None, None, None], []),
    ],
)
def test_the_ranks_that_did_not_come_are_found_by_where_each_of_them_is(positions, ranks):
    assert hang.missing(positions) == ranks


def test_the_rank_that_did_not_come_is_to_blame_with_its_node():
    found = hang.blame(ERROR, [at(), at(waits=False), at()], PLACES)
    assert (found["rank"], found["host"], found["node"], found["kind"]) == (1, "h1", "n1", "own")
    assert found["message"] == "Hang: no progress; all wait for rank 1 on h1, which is in load at stream.py:7"


def test_of_several_all_are_named_and_no_node_is_to_blame():
    found = hang.blame(ERROR, [at(), None, None], PLACES)
    assert found["kind"] == "timeout"
    assert found["message"].endswith(
        "all wait for rank 1 on h1, which does not answer, rank 2 on h2, which does not answer"
    )


def test_where_nothing_tells_ranks_apart_the_one_that_noticed_stands():
    assert hang.blame(ERROR, [at()] * 3, PLACES) == ERROR


def test_a_rank_says_in_which_call_its_main_thread_is():
    found = []
    asking = threading.Thread(target=lambda: found.append(hang.position("a step of training", 3)))
    asking.start()
    asking.join()
    assert (found[0]["phase"], found[0]["beats"], found[0]["waits"]) == ("a step of training", 3, False)


def test_a_rank_in_a_collective_is_named_by_its_own_call(tmp_path):
    module = tmp_path / "torch/distributed/all_reduce.py"
    module.parent.mkdir(parents=True)
    found = []

    def ask():
        asking = threading.Thread(target=lambda: found.append(hang.position("a step of training", 3)))
        asking.start()
        asking.join()

    collective = {"ask": ask}
    exec(compile("def all_reduce():\n    ask()\n", str(module), "exec"), collective)
    collective["ask"] = ask
    collective["all_reduce"]()
    assert found[0]["waits"]
