"""Automations on the Prefect server, as setup reads, compares, makes and removes them."""

from __future__ import annotations

from uuid import UUID

from prefect.automations import AutomationCore
from prefect.client.orchestration import PrefectClient
from prefect.events.actions import SendNotification
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import Automation

from stackwright.domain.setup import Fields, Seen
from stackwright.paging import every


class Automations:
    """What all kinds of automations share as resources of setup. Ours are known by tags, so there are no notes."""

    kind = "automation"
    noted = False

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove an automation."""
        await client.delete_automation(UUID(found.id))

    async def hold(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Automations are never held."""


async def read_automations(client: PrefectClient, tags: list[str]) -> list[Automation]:
    """Return the automations that have all these tags."""
    return await every(client.read_automations, automations=AutomationFilter(tags=AutomationFilterTags(all_=tags)))


async def notified(client: PrefectClient, tags: list[str]) -> list[UUID]:
    """Return the blocks that automations with all these tags notify."""
    actions = (action for found in await read_automations(client, tags) for action in found.actions)
    return [action.block_document_id for action in actions if isinstance(action, SendNotification)]


def automation_fields(found: Automation | AutomationCore) -> Fields:
    """Return an automation as values that can be compared."""
    core = AutomationCore(**found.model_dump(exclude={"id"}))
    return {name: getattr(core, name) for name in AutomationCore.model_fields}


async def put_automation(client: PrefectClient, want: AutomationCore, found: Seen | None) -> None:
    """Create an automation, or change the one that was found."""
    if found is None:
        await client.create_automation(want)
    else:
        await client.update_automation(UUID(found.id), want)
