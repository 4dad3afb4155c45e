"""The page that a run carries which was made without the Prefect server: when, where and by whom it really was."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from stackwright.domain.run_record import RunRecord
from stackwright.reports.markdown import one_line


def moment(text: str) -> str:
    """Return a moment of a record as people read it."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def sent_markdown(record: RunRecord) -> str:
    """Return the facts, and the states as they were: the server knows them by the time of the sending alone."""
    head = record.head
    facts = {
        "began": moment(head["began"]),
        "ended": moment(head["ended"]),
        "host": head["host"],
        "user": head["user"],
        "run": f"{head['name']} ({record.id})",
    }
    rows = "".join(f"| {name} | {one_line(value)} |\n" for name, value in facts.items())
    states = "".join(
        f"| {moment(one['timestamp'])} | {one['name']} | {one_line(one.get('message') or '')} |\n"
        for one in record.states
    )
    return (
        "This run was made without this Prefect server and sent to it afterwards. The times of the run itself are"
        f" those of the sending; its task runs and logs have their own.\n\n| | |\n|---|---|\n{rows}"
        f"\n| when | state | message |\n|---|---|---|\n{states}"
    )


def approval_facts(head: Mapping[str, Any]) -> dict[str, str]:
    """Return who approved the plan of a run from a shell, where no form asks: who gave its hash."""
    return {
        "plan": str(head["parameters"]["plan_hash"]),
        "decision": "carry out",
        "approver": f"{head['user']} on {head['host']}",
        "reason": "the hash was given on the shell, without the server",
        "at": moment(head["began"]),
    }
