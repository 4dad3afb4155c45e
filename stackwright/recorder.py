"""Recording work that needs no Prefect server at all, such as a restore, as a run in the spool.

From its beginning a record lies there as one that was killed, under a lock; its end puts the true one in its place.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from stackwright import spool
from stackwright.domain.errors import ConflictError, StackError, ToolError
from stackwright.domain.run_record import GONE, WITHOUT_SERVER, RunRecord, clean, ended, render
from stackwright.reports.approval import decision_markdown
from stackwright.reports.without_server import approval_facts
from stackwright.runs import catalogue
from stackwright.whereabouts import this_place

PART = ".part"

log = logging.getLogger(__name__)


class Recorder(logging.Handler):
    """One run's record while it is made. `values` returns the secrets of now, which no record may hold."""

    def __init__(self, name: str, site: str, parameters: dict[str, Any], values: Callable[[], list[str]]) -> None:
        super().__init__(logging.INFO)
        began, entry = _now(), catalogue()[name]
        self._values = values
        self.kept: Path | None = None
        """Its file, once it has ended."""
        self._states: list[dict[str, Any]] = [_state("RUNNING", "Running", "", began)]
        self._logs: list[dict[str, Any]] = []
        self._artifacts: list[dict[str, Any]] = []
        self._head = {
            "id": str(uuid4()), "flow_id": str(uuid4()),
            "flow": entry["entrypoint"].partition(":")[2].replace("_", "-"), "deployment": name,
            "name": f"{entry['name'].partition('-')[0]}-{site}", "site": site,
            "parameters": parameters, "began": began, "ended": began,
            "tags": sorted({*entry.get("tags", ()), f"site:{site}", WITHOUT_SERVER}), **this_place(),
        }  # fmt: skip
        if parameters.get("plan_hash"):
            facts = approval_facts(self._head)
            self.page(
                f"approval-{site}", f"plan {parameters['plan_hash']}: {facts['approver']}", decision_markdown(facts)
            )

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line of the log."""
        self._line(record.name, record.levelno, record.getMessage())

    def tell(self, text: str) -> None:
        """Keep what the operator is told."""
        self._line("stackwright.restore", logging.INFO, text)

    def page(self, key: str, description: str, text: str) -> None:
        """Keep a page, as a flow keeps an artifact."""
        row = {"key": key, "type": "markdown", "description": description, "data": text, "created": _now()}
        self._artifacts.append(row)

    def end(self, kind: str, name: str, message: str) -> None:
        """Note how the run ended. What was noted first holds."""
        if len(self._states) == 1:
            self._states.append(_state(kind, name, message, _now()))

    def record(self) -> RunRecord:
        """Return the record as it is now; a run without an end was killed."""
        last = (self._logs or self._states)[-1]["timestamp"]
        states = ended(self._states, last, GONE)
        head = {**self._head, "ended": states[-1]["timestamp"]}
        made = RunRecord(head, states, tuple(self._artifacts), tuple(self._logs))
        return clean(made, self._values())

    def _line(self, name: str, level: int, text: str) -> None:
        self._logs.append({"name": name, "level": level, "message": text, "timestamp": _now()})


@contextmanager
def recorded(recorder: Recorder) -> Iterator[Recorder]:
    """Record what is done inside, also when it fails or is killed.

    Raises ToolError where nothing can be written here: before anything is done. What was done is never called failed
    because its record could not be written.
    """
    with _begin(recorder) as part:
        logging.getLogger().addHandler(recorder)
        try:
            yield recorder
            recorder.end("COMPLETED", "Completed", "")
        except StackError as error:
            recorder.end("FAILED", "Stopped", str(error))
            raise
        except Exception as error:
            recorder.end("FAILED", "Failed", type(error).__name__)
            raise
        finally:
            logging.getLogger().removeHandler(recorder)
            _finish(recorder, part)


@contextmanager
def _begin(recorder: Recorder) -> Iterator[Path]:
    """Put a record into the spool that says the run was killed, and hold its lock."""
    begun = recorder.record()
    try:
        part = spool.spool() / f"{begun.file_name}{PART}"
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(render(begun))
            os.fsync(fd)
        except OSError:
            part.unlink()
            os.close(fd)
            raise
    except OSError as error:
        remedy = "Make room on this machine, or name another folder with STACKWRIGHT_STATE. Nothing was done."
        what = "the run's record cannot be begun"
        raise ToolError(what, where=str(spool.home()), seen=error.strerror or "", remedy=remedy) from error
    try:
        yield part
    finally:
        os.close(fd)


def _finish(recorder: Recorder, part: Path) -> None:
    try:
        recorder.kept = spool.keep(recorder.record())
        part.unlink()
    except OSError as error:
        log.error(
            "the run's record says that it was killed, for its end cannot be written: %s: %s", part, error.strerror
        )


def take_over() -> list[Path]:
    """Count records whose process is gone as ended, and return their files."""
    found = []
    for part in sorted(spool.spool().glob(f"*{PART}")):
        try:
            with spool.locked(part):
                found.append(part.replace(part.with_name(part.name.removesuffix(PART))))
        except ConflictError:
            continue  # it is at work
    return found


def _state(kind: str, name: str, message: str, at: str) -> dict[str, Any]:
    return {"type": kind, "name": name, "message": message, "timestamp": at}


def _now() -> str:
    return datetime.now(UTC).isoformat()
