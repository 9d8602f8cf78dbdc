"""Does one disturbance to a run, at its moment, and waits until the run is at work again."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.plan import METHODS, RESUMED, Disturbance
from benchmarks.soak.site import RANKS, Site, send, until
from gmml_cluster.run.history import History
from tests.fixtures.proxy import Proxy, Rule

_NEVER_MET_S = 120.0
_SAVE_S = 20.0


@dataclass
class Done:
    """A disturbance that was carried out.

    Attributes:
        began, ended: seconds since 1970.
        attempt: the last that had claimed when it began.
        resumed: whether the run was resumed by `gmml resume --all` afterwards.
        unexpected: why somebody had to, although nothing should have kept the run from going on; empty if nobody had.
    """

    what: Disturbance
    began: float
    ended: float
    attempt: int
    resumed: bool = False
    unexpected: str = ""


@dataclass
class Disturber:
    """Disturbs one run.

    Attributes:
        proxy: before its store; None where it lies in a folder.
        full: the folder of the file system that may be filled; None where there is none.
    """

    site: Site
    proxy: Proxy | None = None
    full: Path | None = None
    _hit: set[int] = field(default_factory=set, init=False)

    def do(self, what: Disturbance) -> Done:
        """Wait for its moment, do it, and wait until a checkpoint of after it is in the log, or its attempt is over."""
        self._await(what)
        time.sleep(what.delay_s)
        self._hit = set(self.site.ranks().values())
        attempt, began = self.site.run.log.refresh().last_attempt, time.time()
        getattr(self, f"_{what.kind}")(what)
        done = Done(what, began, time.time(), attempt)
        if what.kind in RESUMED:
            self._resume(done)
        return done

    def await_recovery(self, done: Done) -> None:
        """Wait for the first checkpoint after a disturbance, and resume the run should it have given up.

        The ranks that a supervisor left behind may commit once more: theirs is not the one that is waited for.
        """
        since = self.site.run.log.refresh().slots
        asked = time.monotonic()

        def recovered() -> bool:
            nonlocal asked
            if any(e.kind == "commit" and e.time > done.ended for e in self.site.run.log.read(since)):
                return True
            if time.monotonic() > asked + 10:
                asked = time.monotonic()
                self._rescue(done)
            return False

        until(f"a checkpoint after {done.what}", recovered)

    def _rescue(self, done: Done) -> None:
        """What a person would have to do; it is reported as a failure."""
        status = self.site.status()
        if status["state"] in ("interrupted", "failed"):
            last = (status["attempts"] or [{}])[-1]
            done.unexpected += f"{status['state']}: {last.get('cause')} {last.get('told')} {status['start_failed']} "
            self.site.call("gmml", "resume", self.site.run.url, may_fail=True)

    def _resume(self, done: Done) -> None:
        """As cron does after a reboot, as soon as the run counts as interrupted."""
        done.resumed = True
        name = self.site.run.name

        def resumed() -> bool:
            return name in self.site.call("gmml", "resume", "--all", "--root", self.site.root, "--json", may_fail=True)

        until("a resume", resumed, pause_s=1.0)

    # ---- moments -------------------------------------------------------------------------------------------------

    def _await(self, what: Disturbance) -> None:
        if what.moment == "starting":
            until("new ranks", self._starts)
        else:
            until("ranks at work", lambda: len(self.site.ranks()) == RANKS)
        if what.moment == "saving":
            self._await_save()

    def _starts(self) -> bool:
        """Whether all ranks of a start run of which none was there when the disturbance before was done."""
        ranks = set(self.site.ranks().values())
        return len(ranks) == RANKS and not ranks & self._hit

    def _await_save(self) -> None:
        """Until a file of a checkpoint is being written that is not in the log yet; or for long enough."""
        deadline = time.monotonic() + _SAVE_S
        if self.proxy is not None:
            seen = len(self.proxy.seen)
            while time.monotonic() < deadline:
                if any(m == "PUT" and "/checkpoints/" in path for m, path, _ in self.proxy.seen[seen:]):
                    return
                time.sleep(0.002)
        else:
            folder = Path(self.site.root) / self.site.run.name / "checkpoints"
            before = set(os.listdir(folder))
            while time.monotonic() < deadline and set(os.listdir(folder)) <= before:
                time.sleep(0.002)

    # ---- kinds ---------------------------------------------------------------------------------------------------

    def _rank(self, what: Disturbance) -> None:
        ranks = self.site.ranks()
        if what.rank in ranks:
            send(ranks[what.rank], signal.SIGKILL)

    def _notice(self, what: Disturbance) -> None:
        for pid in self.site.ranks().values():
            send(pid, signal.SIGTERM)

    def _supervisor(self, what: Disturbance) -> None:
        pid = self.site.supervisor()
        if pid is not None:
            send(pid, signal.SIGKILL)

    def _machine(self, what: Disturbance) -> None:
        self.site.kill_all()
        until("ranks are gone", lambda: not self.site.ranks(), _NEVER_MET_S)

    def _pause(self, what: Disturbance) -> None:
        pid = self.site.ranks().get(what.rank)
        if pid is not None:
            send(pid, signal.SIGSTOP)
            time.sleep(what.lasts_s)
            send(pid, signal.SIGCONT)

    def _store(self, what: Disturbance) -> None:
        assert self.proxy is not None
        self.proxy.rules += [Rule(answer, method, "") for method, answer in what.faults]  # type: ignore[arg-type]

    def _outage(self, what: Disturbance) -> None:
        assert self.proxy is not None
        rules = [Rule("reset", method, "", times=10**9) for method in METHODS]
        self.proxy.rules[:0] = rules
        time.sleep(what.lasts_s)
        for rule in rules:
            rule.times = 0

    def _disk(self, what: Disturbance) -> None:
        assert self.full is not None
        filler = self.full / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12):
                _fill(file.write, size)
        time.sleep(what.lasts_s)
        filler.unlink()


def _fill(write: Callable[[bytes], int], size: int) -> None:
    try:
        while write(b"\0" * size):
            pass
    except OSError:  # it is full
        return


def last_commit(history: History) -> int:
    """The step of the latest checkpoint; -1 before the first."""
    return history.commits[-1].step if history.commits else -1


def stop(site: Site) -> int:
    """Cancel the run once it has made a checkpoint undisturbed; the last step that it saved."""
    before = last_commit(site.run.log.refresh())
    until("two more checkpoints", lambda: last_commit(site.run.log.refresh()) > before + 20)
    site.call("gmml", "cancel", site.run.url)
    until("its end", lambda: site.status()["state"] == "stopped" and site.supervisor() is None, pause_s=0.5)
    return last_commit(site.run.log.refresh())
