"""What a server tells of itself: metrics for Prometheus, the log of requests, and the middleware that writes both."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from lstm_engine.serving.metrics import SECONDS_BOUNDS

from .log import log

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .models import ModelTable

__all__ = ["WIRE", "RequestMiddleware", "Telemetry"]

#: Where the scope of a WebSocket has ``receive`` and ``send`` as they come from the server, without the framework.
WIRE: Final = "lstm_engine.wire"

#: Asked for every few seconds by machines: of no interest in a log.
_QUIET: Final = ("/metrics", "/v2/health/live", "/v2/health/ready")

_COUNTS: Final = {
    "answered": "Calls that were answered.",
    "refused": "Calls that were refused because the queue or the streams were full.",
    "expired": "Calls whose time was over.",
    "cancelled": "Calls whose client left.",
    "failed": "Calls that ended in another error.",
    "rounds": "Rounds that were computed.",
    "steps": "Steps and rows that they computed.",
    "swaps": "Times that another model took over between two rounds.",
}
_GAUGES: Final = {"queue_depth": "Calls that wait or run.", "streams": "Streams that have a state."}
_HISTOGRAMS: Final = {
    "batch_size": "Steps of a round.",
    "queue_seconds": "From a call to its first round.",
    "call_seconds": "From a call to its answer.",
}


class Telemetry:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, table: ModelTable) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_ModelCollector(table))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "lstm_engine_http_requests", "Requests by route and status.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "lstm_engine_http_request_seconds",
            "From a request to its answer.",
            ("route",),
            buckets=SECONDS_BOUNDS,
            registry=self.registry,
        )
        self.websockets = Gauge("lstm_engine_websockets", "Open WebSockets.", registry=self.registry)
        self.ready = Gauge("lstm_engine_ready", "Whether new clients should be sent here.", registry=self.registry)
        self.ready.set(1)


class _ModelCollector(Collector):
    """What the Batchers count, read when somebody asks."""

    def __init__(self, table: ModelTable) -> None:
        self._table = table

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of every model and version."""
        labels = ("model", "version")
        families: dict[str, Any] = {
            name: kind(f"lstm_engine_{name}", text, labels=labels)
            for kind, texts in (
                (CounterMetricFamily, _COUNTS), (GaugeMetricFamily, _GAUGES), (HistogramMetricFamily, _HISTOGRAMS)
            )
            for name, text in texts.items()
        }  # fmt: skip
        loaded = GaugeMetricFamily(
            "lstm_engine_model_loaded_timestamp_seconds", "When its file took over.", labels=labels
        )
        memory = GaugeMetricFamily("lstm_engine_model_memory_bytes", "Bytes of its weights.", labels=labels)
        opened = GaugeMetricFamily("lstm_engine_streams_open", "Streams that clients hold.", labels=labels)
        for served in self._table:
            of = (served.name, served.version)
            found = served.batcher.metrics()
            for name in (*_COUNTS, *_GAUGES):
                families[name].add_metric(of, found[name])
            for name in _HISTOGRAMS:
                histogram = found[name]
                bounds = [*map(floatToGoString, histogram["bounds"]), "+Inf"]
                buckets = list(zip(bounds, accumulate(histogram["counts"]), strict=True))
                families[name].add_metric(of, buckets, histogram["sum"])
            loaded.add_metric(of, served.loaded)
            memory.add_metric(of, served.model.memory_bytes())
            opened.add_metric(of, served.reserved)
        failures = CounterMetricFamily(
            "lstm_engine_model_load_failures", "Files that could not be loaded.", labels=labels
        )
        stale = GaugeMetricFamily(
            "lstm_engine_model_stale",
            "Whether the newest content of its file is broken, and not served.",
            labels=labels,
        )
        for key, (reason, count) in self._table.broken().items():
            failures.add_metric(key, count)
            stale.add_metric(key, float(bool(reason)))
        return [*families.values(), loaded, memory, opened, failures, stale]


class RequestMiddleware:
    """Counts and logs every request, by its route, so that what strangers write into a path makes no metric."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            scope[WIRE] = receive, send
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "unknown")
            self._telemetry.requests.labels(route, str(status)).inc()
            self._telemetry.seconds.labels(route).observe(seconds)
            level = "error" if status == 500 else "debug" if scope["path"] in _QUIET else "info"
            client = scope.get("client")
            log(
                "request",
                level,
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(seconds, 6),
                client=client[0] if client else None,
            )
