"""Tracing: when it is wanted, what a round trip's span says, and how a run continues the trace of who asked for it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stackwright.clients import tracing, trips
from stackwright.clients.trips import RECORDER, Recorder, trip
from stackwright.lab.rig import ROOT
from stackwright.webhooks import runs

URL = "http://127.0.0.1:4318"
PLANTED = "pl4nted-s3cret"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A provider of the test's own; the process's stays without one."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(trips, "TRACER", tracer)
    monkeypatch.setattr(runs, "TRACER", tracer)
    yield exporter
    provider.shutdown()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": URL}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_settings_decide(environment: Mapping[str, str], wanted: bool) -> None:
    assert tracing.is_wanted(environment) is wanted


def test_a_span_says_wire_node_attempt_and_outcome_and_nothing_of_the_error(spans: InMemorySpanExporter) -> None:
    token = RECORDER.set(Recorder(attempt=lambda: 3))
    try:
        with pytest.raises(ValueError), trip("ssh", "script", "gpu1"):
            raise ValueError(PLANTED)
        with trip("clearml", "post") as made:
            made.answered(503)
        with trip("clearml", "post") as made:
            made.answered(404)
    finally:
        RECORDER.reset(token)
    lost, busy, absent = spans.get_finished_spans()
    assert lost.name == "ssh script" and dict(lost.attributes or {}) == {
        "stackwright.client": "ssh", "stackwright.call": "script", "stackwright.outcome": "failed",
        "stackwright.node": "gpu1", "stackwright.attempt": 3,
    }  # fmt: skip
    assert lost.status.description == "ValueError" and not lost.events and PLANTED not in lost.to_json()
    assert (busy.status.is_ok, busy.status.description) == (False, "HTTP 503")
    assert absent.status.is_unset, "an answer that says no is an answer"


def test_a_run_continues_the_trace_of_the_request(spans: InMemorySpanExporter) -> None:
    """The receiver's span is the run's parent; without tracing no label is made."""
    asked: list[dict[str, Any]] = []

    class Client:
        async def read_deployment_by_name(self, name: str) -> Any:
            return SimpleNamespace(id=uuid4())

        async def create_flow_run_from_deployment(self, deployment: Any, **given: Any) -> Any:
            asked.append(given)
            return SimpleNamespace(id=uuid4(), name="n", state=None, created=None)

    request = SimpleNamespace(
        id="r1", action="onboard", tenant="blue", site="lab", model_dump=lambda mode: {"tenant": "blue"}
    )
    asyncio.run(runs.PrefectRuns(Client()).create(SimpleNamespace(request=request, attempt=1)))
    (span,) = spans.get_finished_spans()
    assert span.name == "dispatch onboard" and span.context is not None
    trace_id, span_id = f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"
    assert set(asked[0]["labels"]) == {tracing.PREFECT_LABEL}
    assert asked[0]["labels"][tracing.PREFECT_LABEL].startswith(f"00-{trace_id}-{span_id}-")
    from prefect.telemetry.run_telemetry import LABELS_TRACEPARENT_KEY

    assert tracing.PREFECT_LABEL == LABELS_TRACEPARENT_KEY
    assert tracing.run_labels(trace.INVALID_SPAN) == {}


def started(**environment: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import logging; logging.basicConfig()\n"
        "from stackwright.clients.tracing import start_tracing\nfrom stackwright.clients.trips import trip\n"
        "print(start_tracing(), start_tracing())\n"
        "with trip('ssh', 'script', 'gpu1'): pass\n"
        "import sys; print(any(name.startswith('opentelemetry.sdk') for name in sys.modules))\n"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run([sys.executable, "-c", script], env={**plain, "PYTHONPATH": str(ROOT), **environment},
                          capture_output=True, text=True, timeout=120, check=True)  # fmt: skip


def test_unconfigured_nothing_of_it_is_loaded() -> None:
    assert started().stdout.split() == ["False", "False", "False"]


def test_another_protocol_is_refused_by_name_and_stops_nothing() -> None:
    done = started(OTEL_EXPORTER_OTLP_ENDPOINT=URL, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert done.stdout.split()[0] == "False" and "http/protobuf is wanted" in done.stderr


@pytest.mark.slow  # the last try to send takes its time
def test_a_collector_that_is_away_does_not_hold_a_process_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    done = started(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    assert done.stdout.split()[0] == "True"
    assert time.monotonic() - began < 60
