"""A store in memory, shared by several views, each of which a scheduler may stop before and after every request."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gmml_cluster.errors import StorageError
from gmml_cluster.store.protocol import AlreadyExists, NotFound, Stat, Unfinished


class Crashed(BaseException):
    """The process that used this view is dead."""


@dataclass
class MemoryStore:
    """What `Store` promises, in a dict.

    Attributes:
        before: called with method and name before each request acts; may raise.
        after: called when a request has acted; what it raises is a reply that was lost.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    before: Callable[[str, str], None] = lambda method, name: None
    after: Callable[[str, str], None] = lambda method, name: None
    prefix: str = ""
    url: str = "memory://runs"

    def _act(self, method, name, action):
        self.before(method, name)
        result = action(self.prefix + name)
        self.after(method, name)
        return result

    def create(self, name: str, data: bytes) -> None:
        """As the S3 store does, a lost reply is not read back here: the log must do so."""

        def act(key):
            if self.objects.setdefault(key, bytes(data)) != data:
                raise AlreadyExists(key)

        self._act("create", name, act)

    def put(self, name: str, data: bytes | memoryview, *, private: bool = False) -> None:
        self._act("put", name, lambda key: self.objects.__setitem__(key, bytes(data)))

    def put_file(self, name, path) -> None:
        raise NotImplementedError

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        data = self._act("get", name, self.objects.get)
        if data is None:
            raise NotFound(name)
        return data[start:] if length is None else data[start : start + length]

    def stat(self, name: str) -> Stat:
        data = self.get(name)
        return Stat(name, len(data), str(hash(data)))

    def list_objects(self, prefix: str = "") -> list[Stat]:
        def act(key):
            names = [name for name in self.objects if name.startswith(key)]
            return sorted(Stat(name[len(self.prefix) :], len(self.objects[name]), "") for name in names)

        return self._act("list", prefix, act)

    def folders(self):
        return sorted({stat.name.split("/")[0] for stat in self.list_objects() if "/" in stat.name})

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._act("delete", name, lambda key: self.objects.pop(key, None))

    def unfinished(self, prefix: str = "") -> list[Unfinished]:
        return []

    def discard(self, unfinished: Iterable[Unfinished]) -> None:
        assert not list(unfinished)

    def child(self, prefix: str) -> "MemoryStore":
        return MemoryStore(self.objects, self.before, self.after, f"{self.prefix}{prefix}/", f"{self.url}/{prefix}")

    def view(self, before=None, after=None) -> "MemoryStore":
        """The same objects, seen by another process."""
        nothing = MemoryStore.before
        return MemoryStore(self.objects, before or nothing, after or nothing, self.prefix, self.url)


def lost(*requests):
    """An `after` that loses the replies of the requests with these numbers, counted over creates from 0."""
    seen = iter(range(10**9))

    def after(method, name):
        if method == "create" and next(seen) in requests:
            raise StorageError(f"{name}: no answer")

    return after
