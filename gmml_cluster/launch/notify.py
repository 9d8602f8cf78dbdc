"""`python -m gmml_cluster.launch.notify RUNROOT`: sends what happened to a run to whom its job names.

Run by what restarts a job once the ranks are gone, in a process of its own that ends within a minute: the run waits for
no webhook. What could not be delivered stays to be sent by the next such process, so a message comes at least once;
its `id` says whether it is the same one.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gmml_cluster.errors import Fault, GmmlError, LaunchError
from gmml_cluster.outputs.notify import MessageOutput
from gmml_cluster.run.events import Event, events
from gmml_cluster.run.history import History
from gmml_cluster.run.root import SPEC, RunRoot, run_root
from gmml_cluster.store.protocol import NotFound

if TYPE_CHECKING:
    from gmml_cluster.spec.notify import Notify

LONGEST_S = 60.0
_MODULE = "gmml_cluster.launch.notify"
VERSION = 1
_STATE = "notified.json"
_LOOKED_AT = 200
"""Newest entries that are looked at: each is a request, and a log of months has many thousands."""
_TRIES, _TRY_S = 4, 8.0
_PASSES = (408, 425, 429)
"""Answers of a server that may be other ones a moment later, as those of 500 and more."""

_log = logging.getLogger(__name__)


class _Passing(Exception):
    """A failure that another try may not meet."""


def start(url: str, *, over: bool) -> "subprocess.Popen[bytes] | None":
    """Begin to send what is unsent of a run; None where its job names nobody, or the run cannot be read.

    Args:
        url: the run root.
        over: whether nothing starts the run again by itself.
    """
    try:
        if not _asks(_run(url)):
            return None
        return subprocess.Popen([sys.executable, "-P", "-m", _MODULE, url, *(["--over"] if over else [])])
    except Exception as error:  # a spec.yaml that is no YAML any more, say: whoever restarts a run must not die of it
        _log.warning("%s; nobody is notified", error)
        return None


def finish(sending: "subprocess.Popen[bytes] | None") -> None:
    """Wait until all is sent, for a process that is about to end and would take it along; not for ever."""
    if sending is None:
        return
    try:
        sending.wait(LONGEST_S)
    except subprocess.TimeoutExpired:
        sending.kill()
        _log.warning("a notification was not delivered within %g s", LONGEST_S)


def send(run: RunRoot, *, over: bool) -> int:
    """Send what is unsent, oldest first, up to the first that cannot be delivered; how many were.

    Raises:
        LaunchError: one could not be delivered.
        StorageError: the run cannot be read.
    """
    history = run.log.refresh()
    notify = run.job(history.submit.changed if history.submit else {}).notify
    if notify is None:
        return 0
    known, sent = _sent_slot(run), 0
    entries = run.log.read(max(0, history.slots - _LOOKED_AT))
    for event in events(entries, run.name, over=over):
        if event.slot <= known:
            continue
        deliver(notify, document(run, history, event), event.text)
        known, sent = max(known, event.slot), sent + 1
        run.store.put(_STATE, json.dumps({"version": VERSION, "slot": known}).encode())
    return sent


def document(run: RunRoot, history: History, event: Event) -> MessageOutput:
    """What a webhook is sent. Chat services show its `text`."""
    return {
        "version": 1,
        "id": f"{history.run}-{event.slot}",
        "text": event.text,
        "event": event.kind,
        "run": run.name,
        "url": run.url,
        "time": event.time,
        "attempt": event.attempt,
        "step": history.commits[-1].step if history.commits else None,
    }


def deliver(notify: "Notify", message: Mapping[str, Any], text: str) -> None:
    """Send one message in every way that is asked for, each tried some four times.

    Raises:
        LaunchError: one way failed; says no more of a webhook's address than its host.
    """
    if notify.webhook is not None:
        address = os.environ.get(notify.variable, "") if notify.variable else notify.webhook
        host = urlsplit(address).hostname
        if not host:
            problem = f"the variable {notify.variable} holds no address here"
            raise LaunchError(Fault("notify.webhook", problem, "name it among `secrets` of the profile"))
        _try("notify.webhook", lambda: _post(address, message, host))
    if notify.command is not None:
        command = notify.command
        _try("notify.command", lambda: _call(command, message, text))


def _post(address: str, message: Mapping[str, Any], host: str) -> None:
    import requests  # a tenth of a second, which only a run that notifies pays

    try:
        code = requests.post(address, json=message, timeout=_TRY_S).status_code
    except requests.RequestException as error:
        raise _Passing(f"{host} cannot be reached ({type(error).__name__})") from None  # its text has the address
    if code in _PASSES or code >= 500:
        raise _Passing(f"{host} answered with {code}")
    if code >= 400:
        raise ValueError(f"{host} answered with {code}")


def _call(command: Sequence[str], message: Mapping[str, Any], text: str) -> None:
    environment = {**os.environ, "GMML_EVENT": json.dumps(message)}
    try:
        done = subprocess.run(
            command, input=text, text=True, env=environment, capture_output=True, timeout=_TRY_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _Passing(f"{command[0]} takes longer than {_TRY_S:g} s") from None
    except OSError as error:
        raise ValueError(f"{command[0]} cannot be started ({error.strerror})") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        raise _Passing(f"{command[0]} exited with {done.returncode}{f' ({said})' if said else ''}")


def _try(where: str, call: Callable[[], None]) -> None:
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    tries = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(max=_TRY_S),
        retry=retry_if_exception_type(_Passing),
        reraise=True,
        sleep=_wait,
    )
    try:
        tries(call)
    except (_Passing, ValueError) as error:
        hint = "it is sent again after the next start; `gmml-submit` with another `notify` changes it"
        raise LaunchError(Fault(where, str(error), hint)) from None


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _asks(run: RunRoot) -> bool:
    """Whether the job names anybody; reads YAML alone, for most jobs do not."""
    import yaml

    submit = run.log.refresh().submit
    changed = submit.changed if submit else {}
    return any(field.split(".")[0] == "notify" for field in changed) or bool(
        yaml.safe_load(run.store.get(SPEC)).get("notify")
    )


def _sent_slot(run: RunRoot) -> int:
    try:
        found = json.loads(run.store.get(_STATE))
    except NotFound:
        return -1
    return int(found["slot"])


def _run(url: str) -> RunRoot:
    root, _, name = url.rstrip("/").rpartition("/")
    return run_root(root, name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Send, and say on standard error what could not be."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}")
    parser.add_argument("run_root")
    parser.add_argument("--over", action="store_true", help="nothing starts the run again by itself")
    given = parser.parse_args(arguments)
    try:
        run = _run(given.run_root)
        if _asks(run):
            send(run, over=given.over)
    except GmmlError as fault:
        print(f"gmml: {fault}", file=sys.stderr)
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
