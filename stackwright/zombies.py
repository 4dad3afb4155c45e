"""Automations for the whole server, installed by `stackwright setup`: runs whose process is gone, actions that failed.

A run whose host went down stays Running for ever unless its missing heartbeats are seen. The times are declared in
deployments/automations.yaml; those of schedules are in schedules.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import yaml
from prefect.automations import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, SendNotification
from prefect.events.filters import AutomationFilter, AutomationFilterTags

from stackwright.domain.schedules import TAG
from stackwright.runs import catalogue
from stackwright.schedules import PAGE, WATCH

ZOMBIES, FAILED_ACTIONS = "stackwright crash-zombies", "stackwright failed-actions"
OWN_TAG = "stackwright"


@dataclass(frozen=True)
class Heartbeats:
    """How often a run says that it lives, and after how long a silence it counts as dead."""

    every_s: int
    silent_s: int


def declared_heartbeats() -> Heartbeats:
    """Return what the repository declares. Raises ValueError where one late heartbeat would end a healthy run."""
    raw = yaml.safe_load(WATCH.read_text(encoding="utf-8"))["heartbeats"]
    found = Heartbeats(raw["every_s"], raw["silent_s"])
    if found.silent_s < 3 * found.every_s:
        raise ValueError(f"{WATCH}: silent_s must be at least three times every_s, not {found.silent_s}")
    return found


async def ensure_automations() -> list[str]:
    """Bring both automations to what they should be; return a line for each. Changes nothing the second time."""
    async with get_client() as client:
        ours = await client.read_flows(flow_filter=FlowFilter(name=FlowFilterName(any_=sorted(catalogue()))))
        lines = [await _ensure(client, zombies(declared_heartbeats(), [flow.id for flow in ours]))]
        if blocks := await _notification_blocks(client):
            lines.append(await _ensure(client, failed_actions(blocks)))
        return lines


def zombies(beats: Heartbeats, flows: Iterable[UUID]) -> AutomationCore:
    """Report a run of these flows as Crashed when its heartbeats stop before it has ended.

    Only our own flows: they beat as often as is declared, and others may not (Prefect's default is 180 s).
    """
    return AutomationCore(
        name=ZOMBIES,
        description=f"A run that neither ended nor gave a heartbeat for {beats.silent_s} s is reported as Crashed.",
        tags=[OWN_TAG],
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {
                    "prefect.resource.role": "flow",
                    "prefect.resource.id": sorted(f"prefect.flow.{flow}" for flow in flows),
                }
            ),
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            threshold=1,
            within=timedelta(seconds=beats.silent_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {beats.silent_s} s")],
    )


def failed_actions(blocks: Iterable[UUID]) -> AutomationCore:
    """Tell people when an automation's own action failed: it would be missed in silence."""
    return AutomationCore(
        name=FAILED_ACTIONS,
        description="Calls the notification blocks of the sites when the action of any automation failed.",
        tags=[OWN_TAG],
        trigger=EventTrigger(
            posture=Posture.Reactive,
            # Not of this one: a notification that fails would ask for the next.
            match=ResourceSpecification(
                {"prefect.resource.id": "prefect.automation.*", "prefect.resource.name": f"!{FAILED_ACTIONS}"}
            ),
            expect={"prefect.automation.action.failed"},
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="automation {{ event.resource.name }}: an action failed",
                body="{{ event.payload.action_type }}: {{ event.payload.reason }}",
            )
            for block in sorted(set(blocks))
        ],
    )


async def _notification_blocks(client: PrefectClient) -> set[UUID]:
    """Return the blocks that the sites' schedules notify (`stackwright schedules SITE --notify`)."""
    found: set[UUID] = set()
    seen = 0
    chosen = AutomationFilter(tags=AutomationFilterTags(all_=[TAG]))
    while page := await client.read_automations(automations=chosen, limit=PAGE, offset=seen):
        seen += len(page)
        actions = (action for automation in page for action in automation.actions)
        found |= {action.block_document_id for action in actions if isinstance(action, SendNotification)}
    return found


async def _ensure(client: PrefectClient, want: AutomationCore) -> str:
    found = await client.read_automations_by_name(want.name)
    for twin in found[1:]:
        await client.delete_automation(twin.id)
    if not found:
        await client.create_automation(want)
        return f"automation {want.name}: created"
    if AutomationCore(**found[0].model_dump(exclude={"id"})) == want:
        return f"automation {want.name}: there"
    await client.update_automation(found[0].id, want)
    return f"automation {want.name}: changed"
