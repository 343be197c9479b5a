"""Prometheus metrics of a server (the extra `fedbox[deploy]`): rounds, clients, bytes, seconds by phase, failures."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..configs import Config, ConfigError, Fault
from .callbacks import Callback
from .fleet import Fleet


class Metrics(Callback):
    """Serves http://HOST:PORT/metrics while the run lasts. Raises ConfigError without prometheus-client or the port."""

    def __init__(self, fleet: Fleet, port: int, host: str = "127.0.0.1") -> None:
        if find_spec("prometheus_client") is None:
            raise ConfigError("given", [Fault("--metrics-port", "needs prometheus-client: pip install fedbox[deploy]")])
        from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

        registry = CollectorRegistry()
        self._round = Gauge("fedbox_round", "last round that was completed", registry=registry)
        self._rounds = Gauge("fedbox_rounds", "rounds of the run", registry=registry)
        self._values = Gauge("fedbox_metric", "metrics of the last round", ["name"], registry=registry)
        self._seconds = Counter("fedbox_seconds", "seconds of the rounds by phase", ["phase"], registry=registry)
        self._failures = Counter("fedbox_failures", "clients that failed in a round", ["kind"], registry=registry)
        registry.register(_FleetCounts(fleet))
        try:
            self._server, _ = start_http_server(port, host, registry)
        except (OSError, OverflowError) as error:
            problem = f"cannot listen on {host}:{port} ({getattr(error, 'strerror', None) or error}); give a free port"
            raise ConfigError("given", [Fault("--metrics-port", problem)]) from error
        self.port = int(self._server.server_port)

    def on_start(self, config: Config, folder: Path, first: int) -> None:
        """Tell how long the run is."""
        self._rounds.set(config.rounds)
        self._round.set(first - 1)

    def on_round(self, record: Mapping[str, Any]) -> None:
        """Count the round."""
        self._round.set(record["round"])
        for name, value in record["metrics"].items():
            if value is not None:
                self._values.labels(name).set(value)
        for phase, value in record["seconds"].items():
            self._seconds.labels(phase).inc(value)
        for failure in record["failures"]:
            self._failures.labels(failure["kind"]).inc()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _FleetCounts:
    """Reads the fleet whenever somebody asks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Any]:
        """Give what Prometheus asks for."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        fleet = self._fleet
        stations = list(fleet.stations.values())
        yield GaugeMetricFamily("fedbox_clients_enrolled", "clients on the list", value=len(stations))
        online = sum(station.line is not None for station in stations)
        yield GaugeMetricFamily("fedbox_clients_online", "clients that have a line", value=online)
        told = {
            "fedbox_bytes_up": ("bytes that came from clients", "bytes_up"),
            "fedbox_bytes_down": ("bytes that went to clients", "bytes_down"),
            "fedbox_arrivals": ("lines that clients opened", "arrivals"),
            "fedbox_departures": ("lines that ended", "departures"),
            "fedbox_replies": ("replies that were taken", "replies"),
            "fedbox_unwanted_replies": ("replies that came too late or twice", "unwanted"),
        }
        for name, (text, key) in told.items():
            yield CounterMetricFamily(name, text, value=fleet.counts[key])
        refused = CounterMetricFamily("fedbox_refused_lines", "streams that were refused", labels=["client"])
        for (client, _), times in list(fleet.refused.items()):
            refused.add_metric([client], times)
        yield refused
