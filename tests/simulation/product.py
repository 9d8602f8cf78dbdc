"""Puts the virtual world under the product's modules, for as long as histories are explored."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import yaml

from gmml_cluster.launch import jobs, restart, submit
from gmml_cluster.launch.after import living
from gmml_cluster.launch.checks import existing
from gmml_cluster.launch.local import supervisor
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.runs import cancel
from gmml_cluster.launch.slurm import successor
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.run import log, root
from gmml_cluster.run.finding import location
from gmml_cluster.run.saving import retention
from gmml_cluster.spec import stored
from gmml_cluster.spec.loading import validate
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.store import posix, probe, requests, s3, verified
from gmml_cluster.train import attempt, loop, records
from gmml_cluster.train.checkpoints import clean_up, save
from gmml_cluster.train.ranks import agreement, log_upload, rendezvous, shutdown, signals
from tests.simulation import clock, folder, machine, ray_cluster
from tests.simulation.ranks import RUN_STEPS, Engine, Rendezvous, Stepper, rank_of
from tests.simulation.world import Dead, here

JOB = {
    "name": "run",
    "model": {"width": 192, "depth": 2, "heads": 3, "patch_size": 4},
    "method": {"name": "mae"},
    "data": {"corpora": [{"url": "/corpus/train.tar"}], "image_size": 32},
    "batch": {"size": 64, "micro": 8},
    "run": {"steps": RUN_STEPS},
}
CODE = Snapshot("c" * 64, b"code")
_LAYOUT = SimpleNamespace(to_json=lambda: {"batch": 64})
_PINNED = SimpleNamespace(shapes=(), summaries=(), files=(), to_bytes=lambda: b"pin")
_PINNED.digest = hashlib.sha256(_PINNED.to_bytes()).hexdigest()


@lru_cache(maxsize=64)
def job_of(every: int, keep: int) -> Any:
    """A job that saves every so many steps and keeps so many checkpoints."""
    return parse_job({**JOB, "checkpoint": {"every": f"{every} steps", "keep": keep}})


def prepared() -> submit.Prepared:
    """What `gmml-submit` knows before anything is touched."""
    world = here()
    job = job_of(*world.saves)
    return submit.Prepared(job, "simulated", plan_submission(job, profile(), world.root, None))


def profile() -> Any:
    """The cluster of this history."""
    return SimpleNamespace(launcher=here().cluster, root="", variables={})


def plan_submission(job: Any, profile: Any, root: str, indexed: Any, code: Any = None) -> Submission:
    """Of `launch.prepare`: without corpora and memory."""
    many = here().nodes_asked
    shape = ((1, 1), many) if profile.launcher == "local" else ((1, many), 1)
    plan = SimpleNamespace(nodes=shape[0], ranks_per_node=shape[1], lanes=many, notes=())
    return Submission(root, job.name, "<token>", profile, plan, code or CODE)


def _load_resolved(text: bytes, changed: Any) -> Any:
    return _resolved(text, repr(sorted(changed.items())))


@lru_cache(maxsize=64)
def _resolved(text: bytes, changed: str) -> Any:
    return _real_load_resolved(text, {})


_real_load_resolved = stored.load_resolved
_texts: dict[int, str] = {}


def _to_yaml(job: Any) -> str:
    key = (job.checkpoint.every.steps, job.checkpoint.keep)
    if key not in _texts:
        _texts[key] = validate.to_yaml(job)
    return _texts[key]


_decode = lru_cache(maxsize=4096)(log.decode)
"""Each entry is read many times in a history; that it is parsed once makes histories a quarter faster."""


def _preflight(submission: Submission, data: Any, notify: Any) -> list[Any]:
    try:
        probe.probe(open_store(submission.root))
    except probe.PreflightError as error:
        return error.faults
    return []


def open_store(url: str) -> Any:
    """The store of the history that runs."""
    return here().open_store(str(url))


def _parts(store: Any, stem: str, suffix: str) -> log_upload.Parts:
    return log_upload.Parts(store, stem, suffix, _lock=clock.Lock())


def _describe(error: BaseException, rank_info: Any) -> dict[str, Any]:
    if here().over:
        raise Dead
    return _real_describe(error, rank_info)


_real_describe = shutdown.describe
_ANYBODY = SimpleNamespace(getuser=lambda: "someone")
_WATCHDOG = SimpleNamespace(beat=lambda *about: None, overdue=lambda: "")
_GROUPS = SimpleNamespace(join=lambda *about: None, group_problem=lambda: "", be_deterministic=lambda: None)
_LOGGING = SimpleNamespace(getLogger=lambda *name: SimpleNamespace(addHandler=lambda handler: None))


def _replacements() -> dict[Any, dict[str, Any]]:
    time, threading = clock.Time, clock.Threading
    launcher = lambda name: here().launcher  # noqa: E731
    stores = {"open_store": open_store}
    return {
        log: {"time": time, "threading": threading, "secrets": clock.Secrets, "decode": _decode},
        root: {**stores, "time": time, "secrets": clock.Secrets},
        location: stores,
        restart: stores,
        supervisor: stores,
        successor: {**stores, "print": lambda *words, **more: None},
        retention: {"time": time},
        verified: {"sleep": time.sleep},
        yaml: {"safe_load": lru_cache(maxsize=64)(yaml.safe_load)},
        requests: {"running_time": clock.running_time, "sleep": time.sleep, "random": clock.Random},
        s3: {"ThreadPoolExecutor": clock.Pool, "SINGLE_PUT_BYTES": 300, "PART_BYTES": 200},
        probe: {"secrets": clock.Secrets},
        posix: {"os": folder.System, "Path": folder.Path, "open": folder.open_file, "secrets": clock.Secrets},
        submit: {
            "time": time,
            "launcher_named": launcher,
            "refuse_evaluation": lambda *about: None,
            "look_up": lambda *about: None,
            "profile_named": lambda name: (profile(), {}),
            "plan_submission": plan_submission,
            "preflight": _preflight,
            "note_root": lambda root: None,
            "dump": _dump_of,
            "to_yaml": _to_yaml,
            "run_root": lambda url, name: root.RunRoot(url, name),
        },
        existing: {"time": time, "dump": _dump_of},
        living: {"time": time, "launchers": lambda: iter([here().launcher])},
        jobs: {"launcher_named": launcher},
        cancel: {"getpass": _ANYBODY, "launcher_named": launcher, "launchers": lambda: iter([here().launcher])},
        stored: {"load_resolved": _load_resolved},
        attempt: {
            "time": time,
            "logging": _LOGGING,
            "RankInfo": SimpleNamespace(from_environment=lambda: rank_of().info),
            "run_root": lambda url, name: root.RunRoot(url, name),
            "preemption_under_way": lambda: False,
            "choose_device": lambda info: None,
            "gather_devices": _meet,
            "full_precision": lambda: None,
            "groups": _GROUPS,
            "build": lambda job, drawn: SimpleNamespace(module=None),
            "import_ahead": lambda zero, device: None,
            "make_engine": lambda *about, **more: Engine(rank_of()),
            "Parts": _parts,
            "watchdog": _WATCHDOG,
            "_map_table": lambda rank: None,
            "_stepper": lambda rank, engine, *about: (_stepper(rank, engine, about), None),
            "tracking": SimpleNamespace(start=lambda *about: None, finish=lambda process: None),
        },
        loop: {"watchdog": _WATCHDOG},
        records: {"time": time},
        save: {"running_time": clock.running_time, "threading": threading},
        clean_up: {"threading": threading},
        agreement: {
            "time": time,
            "pin": lambda *about: _PINNED,
            "decoder_name": lru_cache(agreement.decoder_name),
            "repin": lambda old, indexes: old,
            "class_faults": lambda *about: [],
            "layout_of": lambda *about: _LAYOUT,
            "total_steps": lambda *about: RUN_STEPS,
            "SampleLayout": SimpleNamespace(from_json=lambda *about: _LAYOUT),
            "pinned_corpora": lambda *about: _PINNED,
            "indexes": lambda run: None,
            "machine_fields": lambda info: {"host": here().process.node.name, "nodes": info.ranks // info.local_ranks},
        },
        rendezvous: {
            "time": time,
            "running_time": clock.running_time,
            "secrets": clock.Secrets,
            "KeyValueStore": Rendezvous,
            "_listen": _listen,
            "own_address": lambda: "127.0.0.1",
        },
        shutdown: {
            "time": time,
            "threading": threading,
            "os": clock.System,
            "watchdog": _WATCHDOG,
            "describe": _describe,
        },
        signals: {"time": time, "threading": threading, "os": clock.System},
    }


def _dump_of(job: Any) -> Any:
    key = id(job)
    if key not in _dumps:
        _dumps[key] = (job, validate.dump(job))
    return _dumps[key][1]


_dumps: dict[int, tuple[Any, Any]] = {}


def _stepper(rank: Any, engine: Any, about: Any) -> Stepper:
    mine = rank_of()
    mine.attempt = rank.agreement.attempt
    return Stepper(mine, engine, about[3])


def _meet(kv: Any, rank_info: Any, device: Any) -> tuple[()]:
    """Rank 0 goes on when all ranks have met, as where it gathers their devices."""
    kv.set(f"device/{rank_info.rank}", True)
    if rank_info.rank == 0:
        for rank in range(rank_info.ranks):
            kv.wait(f"device/{rank}", timeout_s=rendezvous.START_S)
    return ()


def _listen(host: str) -> Any:
    """A socket; the secret that is drawn next names the ranks' store."""
    return SimpleNamespace(getsockname=lambda: (host, 1))


def _all_replacements() -> dict[Any, dict[str, Any]]:
    found = {module: dict(names) for module, names in _replacements().items()}
    for module, names in (*machine.replacements().items(), *ray_cluster.replacements().items()):
        found.setdefault(module, {}).update(names)
    return found


@contextmanager
def installed() -> Iterator[None]:
    """The product's code runs in the world that `world.enter` named."""
    logging.disable(logging.CRITICAL)
    patches = [
        patch.object(module, name, value, create=name in ("open", "print"))
        for module, names in _all_replacements().items()
        for name, value in names.items()
    ]
    try:
        for each in patches:
            each.start()
        yield
    finally:
        for each in reversed(patches):
            each.stop()
        logging.disable(logging.NOTSET)
