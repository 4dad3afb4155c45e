"""Bringing the Prefect server to what the repository declares: `stackwright setup`. Safe to run again.

Each kind of object says what is wanted and what is there (setup_kinds.py, setup_blocks.py, schedules.py); here the two
are compared, and the difference carried out: first what others need, removals last and backwards. What setup made is
noted on the server in variables, so that it can be removed once it is no longer declared; nothing else ever is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate

from stackwright.domain.setup import ABOUT_TO, Change, Fields, Seen, noted, plan_kind

Removals = Collection[tuple[str, str]]


class Resource(Protocol):
    """One kind of object on the Prefect server. `noted` kinds have no mark of their own: setup's notes tell ours."""

    kind: str
    noted: bool

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return the fields of what is declared, by name."""
        ...

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return what is there of the declared names and of ours. `made` are the notes of the kind."""
        ...

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Create an object, or change the one that was found."""
        ...

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Remove an object that is ours."""
        ...

    async def hold(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Keep an object that is no longer declared from doing more, without losing anything."""
        ...


async def look(client: PrefectClient, resources: Iterable[Resource], *, remove: bool = False) -> list[Change]:
    """Return all that would be done. Changes nothing."""
    changes: list[Change] = []
    for resource in resources:
        changes += (await _compare(client, resource, remove))[0]
    return changes


async def bring(
    client: PrefectClient, resources: Sequence[Resource], *, remove: bool = False, removals: Removals | None = None
) -> list[Change]:
    """Bring the server to what is declared and return what was done. Looks again before each kind.

    `removals` are those that were shown: no other object is removed. None is for all. A run that died is continued by
    the next one.
    """
    done: list[Change] = []
    for resource in resources:
        changes, seen = await _compare(client, resource, remove)
        await _put(client, resource, changes, seen)
        done += [change for change in changes if change.act not in ("remove", "hold")]
    for resource in reversed(resources):
        changes, seen = await _compare(client, resource, remove)
        left = dict(seen)
        for change in changes:
            if change.act == "hold":
                await resource.hold(client, change.name, seen[change.name])
                done.append(change)
            elif change.act == "remove" and (removals is None or (change.kind, change.name) in removals):
                await resource.remove(client, change.name, left.pop(change.name))
                done.append(change)
        if resource.noted:
            await _settle(client, resource, left)
    return done


async def _put(client: PrefectClient, resource: Resource, changes: Iterable[Change], seen: Mapping[str, Seen]) -> None:
    new = [change.name for change in changes if change.act == "create"]
    if new and resource.noted:
        await note(client, resource.kind, await made_of(client, resource.kind) | dict.fromkeys(new, ABOUT_TO))
    for change in changes:
        if change.act in ("create", "change"):
            await resource.put(client, change.name, seen.get(change.name))


async def _compare(client: PrefectClient, resource: Resource, remove: bool) -> tuple[list[Change], Mapping[str, Seen]]:
    made = await made_of(client, resource.kind) if resource.noted else {}
    seen = await resource.seen(client, made)
    return plan_kind(resource.kind, await resource.wanted(client), seen, remove=remove), seen


# --- notes of what setup made ----------------------------------------------------------------------------------------


def variable_of(kind: str) -> str:
    """Return the name of the server's variable that notes what setup made of a kind."""
    return f"stackwright_made_{kind.replace(' ', '_')}s"


async def made_of(client: PrefectClient, kind: str) -> dict[str, str]:
    """Return the ids of what setup made of a kind, by name."""
    found = await client.read_variable_by_name(variable_of(kind))
    return dict(found.value) if found is not None and isinstance(found.value, dict) else {}


async def note(client: PrefectClient, kind: str, made: Mapping[str, str]) -> None:
    """Keep what setup made of a kind."""
    name = variable_of(kind)
    if await client.read_variable_by_name(name) is None:
        await client.create_variable(VariableCreate(name=name, value=dict(made), tags=["stackwright"]))
    else:
        await client.update_variable(VariableUpdate(name=name, value=dict(made)))


async def _settle(client: PrefectClient, resource: Resource, seen: Mapping[str, Seen]) -> None:
    made = await made_of(client, resource.kind)
    want = noted(made, await resource.wanted(client), seen)
    if want != made:
        await note(client, resource.kind, want)
