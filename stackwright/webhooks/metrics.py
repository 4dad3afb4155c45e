"""The receiver's figures for Prometheus. Labels are few and known: never a tenant, a path or a caller's text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "stackwright_webhooks"


class Metrics:
    """One receiver's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        one = self.registry
        self.answers = Counter(f"{PREFIX}_answers", "Answers by method and status", ("method", "status"), registry=one)
        self.seconds = Histogram(f"{PREFIX}_answer_seconds", "Time to an answer", ("method",), registry=one)
        self.accepted = Counter(f"{PREFIX}_accepted", "Requests that were kept, by action", ("action",), registry=one)
        self.repeated = Counter(
            f"{PREFIX}_repeated", "Requests answered from memory: same idempotency key", registry=one
        )
        self.sent = Counter(f"{PREFIX}_dispatched", "Runs that were created", registry=one)
        self.again = Counter(f"{PREFIX}_runs_lost", "Runs that crashed, vanished or never started", registry=one)
        self.ended = Counter(f"{PREFIX}_ended", "Requests that ended, by outcome", ("outcome",), registry=one)
        self.purged = Counter(f"{PREFIX}_purged", "Requests that were forgotten: they ended long ago", registry=one)
        self.requests = Gauge(
            f"{PREFIX}_requests", "Requests in the store, by state or outcome", ("state",), registry=one
        )
        self.oldest = Gauge(
            f"{PREFIX}_oldest_open_seconds", "Age of the oldest request that has not ended", registry=one
        )
        self.prefect_up = Gauge(
            f"{PREFIX}_prefect_up", "1 while runs can be created on the Prefect server", registry=one
        )

    def text(self) -> bytes:
        """Return all figures in the text format."""
        return generate_latest(self.registry)
