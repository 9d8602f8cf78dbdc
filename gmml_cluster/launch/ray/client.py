"""Ray's job API: the client, and what it says of jobs. Imports ray where it is called, for `gmml status` need not."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, LaunchError, PreflightError
from gmml_cluster.launch.protocol import JobReport, JobState

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_STATES: dict[str, JobState] = {"PENDING": "queued", "RUNNING": "running"}
_MODE = "RAY_AUTH_MODE"
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_OUTRANK = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client takes before the address that it is given: the profile, or the job's id, says another."""
AUTO = "auto"
CONNECT_S, ANSWER_S = 10.0, 300.0
"""How long a head may take to accept a connection, and then be silent: Ray's client waits for either for ever."""


@dataclass(frozen=True)
class RayJob:
    """What a Ray job's id says: `ADDRESS#SUBMISSION`, so that it can be asked for where no profile is at hand."""

    address: str
    submission: str

    @classmethod
    def read(cls, job: str) -> "RayJob":
        """The parts of an id."""
        address, _, submission = job.rpartition("#")
        return cls(address, submission)

    def __str__(self) -> str:
        return f"{self.address}#{self.submission}"


def authentication() -> dict[str, str]:
    """The mode of authentication, which is said here and to every job: no mode at all has several meanings for Ray.

    It takes the absence of a word for whatever an earlier local cluster of this user left behind.
    """
    mode = "token" if any(name in os.environ for name in _TOKENS) else "disabled"
    return {_MODE: os.environ.setdefault(_MODE, mode)}


@contextmanager
def connected(address: str, answer_s: float = ANSWER_S) -> Iterator["JobSubmissionClient"]:
    """A client of the job API at a dashboard's address.

    Args:
        address: of the dashboard.
        answer_s: how long it may be silent.

    Raises:
        LaunchError: there is no Ray here, or nothing answers, or it refuses.
    """
    with _asked(address):
        from ray.job_submission import JobSubmissionClient

        class Client(JobSubmissionClient):  # type: ignore[misc]
            def _do_request(self, *arguments: Any, **options: Any) -> Any:
                return super()._do_request(*arguments, **{"timeout": (CONNECT_S, answer_s), **options})

        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)  # it prints what it uploads
        with _unset(*_OUTRANK):
            client = Client(address)
        yield client


def dashboard(address: str) -> str:
    """The address of the job API; of `auto`, that of the cluster that RAY_ADDRESS names or that runs on this machine.

    Raises:
        LaunchError: there is no Ray here, or no such cluster, or it refuses.
    """
    if address != AUTO:
        return address
    with _asked(address):
        from ray.dashboard.utils import get_address_for_submission_client

        return str(get_address_for_submission_client(address))


@contextmanager
def _unset(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _asked(address: str) -> Iterator[None]:
    authentication()
    try:
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError, RayError
    except ImportError as error:  # Ray without `default` has no client of HTTP
        problem = f"{error}; the job API is asked with ray[default]"
        raise LaunchError(Fault("ray", problem, "pip install 'gmml-cluster[ray]'")) from error
    try:
        yield
    except AuthenticationError as error:
        hint = "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and RAY_AUTH_MODE=token"
        raise LaunchError(Fault(address, f"refused: {first_line(error)}", hint)) from error
    except (OSError, RuntimeError, ValueError, RayError, ClientError) as error:
        hint = "look whether ray.address is the dashboard of a cluster that runs"
        raise LaunchError(Fault(address, first_line(error), hint)) from error


def hand_over(client: "JobSubmissionClient", request: Mapping[str, Any]) -> None:
    """Have a job made.

    Args:
        client: of the cluster.
        request: arguments of `submit_job`.

    Raises:
        PreflightError: Ray's client does not take the profile's runtime environment.
        RuntimeError: the cluster refused the job, or its answer was lost.
    """
    try:
        client.submit_job(**request)
    except (TypeError, ValueError) as error:
        fault = Fault("ray.runtime_env", first_line(error), "write its fields as Ray's documentation has them")
        raise PreflightError(fault) from error


def report_of(details: Any) -> JobReport:
    """What the job API says of one job; what a driver printed at its end is no reason where it ended well."""
    status = str(details.status.value)
    state = _STATES.get(status, "gone")
    reason = details.message if status in ("PENDING", "FAILED", "STOPPED") else ""
    return JobReport(state, _short(reason or ""))


def _short(reason: str) -> str:
    """The first line: of a driver that failed Ray adds the last 20,000 characters of its output."""
    return next(iter(reason.strip().splitlines()), "")


def first_line(error: Exception) -> str:
    """What it says, without the traceback of Ray's server."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
