"""How the ranks of an attempt find each other, and what they tell each other outside collectives.

Rank 0 binds a port that the kernel chooses, so no two jobs on a node can collide, and publishes its address in the run
root under a name that no other incarnation shares.
"""

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from gmml_cluster.errors import LaunchError
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.train.ranks.cluster_env import own_address

START_S = 1200.0
GROUP_TIMEOUT = timedelta(minutes=60)
UNWRITTEN = "was not written within"
_POLL_S = 0.1


@dataclass(frozen=True)
class RankInfo:
    """Which rank this process is."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int

    @classmethod
    def from_environment(cls) -> "RankInfo":
        """The place that the launcher wrote into RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        missing = [name for name in names if name not in os.environ]
        if missing:
            raise LaunchError(
                f"environment: {', '.join(missing)} not set; ranks are started by a launcher; use gmml-submit"
            )
        return cls(*(int(os.environ[name]) for name in names))


class KeyValueStore:
    """Keys and values shared by the ranks of one attempt; each instance is a connection of its own."""

    def __init__(self, host: str, port: int, *, ranks: int, serve: bool) -> None:
        timeout = timedelta(seconds=START_S)
        self.tcp = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, ranks, is_master=serve, timeout=timeout, wait_for_workers=False
        )
        self.host, self.port, self._ranks = host, int(self.tcp.port), ranks

    def connect(self) -> "KeyValueStore":
        """Another connection to the same board, for another thread."""
        return KeyValueStore(self.host, self.port, ranks=self._ranks, serve=False)

    def set(self, key: str, value: Any) -> None:
        """Write a JSON value."""
        self.tcp.set(key, json.dumps(value))

    def get(self, key: str) -> Any:
        """The value, or None where nothing is written yet."""
        return json.loads(self.tcp.get(key)) if self.tcp.check([key]) else None

    def delete(self, key: str) -> None:
        """Forget a value that nobody reads any more."""
        self.tcp.delete_key(key)

    def wait(self, key: str, *, timeout_s: float) -> Any:
        """The value, as soon as it is written; TimeoutError where it is not in time."""
        deadline = time.monotonic() + timeout_s
        while (value := self.get(key)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{key} {UNWRITTEN} {timeout_s:g} s")
            time.sleep(0.02)
        return value


def meet(store: Store, key: str, place: RankInfo) -> tuple[KeyValueStore, KeyValueStore]:
    """Bring the ranks together.

    Args:
        store: the run root.
        key: name of this incarnation, shared with no other: submit token, job and restart count.

    Returns:
        The board for the main thread and one for the guardian's.

    Raises:
        LaunchError: the ranks did not find each other within 20 minutes.
    """
    name = f"attempts/rendezvous/{key}.json"
    if place.rank == 0:
        host = "127.0.0.1" if place.ranks == place.local_ranks else own_address()
        served = KeyValueStore(host, 0, ranks=place.ranks, serve=True)
        store.put(name, json.dumps([host, served.port]).encode())
        return served, served.connect()
    host, port = _await_address(store, name)
    board = KeyValueStore(host, port, ranks=place.ranks, serve=False)
    return board, board.connect()


def _await_address(store: Store, name: str) -> tuple[str, int]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            host, port = json.loads(store.get(name))
        except NotFound:
            time.sleep(_POLL_S)
        else:
            return host, port
    raise LaunchError(
        f"{store.url}/{name}: rank 0 published no address within {START_S:g} s; see its log for the reason"
    )
