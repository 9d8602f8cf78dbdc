"""What `gmml status` says of a run that ended."""

import socket

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.status import command
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run


def shown(root):
    return CliRunner().invoke(command, ["tryit", "--root", str(root)]).output


@pytest.mark.parametrize(
    ("cause", "told", "line"),
    [
        ("not_finite", {}, "attempt 1 ended with not_finite"),
        ("notice", {"step": 3}, "attempt 1 ended with notice"),
        ("error", {"message": "bang\nat line 3"}, "bang"),
    ],
)
def test_a_run_that_ended_names_its_message_or_else_its_cause(tmp_path, cause, told, line):
    run = create_run(str(tmp_path), "tryit", {}, {"spec": "0", "code": "0", "versions": {}})
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    number = protocol.claim(run.log, submit=token, job="j", restart=0, topology={}, machine={}).attempt
    protocol.end(run.log, number, cause, **told)
    assert f"\ntryit: {line}; gmml resume tryit goes on\n" in shown(tmp_path)


def test_a_run_whose_job_is_gone_before_any_attempt_says_that_nothing_works_on_it(tmp_path):
    run = create_run(str(tmp_path), "tryit", {}, {"spec": "0", "code": "0", "versions": {}})
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    protocol.queued(run.log, token, f"{socket.gethostname()}:tryit:{token}")
    assert "\ntryit: nothing works on it; " in shown(tmp_path)
