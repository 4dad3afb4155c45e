"""Logs for machines: one JSON object a line, which says of which run, site, step, node and attempt it is.

deployments/logging.yaml turns them on (PREFECT_LOGGING_SETTINGS_PATH); without it people read Prefect's own lines. Of a
record only the fields named here are written: whatever else a library hangs on it stays out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opentelemetry import trace
from prefect.context import FlowRunContext, TaskRunContext

from stackwright.clients.secrets import hide_opened

FILE = "STACKWRIGHT_LOG_FILE"
TOLD = ("node", "client", "call", "outcome", "duration_s", "layer", "target")
"""What our own records say besides their message."""


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON. Secrets that this process has opened are taken out of its texts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": hide_opened(record.getMessage()),
            **_whose(record),
        }
        line |= {name: getattr(record, name) for name in TOLD if getattr(record, name, "") not in ("", None)}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = type(record.exc_info[1]).__name__
            line["traceback"] = hide_opened("".join(traceback.format_exception(record.exc_info[1])))
        return json.dumps(line, ensure_ascii=False, default=str)


def _whose(record: logging.LogRecord) -> dict[str, Any]:
    """Return the run and step that a record is of: Prefect's records name theirs, ours are written in its context."""
    run, task = FlowRunContext.get(), TaskRunContext.get()
    found: dict[str, Any] = {
        "run_id": getattr(record, "flow_run_id", None), "run": getattr(record, "flow_run_name", None),
        "action": getattr(record, "flow_name", None), "step": getattr(record, "task_name", None),
        "step_run_id": getattr(record, "task_run_id", None), "step_run": getattr(record, "task_run_name", None),
    }  # fmt: skip
    began = None
    if run is not None and run.flow_run is not None:
        began = run.flow_run.start_time
        found["run_id"] = found["run_id"] or str(run.flow_run.id)
        found["run"] = found["run"] or run.flow_run.name
        found["action"] = found["action"] or (run.flow.name if run.flow else None)
        found["site"] = _plain((run.parameters or {}).get("site"))
    if task is not None:
        began = task.task_run.start_time or began
        found["step"] = found["step"] or task.task.name
        found["step_run_id"] = found["step_run_id"] or str(task.task_run.id)
        found["step_run"] = found["step_run"] or task.task_run.name
        found["attempt"] = task.task_run.run_count
        found["node"] = _plain(getattr(task.parameters.get("node"), "name", None))
    if began is not None:
        found["elapsed_s"] = round(max(0.0, time.time() - began.timestamp()), 3)
    if (span := trace.get_current_span().get_span_context()).is_valid:
        found |= {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}
    return {name: value if isinstance(value, int | float) else str(value)
            for name, value in found.items() if value is not None and value != ""}  # fmt: skip


def _plain(value: object) -> str | None:
    return value if isinstance(value, str) else None


class JsonHandler(logging.Handler):
    """Writes to the file of STACKWRIGHT_LOG_FILE, of many processes at once, or to standard error where none is named.

    Each line is one append: lines of several processes do not mix, and whoever rotates the file need tell nobody.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            path = os.environ.get(FILE)
            if path:
                _append(Path(path), line.encode())
            else:
                sys.stderr.write(line)
                sys.stderr.flush()
        except Exception:  # as every handler of logging: a line that cannot be written stops no work
            self.handleError(record)


def _append(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(file, data)
    finally:
        os.close(file)
