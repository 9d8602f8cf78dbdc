"""Real trackers: an MLflow server with a database, W&B's files, trackio's. Each is skipped where it is not installed.

`pip install mlflow wandb trackio` beside the package; no other test needs them.
"""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import contextmanager

import pytest
import requests

from tests.fixtures.slurm import free_ports, until
from tests.unit.track.test_track import attempt, look, run_with, upload

pytestmark = pytest.mark.timeout(1800)


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def two_attempts(run, *, dies):
    """Steps 0 to 19 by two attempts, of which 10 to 14 are sent by a process that dies before it can say so."""
    attempt(run, 1, first=0)
    upload(run, 1, 0, range(10))
    look(run)
    before = run.store.get("tracked.json")
    upload(run, 1, 1, range(10, 15))
    look(run)
    if dies:
        run.store.put("tracked.json", before)
    attempt(run, 2, first=12)
    upload(run, 2, 0, range(12, 20))
    look(run)


@contextmanager
def mlflow_server(folder):
    (port,) = free_ports(1)
    database = folder / "mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(folder / "artifacts")]
    with (
        (folder / "mlflow.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder) as server,
    ):
        try:
            until(lambda: answers(f"http://127.0.0.1:{port}/health"), 600, "MLflow's server answers")
            yield f"http://127.0.0.1:{port}", database
        finally:
            os.killpg(server.pid, 15)


def answers(url):
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


@needs("mlflow")
def test_mlflow_has_each_step_once_in_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with mlflow_server(tmp_path) as (uri, database):
        run = run_with(tmp_path / "runs", tensorboard=None, mlflow={"uri": uri})
        two_attempts(run, dies=True)
        with sqlite3.connect(database) as read:
            rows = read.execute("select step, value from metrics where key = 'loss' order by step").fetchall()
            names = [name for (name,) in read.execute("select name from runs")]
            params = dict(read.execute("select key, value from params"))
    assert rows == [(s, pytest.approx(1 / (s + 1))) for s in range(20)]
    assert names == ["mine"]
    assert (params["method.name"], params["run.steps"]) == ("mae", "30")


def logged_records(content, header=7, block=2**15):
    """The records of a `.wandb` file: LevelDB's log format behind seven bytes; wandb has no public reader of it."""
    at, record = header, b""
    while at + 7 <= len(content):
        if block - at % block < 7:  # no room for another part in this block
            at += block - at % block
            continue
        length, part = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield record
            record = b""


@needs("wandb")
def test_wandb_keeps_each_step_once_for_its_own_sync(tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.chdir(tmp_path)
    run = run_with(tmp_path / "runs", tensorboard=None, wandb={"project": "p", "mode": "offline"})
    two_attempts(run, dies=False)
    steps = []
    files = sorted((tmp_path / "runs" / "mine" / "wandb").glob("offline-run-*/run-*.wandb"), key=os.path.getmtime)
    for file in files:
        for data in logged_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            steps += [items["_step"]] if "loss" in items else []
    assert steps == list(range(20))


@needs("trackio")
def test_trackio_has_each_step_once_in_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = run_with(tmp_path / "runs", tensorboard=None, trackio={"project": "p"})
    two_attempts(run, dies=False)
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as read:
        rows = read.execute("select step, metrics, run_name from metrics order by step").fetchall()
    assert [(step, json.loads(metrics)["loss"], name) for step, metrics, name in rows] == [
        (s, pytest.approx(1 / (s + 1)), "mine") for s in range(20)
    ]
