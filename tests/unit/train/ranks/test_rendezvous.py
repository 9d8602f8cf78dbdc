"""Ranks find each other by a private file, and what strangers write into their store changes nothing."""

import json
import socket
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from gmml_cluster.errors import LaunchError
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.train.ranks import rendezvous
from gmml_cluster.train.ranks.rendezvous import Address, KeyValueStore, RankInfo, address_name, meet

DEADLINE_S = 240


@pytest.fixture
def store(tmp_path):
    tmp_path.chmod(0o775)
    return PosixStore(tmp_path)


@pytest.fixture
def met(store):
    """The stores of rank 0 and rank 1."""
    zero, _ = meet(store, "t-j-0", RankInfo(0, 2, 0, 2))
    one, _ = meet(store, "t-j-0", RankInfo(1, 2, 1, 2))
    return zero, one


def stranger(store):
    """A connection of somebody who knows the port and nothing else."""
    port = json.loads(store.get(address_name("t-j-0")))["port"]
    return dist.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)


def write(intruder, key, value):
    """Write and return when the server has it: TCPStore's own `set` waits for no answer."""
    intruder.set(key, value)
    intruder.num_keys()


def listeners(port):
    """Local addresses at which this machine listens on the port, as /proc/net has them."""
    found = []
    for file in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if file.exists():
            lines = [line.split() for line in file.read_text().splitlines()[1:]]
            found += [local for _, local, _, state, *_ in lines if state == "0A" and local.endswith(f":{port:04X}")]
    return found


def test_the_store_listens_on_loopback_alone_where_one_node_has_all_ranks(store, met):
    port = json.loads(store.get(address_name("t-j-0")))["port"]
    assert listeners(port) == [f"0100007F:{port:04X}"]


def test_the_store_listens_on_the_interface_that_it_names(store, monkeypatch):
    monkeypatch.setattr(rendezvous, "own_address", lambda: "127.0.0.2")
    served = meet(store, "s", RankInfo(0, 2, 0, 1))
    address = json.loads(store.get(address_name("s")))
    assert address["host"] == "127.0.0.2"
    assert listeners(address["port"]) == [f"0200007F:{address['port']:04X}"]
    del served


def test_a_name_that_is_loopback_on_its_own_node_alone_is_served_to_the_others_too(store, monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    listening = rendezvous._listen("node7")
    assert listening.getsockname()[0] == "0.0.0.0"
    listening.close()


def test_an_address_that_is_not_of_this_node_is_refused_by_name(store, monkeypatch):
    monkeypatch.setattr(rendezvous, "own_address", lambda: "192.0.2.1")
    with pytest.raises(LaunchError, match=r"^192\.0\.2\.1: cannot listen there"):
        meet(store, "s", RankInfo(0, 2, 0, 1))


def test_the_secret_is_the_owner_s_alone_though_the_folder_is_shared(store, tmp_path, met):
    path = tmp_path / address_name("t-j-0")
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(path.read_text())["secret"]) == 64


def test_values_reach_other_ranks(met):
    zero, one = met
    assert one.get("ended") is None
    zero.set("ended", 77)
    assert one.wait("ended", timeout_s=DEADLINE_S) == one.get("ended") == 77
    zero.delete("ended")
    assert one.get("ended") is None


def test_a_value_that_comes_later_ends_the_wait(met):
    zero, one = met
    threading.Timer(0.1, zero.set, ("agreement", {"a": 1})).start()
    assert one.wait("agreement", timeout_s=DEADLINE_S) == {"a": 1}


def test_a_wait_that_times_out_names_the_key_and_the_connection_works_on(met):
    zero, one = met
    with pytest.raises(TimeoutError, match=r"^save/9/1 was not written within 0\.1 s$"):
        one.wait("save/9/1", timeout_s=0.1)
    zero.set("a", 1)
    assert one.wait("a", timeout_s=DEADLINE_S) == 1


@pytest.mark.parametrize("value", ["78", "", "null", "{", "0" * 64 + "78", "\x00\xff"])
def test_a_stranger_s_value_counts_as_not_written(store, met, value, caplog):
    zero, one = met
    intruder = stranger(store)
    zero.set("known", 1)
    one.wait("known", timeout_s=DEADLINE_S)
    for key in intruder.list_keys():
        write(intruder, key.replace("known", "ended"), value)
    write(intruder, "ended", value)
    assert one.get("ended") is None
    assert one.get("ended") is None
    assert caplog.text.count("key 'ended' holds a value that no rank of this start wrote") == 1
    zero.set("ended", 77)
    assert one.wait("ended", timeout_s=DEADLINE_S) == 77


def test_a_value_that_a_stranger_moved_to_another_key_counts_as_not_written(store, met):
    zero, one = met
    intruder = stranger(store)
    zero.set("failed", 1)
    one.wait("failed", timeout_s=DEADLINE_S)
    (key,) = [key for key in intruder.list_keys() if key.endswith("failed")]
    write(intruder, key.replace("failed", "ended"), intruder.get(key).decode())
    assert one.get("ended") is None


def test_a_wait_continues_behind_a_stranger_s_value(store, met, monkeypatch):
    monkeypatch.setattr(rendezvous, "_FOREIGN_POLL_S", 0.01)
    zero, one = met
    zero.set("known", 1)
    one.wait("known", timeout_s=DEADLINE_S)
    intruder = stranger(store)
    write(intruder, intruder.list_keys()[0].replace("known", "ended"), "78")
    with pytest.raises(TimeoutError):
        one.wait("ended", timeout_s=0.05)
    threading.Timer(0.1, zero.set, ("ended", 0)).start()
    assert one.wait("ended", timeout_s=DEADLINE_S) == 0


def test_starts_with_different_secrets_do_not_understand_each_other(store, met):
    address = json.loads(store.get(address_name("t-j-0")))
    other = KeyValueStore(Address(address["host"], address["port"], "0" * 64))
    met[0].set("ended", 77)
    met[1].wait("ended", timeout_s=DEADLINE_S)
    assert other.get("ended") is None


def test_a_wait_goes_on_where_its_time_passed_while_the_process_was_stopped(met, monkeypatch):
    zero, one = met
    looks = iter(range(10**6))

    def running_time():
        if next(looks) == 10:  # the wait has run out of the kernel's time more than once by then
            zero.set("late", "came")
        return 0.0

    monkeypatch.setattr(rendezvous, "running_time", running_time)
    assert one.wait("late", timeout_s=0.01) == "came"


def test_other_threads_run_while_one_waits(met):
    _, one = met
    began = time.monotonic()

    def wait():
        with pytest.raises(TimeoutError):
            one.wait("x", timeout_s=1.0)

    waiting = threading.Thread(target=wait)
    waiting.start()
    turns = 0
    while waiting.is_alive():
        turns += 1
        time.sleep(0.01)
    assert turns > 1
    assert time.monotonic() - began >= 1.0


def test_a_rank_started_by_hand_reports_which_variables_it_lacks(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(LaunchError, match=r"^environment: RANK, .*; use gmml-submit$"):
        RankInfo.from_environment()
