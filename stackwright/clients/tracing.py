"""Traces by OpenTelemetry's protocol (OTLP over HTTP), where the standard settings name a collector; else nothing.

Prefect itself makes a span of each flow run and each task run, and keeps the trace's context in the run's labels: the
settings alone are missing, and what happens inside a step (trips.py). Decision 018.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.trace import Span

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
PREFECT_LABEL = "__OTEL_TRACEPARENT"
"""Prefect's label of a flow run that says to which trace it belongs (prefect.telemetry)."""


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Tell whether the standard settings ask for traces by OTLP."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environment.get(name) for name in ENDPOINTS)


def start_tracing() -> bool:
    """Send this process's spans to the collector of the standard settings, once; tell whether that is so.

    A provider that is there already (opentelemetry-instrument) stays. What cannot be had is said, and stops no run.
    """
    if not is_wanted(os.environ):
        return False
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return True
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), HTTP)
    if protocol != HTTP:
        log.warning("nothing is traced: %s is wanted as OTEL_EXPORTER_OTLP_PROTOCOL, not %s", HTTP, protocol)
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning("nothing is traced: the extra `tracing` is not installed (%s)", error.name)
        return False
    named = {SERVICE_VERSION: importlib.metadata.version("stackwright")}
    if not os.environ.get("OTEL_SERVICE_NAME"):
        named[SERVICE_NAME] = "stackwright"
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # at the process's end it sends what is left
    return True


def run_labels(span: Span) -> dict[str, bool | int | float | str]:
    """Return the labels with which a flow run is created so that it continues a span's trace; none untraced."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span))
    return {PREFECT_LABEL: carrier["traceparent"]} if "traceparent" in carrier else {}
