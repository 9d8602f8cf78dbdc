"""How many ranks fit, by resources, labels and placement, and when a run has room to grow."""

import threading

import pytest

from gmml_cluster.launch.ray import growth
from gmml_cluster.launch.ray.growth import looked_for
from gmml_cluster.launch.ray.room import ranks_held, ranks_on, usable, without_nodes, without_ranks
from gmml_cluster.run.growth import Growth

NEEDS = {"CPU": 4.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("offered", "ranks"), [({"CPU": 8.0, "GPU": 2.0}, 2), ({"CPU": 3.0, "GPU": 2.0}, 0), ({"CPU": 64.0}, 0)]
)
def test_a_node_holds_as_many_ranks_as_its_scarcest_resource(offered, ranks):
    assert ranks_on(offered, NEEDS) == ranks


@pytest.mark.parametrize(("placement", "ranks"), [("PACK", 6), ("SPREAD", 6), ("STRICT_PACK", 4), ("STRICT_SPREAD", 2)])
def test_strict_placement_takes_one_node_or_one_rank_of_each(placement, ranks):
    assert ranks_held([4, 2, 0], placement) == ranks
    assert ranks_held([], placement) == 0


def node(name, alive=True, **labels):
    return {"NodeID": name, "Alive": alive, "Labels": labels}


def test_nodes_without_the_labels_dead_ones_and_those_that_are_drained_have_no_room():
    nodes = [node("a", pool="spot"), node("b"), node("c", alive=False, pool="spot"), node("d", pool="spot", zone="x")]
    available = {name: {"CPU": 1.0} for name in "abcd"}
    assert set(usable(nodes, available, {}, {"pool": "spot"})) == {"a", "d"}
    assert set(usable(nodes, available, {"a": 0}, {"pool": "spot"})) == {"d"}
    assert set(usable(nodes, available, {}, {})) == {"a", "b", "d"}


def test_nodes_are_left_out_by_their_ids_unless_the_labels_name_nodes():
    assert without_nodes({"pool": "spot"}, ["a1", "b2"]) == {"pool": "spot", "ray.io/node-id": "!in(a1, b2)"}
    assert without_nodes({"pool": "spot"}, []) == {"pool": "spot"}
    assert without_nodes({"ray.io/node-id": "c3"}, ["a1"]) == {"ray.io/node-id": "c3"}


def test_ranks_give_back_what_they_have_where_their_node_can_be_used():
    free = without_ranks({"a": {"CPU": 1.0}}, ["a", "a", "gone"], NEEDS)
    assert free == {"a": {"CPU": 9.0, "GPU": 2.0}}


def test_what_fails_while_looking_is_tried_again(monkeypatch):
    monkeypatch.setattr(growth, "LOOK_S", 0.001)
    answers, noticed = iter([RuntimeError("no answer"), False, True]), threading.Event()

    def look():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with looked_for(Growth(2), 4, look, lambda proof: noticed.set()):
        assert noticed.wait(240)


def test_an_attempt_with_all_its_nodes_looks_for_none(monkeypatch):
    monkeypatch.setattr(growth.threading, "Thread", lambda **_: pytest.fail("a thread looks"))
    with looked_for(Growth(4), 4, lambda: True, lambda proof: None):
        pass
