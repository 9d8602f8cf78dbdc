"""Messages of a run, to a real server on this machine and to a command."""

import json
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gmml_cluster.errors import LaunchError
from gmml_cluster.launch import notify
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Draft
from gmml_cluster.run.root import SPEC, create_run
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from tests.fixtures.submissions import TINY


@dataclass
class Hook:
    """A webhook that answers with the codes it is given, then with 200."""

    url: str = ""
    codes: deque[int] = field(default_factory=deque)
    bodies: list[dict] = field(default_factory=list)


@pytest.fixture
def hook(monkeypatch) -> Iterator[Hook]:
    made = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            made.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(made.codes.popleft() if made.codes else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(notify, "_wait", lambda _: None)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/secret-path"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def run_with(root, **section):
    job = parse_job({**TINY, "notify": section or None})
    run = create_run(str(root), "mine", {SPEC: to_yaml(job).encode()}, {"code": "0"})
    protocol.submit(run.log, launcher="local", code="c", bounds={})
    return run


def happens(run, kind, attempt=None, **fields):
    run.log.append(lambda _: Draft(kind, attempt, fields))


def test_each_event_is_sent_once_and_what_cannot_be_delivered_is_sent_by_the_next(tmp_path, hook):
    run = run_with(tmp_path, webhook=hook.url)
    happens(run, "exclude", node="n7", reason="it failed twice")
    hook.codes.extend([503] * 4)
    with pytest.raises(LaunchError, match=r"127\.0\.0\.1 answered with 503") as caught:
        notify.send(run, over=False)
    assert "secret-path" not in str(caught.value)
    assert len(hook.bodies) == 4
    happens(run, "stop", reason="gmml cancel")
    assert notify.send(run, over=True) == 2
    assert notify.send(run, over=True) == 0
    *_, first, second = hook.bodies
    assert [first["event"], second["event"]] == ["node_avoided", "stopped"]
    assert first["text"] == "mine avoids node n7 from now on: it failed twice."
    assert first["id"] == hook.bodies[0]["id"] != second["id"]


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(tmp_path, hook):
    run = run_with(tmp_path, webhook=hook.url)
    happens(run, "stop", reason="gmml cancel")
    hook.codes.extend([429, 500])
    assert notify.send(run, over=True) == 1
    assert len(hook.bodies) == 3
    happens(run, "exclude", node="n7", reason="it failed twice")
    hook.codes.append(404)
    with pytest.raises(LaunchError, match="answered with 404"):
        notify.send(run, over=True)
    assert len(hook.bodies) == 4


def test_the_address_of_a_webhook_comes_from_a_variable(tmp_path, hook, monkeypatch):
    run = run_with(tmp_path, webhook="$TEAM_HOOK")
    happens(run, "stop", reason="gmml cancel")
    with pytest.raises(LaunchError, match="TEAM_HOOK holds no address here"):
        notify.send(run, over=True)
    monkeypatch.setenv("TEAM_HOOK", hook.url)
    assert notify.send(run, over=True) == 1


def test_a_command_reads_the_text_and_the_document(tmp_path):
    script = "import os, sys; open(sys.argv[1], 'w').write(os.environ['GMML_EVENT'] + '\\n' + sys.stdin.read())"
    heard = tmp_path / "heard"
    run = run_with(tmp_path / "runs", command=[sys.executable, "-c", script, str(heard)])
    happens(run, "stop", reason="gmml cancel")
    assert notify.send(run, over=True) == 1
    document, text = heard.read_text().splitlines()
    assert json.loads(document)["text"] == text == "mine was stopped: gmml cancel. `gmml resume mine` lifts it."


def test_a_command_that_fails_is_named_with_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(notify, "_wait", lambda _: None)
    run = run_with(tmp_path, command=["sh", "-c", "echo no such list >&2; exit 3"])
    happens(run, "stop", reason="gmml cancel")
    with pytest.raises(LaunchError, match=r"sh exited with 3 \(no such list\)"):
        notify.send(run, over=True)


def test_nothing_is_started_for_a_run_that_names_nobody_or_is_gone(tmp_path, caplog):
    run = run_with(tmp_path)
    assert notify.start(run.url, over=True) is None
    assert not caplog.records
    assert notify.start(f"{tmp_path}/gone", over=True) is None
    run.store.put(SPEC, b"notify: [")
    assert notify.start(run.url, over=True) is None


def test_a_process_of_its_own_sends_it(tmp_path, hook):
    run = run_with(tmp_path, webhook=hook.url)
    happens(run, "stop", reason="gmml cancel")
    sending = notify.start(run.url, over=True)
    notify.finish(sending)
    assert sending is not None
    assert sending.returncode == 0
    assert [body["event"] for body in hook.bodies] == ["stopped"]
