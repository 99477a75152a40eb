"""What /metrics tells, in Prometheus' text form. One registry a gateway: nothing is registered when
the module is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")


class Counters:
    """Requests by path and status, their seconds, those being answered, tokens written."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = 0
        self.requests = Counter(
            "radit_requests",
            "Requests answered",
            ["method", "path", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "radit_request_seconds",
            "Seconds from a request's arrival to the end of its answer",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "radit_tokens_written", "Tokens written", ["model"], registry=self.registry
        )
        self.answers = Counter(
            "radit_answers", "Questions answered", ["model"], registry=self.registry
        )
        gauge = Gauge("radit_requests_in_flight", "Requests being answered", registry=self.registry)
        gauge.set_function(lambda: self.in_flight)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While one request is answered."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def done(self, method: str, path: str, status: int, seconds: float) -> None:
        """One request, whatever came of it."""
        method = method if method in METHODS else "other"  # clients may make them up
        self.requests.labels(method, path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
