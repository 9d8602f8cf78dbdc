"""An MLflow server."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from gmml_cluster.track.protocol import Tracked, curves, flat

_MOST_METRICS, _MOST_PARAMS, _MOST_LETTERS = 1000, 100, 500
_TAG = "gmml.run"


class Mlflow:
    """One MLflow run for the run, found again by its token; a figure that was sent before is the same row again.

    MLflow keys rows by name, time, step and value, and the time of a line is its own, so nothing is there twice.
    """

    def __init__(self, uri: str, experiment: str, tracked: Tracked) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._run = self._found(experiment, tracked)

    def _found(self, experiment: str, tracked: Tracked) -> str:
        known = self._client.get_experiment_by_name(experiment)
        number = known.experiment_id if known else self._client.create_experiment(experiment)
        runs = self._client.search_runs([number], f"tags.`{_TAG}` = '{tracked.token}'", max_results=1)
        if runs:
            found: str = runs[0].info.run_id
            self._client.update_run(found, status="RUNNING")
            return found
        made = self._client.create_run(number, run_name=tracked.name, tags={_TAG: tracked.token, "url": tracked.url})
        params = (Param(name, str(value)[:_MOST_LETTERS]) for name, value in flat(tracked.spec))
        while some := list(islice(params, _MOST_PARAMS)):
            self._client.log_batch(made.info.run_id, params=some)
        return str(made.info.run_id)

    def send(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send them in batches of as many as the server takes."""
        metrics = (
            Metric(name, value, round(line.get("time", 0.0) * 1000), line["step"])
            for line in lines
            for name, value in curves(line)
            if math.isfinite(value)
        )
        while some := list(islice(metrics, _MOST_METRICS)):
            self._client.log_batch(self._run, metrics=some)

    def close(self, *, finished: bool) -> None:
        """Say whether the run is complete; one that is not may come back."""
        self._client.set_terminated(self._run, status="FINISHED" if finished else "KILLED")
