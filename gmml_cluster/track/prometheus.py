"""The latest figures for whoever scrapes them, in Prometheus' text format."""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from gmml_cluster.track.protocol import Tracked, curves

_PREFIX = "gmml_"


class Prometheus:
    """A server on this node with a gauge for each figure, all labelled with the run's name."""

    def __init__(self, port: int, tracked: Tracked) -> None:
        self._registry, self._run = CollectorRegistry(), tracked.name
        self._gauges: dict[str, Gauge] = {}
        self._server, self._thread = start_http_server(port, registry=self._registry)

    def send(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Show the last of these lines."""
        last = lines[-1]
        for name, value in [*curves(last), ("step", float(last["step"]))]:
            if name not in self._gauges:
                described = f"`{name}` of the latest metric line (docs/outputs.md)"
                self._gauges[name] = Gauge(_PREFIX + name, described, ["run"], registry=self._registry)
            self._gauges[name].labels(self._run).set(value)

    def close(self, *, finished: bool) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
