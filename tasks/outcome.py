"""How a run is found and how it says its end: the site's tag, the name of its state, and a page of what stopped it.

`explained` stands between `@flow` and each flow. Task runs get no tags: Prefect asks the server for a slot of every
tag of every task run. Their names say node, layer or tenant, and can be searched for.
"""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

from opentelemetry import trace
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from prefect.states import Failed

from stackwright.clients.tracing import start_tracing
from stackwright.domain.errors import (
    LeaseHeldError,
    PlanMovedError,
    ProblemsError,
    SecretMissingError,
    StackError,
)
from stackwright.domain.windows import WindowClosedError
from stackwright.reports.model import Group
from stackwright.reports.stopped import stopped_line, stopped_markdown
from tasks.approval import NotApprovedError
from tasks.figures import watched_run
from tasks.progress import CURRENT

REFUSED = "Refused"  # before the first change: by a rule, a person, another run's lease
STOPPED = "Stopped"  # after the first change, or while looking
REFUSALS = (
    ProblemsError, PlanMovedError, LeaseHeldError, NotApprovedError, WindowClosedError, SecretMissingError,
)  # fmt: skip

OURS = ("stackwright", "tasks", "flows", "blocks")  # as in prefect.toml

P = ParamSpec("P")


def explained(work: Callable[P, Awaitable[State]]) -> Callable[P, Coroutine[Any, Any, State]]:
    """Tag the run with its site; end it as Refused or Stopped when one of our own errors ends it, with all its parts.

    The error itself goes along in the state: the shell prints it and chooses its exit code by it.
    """
    return _told(work, REFUSED)


def explained_request(work: Callable[P, Awaitable[State]]) -> Callable[P, Coroutine[Any, Any, State]]:
    """As `explained`, for what the webhook receiver starts: there Refused is the answer to a request, and what ends
    before it has one is started again.
    """
    return _told(work, STOPPED)


def _told(work: Callable[P, Awaitable[State]], refused: str) -> Callable[P, Coroutine[Any, Any, State]]:
    signature = inspect.signature(work, eval_str=True)
    start_tracing()  # while the flow is loaded: Prefect's span of the run begins before its function is called

    @functools.wraps(work)
    async def run(*args: P.args, **kwargs: P.kwargs) -> State:
        site = str(signature.bind(*args, **kwargs).arguments["site"])
        CURRENT.set(None)
        _prepare_logs()
        await tag_run(f"site:{site}")
        with watched_run(site):
            try:
                return await work(*args, **kwargs)
            except StackError as error:
                return await stopped(site, error, refused)

    # Prefect reads names of types where a function is defined: here they are unknown, so it gets the types themselves.
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = inspect.get_annotations(work, eval_str=True)
    return run


async def tag_run(*tags: str) -> None:
    """Add tags to the run that is under way. Outside a run there is none to tag."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or set(tags) <= set(context.flow_run.tags):
        return
    async with get_client() as client:
        await client.update_flow_run(context.flow_run.id, tags=sorted({*context.flow_run.tags, *tags}))


async def stopped(site: str, error: StackError, refused: str = REFUSED) -> State[None]:
    """Show what ended the run as artifact `stopped-<site>`, and return the state that says so."""
    progress = CURRENT.get()
    groups = [Group(**vars(done)) for done in progress.done] if progress else []
    planned = len(progress.plan.steps) if progress else 0
    name = refused if isinstance(error, REFUSALS) and not planned else STOPPED
    # Prefect's span of the run ends as good as its function: that returns how the run ended.
    trace.get_current_span().set_attribute("stackwright.outcome", name.lower())
    context = FlowRunContext.get()
    if context is not None and context.flow is not None:
        page = stopped_markdown(site, context.flow.name, error, groups, planned, refused=name == REFUSED)
        await acreate_markdown_artifact(page, key=f"stopped-{site}", description=f"{name}: {error.what}"[:200])
    return Failed(name=name, message=stopped_line(error, groups, planned), data=error)


class _OursWithoutTraceback(logging.Filter):
    """Our own errors say by themselves what happened; where in the code is told at level DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], StackError):
            logging.getLogger(__name__).debug("%s", "".join(traceback.format_exception(record.exc_info[1])))
            record.exc_info = record.exc_text = None
        return True


_FILTER = _OursWithoutTraceback()


def _prepare_logs() -> None:
    """Shorten tracebacks, and let our loggers say what Prefect's level lets through.

    Prefect gives `extra_loggers` its handler, so that their lines belong to the run, but no level: they have the
    root's, WARNING, and nobody reads in the UI what was done to a node. A level that a configuration gave them stays.
    """
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_FILTER)  # adding it again changes nothing
    for name in OURS:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(get_current_settings().logging.level)
