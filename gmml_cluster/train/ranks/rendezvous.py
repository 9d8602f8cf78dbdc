"""How the ranks of an attempt find each other, and what they exchange outside collectives.

Rank 0 serves a key-value store on a port that the kernel chooses, so no two jobs on a node can collide. Its address and
a random secret lie in the run root, in a file that only the owner may read, under a name that no other start shares.
"""

import hashlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import torch.distributed as dist

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.run.ends.symptoms import UNWRITTEN
from gmml_cluster.running_time import running_time
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.train.ranks.cluster_env import own_address

START_S = 1200.0
_POLL_S = 0.1
_FOREIGN_POLL_S = 1.0
_BACKLOG = 4096

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankInfo:
    """Which rank this process is."""

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int

    @classmethod
    def from_environment(cls) -> "RankInfo":
        """As the launcher says in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.

        Raises:
            LaunchError: one of them is missing.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        missing = [name for name in names if name not in os.environ]
        if missing:
            problem = f"{', '.join(missing)} not set; ranks are started by a launcher"
            raise LaunchError(Fault("environment", problem, "use gmml-submit"))
        return cls(*(int(os.environ[name]) for name in names))


@dataclass(frozen=True)
class Address:
    """Where rank 0 serves the store, and the secret by which ranks of one start know each other."""

    host: str
    port: int
    secret: str


class KeyValueStore:
    """JSON values by key, shared by the ranks of one start. Each instance is a connection of its own.

    A connection serves one thread: TCPStore's client waits for its answer under a lock, so a thread that waits for a
    key would keep all others of the same connection from asking.

    Whoever can connect to the port can write to a TCPStore and, as measured with torch 2.13, list its keys. So a value
    carries a keyed hash of key and value: what no rank of this start wrote counts as not written. Keys have a prefix
    derived from the secret, for the sake of the process groups, which write unprotected values of their own.

    Args:
        listen: rank 0's: a socket that listens at the address already.
    """

    def __init__(self, address: Address, listen: socket.socket | None = None) -> None:
        # TCPStore itself listens on every interface of the machine; only a socket of ours keeps it to one. It takes
        # the descriptor over and closes it.
        self._tcp = dist.TCPStore(  # type: ignore[attr-defined]
            address.host,
            address.port,
            is_master=listen is not None,
            timeout=timedelta(seconds=START_S),
            wait_for_workers=False,
            master_listen_fd=None if listen is None else listen.detach(),
        )
        self._address = address
        self._secret = address.secret.encode()
        prefix = hashlib.sha256(b"keys " + self._secret).hexdigest()[:32]
        self._keys = dist.PrefixStore(prefix, self._tcp)  # type: ignore[attr-defined]
        self._foreign: set[str] = set()

    def connect(self) -> "KeyValueStore":
        """Another connection to the same store, for another thread."""
        return KeyValueStore(self._address)

    def for_groups(self) -> Any:
        """A store of torch's, on this connection, in which process groups exchange their addresses."""
        return dist.PrefixStore("group", self._keys)  # type: ignore[attr-defined]

    def set(self, key: str, value: Any) -> None:
        """Write a JSON value."""
        text = json.dumps(value)
        self._keys.set(key, self._hash(key, text) + text)

    def get(self, key: str) -> Any:
        """The value, or None where no rank of this start has written one."""
        if not self._keys.check([key]):
            return None
        stored = self._keys.get(key)
        length = hashlib.sha256().digest_size * 2
        given, text = stored[:length], stored[length:].decode(errors="replace")
        if hmac.compare_digest(given, self._hash(key, text).encode()):
            return json.loads(text)
        if key not in self._foreign:
            _log.warning("rendezvous: key %r holds a value that no rank of this start wrote; it is ignored", key)
            self._foreign.add(key)
        return None

    def count(self, key: str) -> int:
        """One more than the last call of any rank got, from 1 on: an order of events that needs no clocks."""
        return int(self._keys.add(key, 1))

    def delete(self, key: str) -> None:
        """Remove a value that is no longer read."""
        self._keys.delete_key(key)

    def wait(self, key: str, *, timeout_s: float) -> Any:
        """The value, as soon as it is written.

        Raises:
            TimeoutError: it was not written in time.
        """
        deadline = running_time() + timeout_s
        while True:
            left_s = max(0.0, deadline - running_time())
            try:
                self._keys.wait([key], timedelta(seconds=left_s))
            except dist.DistStoreError as error:
                if running_time() < deadline:  # the time was over because this process was stopped
                    continue
                raise TimeoutError(f"{key} {UNWRITTEN} {timeout_s:g} s") from error
            if (value := self.get(key)) is not None:
                return value
            if left_s == 0:
                raise TimeoutError(f"{key} {UNWRITTEN} {timeout_s:g} s")
            time.sleep(min(left_s, _FOREIGN_POLL_S))  # the key exists, so TCPStore's own wait returns at once

    def _hash(self, key: str, text: str) -> str:
        return hmac.new(self._secret, f"{key}\0{text}".encode(), hashlib.sha256).hexdigest()


def meet(store: Store, start: str, rank_info: RankInfo) -> tuple[KeyValueStore, KeyValueStore]:
    """Connect this rank to rank 0's store.

    Args:
        store: the run root.
        start: name of this start of the job, shared with no other: submit token, job and restart count.

    Returns:
        A connection for the main thread and one for the signal thread.

    Raises:
        LaunchError: rank 0 published no address within 20 minutes.
        StorageError: rank 0 cannot write to the run root.
    """
    name = address_name(start)
    if rank_info.rank != 0:
        kv = KeyValueStore(_await_address(store, name))
        return kv, kv.connect()
    host = "127.0.0.1" if rank_info.ranks == rank_info.local_ranks else own_address()
    listening = _listen(host)
    address = Address(host, listening.getsockname()[1], secrets.token_hex(32))
    kv = KeyValueStore(address, listening)
    # last: whoever reads the address may connect at once
    store.put(name, json.dumps(asdict(address)).encode(), private=True)
    return kv, kv.connect()


def address_name(start: str) -> str:
    """Where in the run root the ranks of a start find rank 0's address and secret."""
    return f"attempts/rendezvous/{quote(start, safe=':')}.json"  # a job's id may hold an address


def _listen(host: str) -> socket.socket:
    """A socket that listens on the one interface that `host` names, at a port of the kernel's choice."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    if ipaddress.ip_address(address[0]).is_loopback and host not in ("localhost", address[0]):
        # Debian's /etc/hosts has the node's own name as 127.0.1.1, while other nodes resolve it to another address,
        # which is not known here. Then values are protected by their hashes alone.
        _log.info("rendezvous: %s is %s on this node; rank 0 listens on every interface", host, address[0])
        address = ("", 0)
    try:
        listening = socket.socket(family, kind, protocol)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        problem = f"cannot listen there: {error.strerror}; ranks of other nodes connect to rank 0 by this name"
        raise LaunchError(Fault(host, problem, "the name must resolve to an address of this node")) from error
    return listening


def _await_address(store: Store, name: str) -> Address:
    deadline = running_time() + START_S
    while running_time() < deadline:
        try:
            return Address(**json.loads(store.get(name)))
        except NotFound:
            time.sleep(_POLL_S)  # stores offer nothing to wait on
    problem = f"rank 0 published no address within {START_S:g} s"
    raise LaunchError(Fault(f"{store.url}/{name}", problem, "see its log for the reason"))
