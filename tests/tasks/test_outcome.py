"""How a run's end is named and explained: by kinds of errors, and by how far it came."""

from __future__ import annotations

import asyncio
import logging

import pytest

from stackwright.domain.errors import (
    LeaseHeldError,
    NodeUnreachableError,
    PlanRefusedError,
    Problem,
    RemoteStepError,
    StackError,
)
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.reports.model import Group
from stackwright.reports.stopped import stopped_line, stopped_markdown
from stackwright.webhooks.dispatcher import judge
from stackwright.webhooks.runs import RunSeen
from tasks.outcome import _OursWithoutTraceback, explained, explained_request
from tasks.progress import CURRENT, Done, Progress

STEPS = tuple(Step(f"node/n{i}/hosts", f"n{i}", "names", Effect.FILE, "5.1", "read back") for i in range(3))
FULL = RemoteStepError("no space left", where="n2", wanted="1 MiB", seen="0", remedy="Free /var.")


def ended(error: Exception | None, progress: Progress | None = None):
    """Return the state in which a flow ends that raises an error, after its progress has begun if any."""

    @explained
    async def flow(site: str):
        if progress is not None:
            CURRENT.set(progress)
        if error is not None:
            raise error
        return "its own state"

    return asyncio.run(flow(site="north"))


def begun() -> Progress:
    progress = Progress(Plan("north", STEPS))
    progress.done = [Done("node", "n1", 1, 0.0, 0.5, True), Done("node", "n2", 1, 0.0, 0.7, False)]
    return progress


@pytest.mark.parametrize(
    ("error", "progress", "name"),
    [
        (PlanRefusedError("no", [Problem("n1", "is off", "switch it on")]), None, "Refused"),
        (LeaseHeldError("another run"), None, "Refused"),
        (NodeUnreachableError("no answer", where="n1"), None, "Stopped"),
        (PlanRefusedError("no", []), begun(), "Stopped"),
        (FULL, begun(), "Stopped"),
    ],
)
def test_a_refusal_is_another_end_than_a_failure(error, progress, name):
    """Refused means that nothing was changed; whatever ends a run that had begun has stopped it."""
    state = ended(error, progress)
    assert (state.name, state.is_failed()) == (name, True)
    assert str(error) in (state.message or "") and state.data is error


def test_a_request_that_has_no_answer_yet_is_not_refused():
    """The webhook receiver takes Refused for an answer; a lease that another run holds is none."""

    @explained_request
    async def flow(site: str):
        raise LeaseHeldError("another run")

    verdict = judge(RunSeen("id", "run", "FAILED", str(asyncio.run(flow("north")).name), "", None), 0.0, 60)
    assert verdict.kind == "again"


def test_the_message_says_which_node_failed_and_how_far_the_run_came():
    message = ended(FULL, begun()).message or ""
    assert message.startswith("n2: no space left | wanted: 1 MiB | seen: 0 | remedy: Free /var.")
    assert message.endswith("1 of 3 steps done; failed: n2 (node)")


def test_errors_beside_the_first_are_told_too():
    error = RemoteStepError("no space left", where="n2")
    error.add_note("also failed: n3: no answer")
    assert "also failed: n3: no answer" in (ended(error).message or "")
    assert "- also failed: n3: no answer" in stopped_markdown("north", "deploy", error)


def test_a_good_end_and_a_foreign_error_pass():
    """What is not ours is a mistake of the program: its traceback is wanted."""
    assert ended(None) == "its own state"
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError())


def test_the_progress_of_an_earlier_run_is_not_this_ones():
    CURRENT.set(begun())
    assert ended(LeaseHeldError("another run")).name == "Refused"


def test_the_page_has_all_parts_of_every_problem():
    """What, where, wanted, seen, remedy; that nothing was changed, or what failed before what was done."""
    problems = [Problem("nodes[1]", "no <disk>", "add one", "1", "0"), Problem("dns", "is empty", "fill it in")]
    page = stopped_markdown("north", "deploy-stack", PlanRefusedError("refused", problems, where="north"), refused=True)
    for part in ("### no &lt;disk>", "**Where**: nodes[1]", "**Wanted**: 1", "**Seen**: 0", "**Remedy**: add one",
                 "### is empty", "Nothing was changed."):  # fmt: skip
        assert part in page
    groups = [Group(**vars(done)) for done in begun().done]
    page = stopped_markdown("north", "deploy-stack", FULL, groups, 3)
    assert page.index("n2") < page.index("n1") and "1 of 3 steps were done" in page and "Nothing was" not in page
    assert "Nothing was" not in stopped_markdown("north", "drill-restore", FULL), "a drill has no plan, but acts"
    assert stopped_line(FULL, groups, 3).count("\n") == 1


def record(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except Exception as caught:
        info = (type(caught), caught, caught.__traceback__)
    return logging.LogRecord("prefect.task_runs", logging.ERROR, "x.py", 1, "Task run failed", (), info)


def test_our_own_errors_are_logged_without_a_traceback_others_with_it():
    ours, others = record(StackError("no space left")), record(ValueError("a mistake"))
    assert all(_OursWithoutTraceback().filter(one) for one in (ours, others))
    assert ours.exc_info is None and others.exc_info is not None
