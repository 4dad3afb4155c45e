"""What `stackwright setup` would do: how what is declared differs from what the Prefect server has. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Act = Literal["create", "change", "keep", "remove", "hold"]
"""`hold`: no longer declared, but something would be lost with it; it is removed when that is asked for."""
Fields = Mapping[str, Any]
ABOUT_TO = ""
"""Kept in place of an object's id from before it is made until its id is known."""
SAID = 4


@dataclass(frozen=True)
class Seen:
    """An object on the server. `ours`: setup made it, and so may remove it. `loss`: what would go with it."""

    id: str
    fields: Fields
    ours: bool = True
    loss: str = ""


@dataclass(frozen=True)
class Change:
    """One line of the plan. `why` names fields, never their values unless they are numbers."""

    act: Act
    kind: str
    name: str
    why: str = ""

    @property
    def empty(self) -> bool:
        """Tell whether nothing is to be done."""
        return self.act == "keep"


def plan_kind(
    kind: str, wanted: Mapping[str, Fields], seen: Mapping[str, Seen], *, remove: bool = False
) -> list[Change]:
    """Return what is to be done with the objects of one kind: the wanted ones in their order, then those to remove.

    Only what is `ours` is ever removed. With `remove`, also what something would be lost with.
    """
    changes = [_wanted(kind, name, fields, seen.get(name)) for name, fields in wanted.items()]
    gone = [(name, found) for name, found in sorted(seen.items()) if name not in wanted and found.ours]
    for name, found in gone:
        if found.loss and not remove:
            changes.append(Change("hold", kind, name, f"no longer declared, but {found.loss}"))
        else:
            changes.append(Change("remove", kind, name, "no longer declared"))
    return changes


def _wanted(kind: str, name: str, fields: Fields, found: Seen | None) -> Change:
    if found is None:
        return Change("create", kind, name)
    different = [field for field, value in fields.items() if found.fields.get(field) != value]
    if not different:
        return Change("keep", kind, name)
    said = [_said(field, found.fields.get(field), fields[field]) for field in different]
    more = f" and {len(said) - SAID} more" if len(said) > SAID else ""
    return Change("change", kind, name, ", ".join(said[:SAID]) + more)


def _said(field: str, seen: Any, wanted: Any) -> str:
    """Name a field that differs; values are said where they are numbers, which no secret is."""
    if isinstance(wanted, int) and isinstance(seen, int | None):
        return f"{field} {'none' if seen is None else seen} -> {wanted}"
    return field


def owned(made: Mapping[str, str], name: str, id_: str) -> tuple[bool, str]:
    """Tell whether an object is one that setup made, and what speaks against removing it.

    Another object that somebody has given the same name since is not ours. A setup that died between its note and the
    object leaves an open question: then it is held.
    """
    noted = made.get(name)
    if noted == ABOUT_TO:
        return True, "it is not known whether a setup that died made it"
    return noted == id_, ""


def noted(made: Mapping[str, str], wanted: Iterable[str], seen: Mapping[str, Seen]) -> dict[str, str]:
    """Return the notes as they should be after a setup: every object that is declared, or ours and still there."""
    names: Collection[str] = set(wanted)
    return {
        name: found.id if name in names or made.get(name) != ABOUT_TO else ABOUT_TO
        for name, found in sorted(seen.items())
        if name in names or found.ours
    }


def summary(changes: Iterable[Change], *, done: bool = False) -> str:
    """Say in one line what a plan holds, or what was done of it."""
    counts: dict[str, int] = {}
    for change in changes:
        counts[change.act] = counts.get(change.act, 0) + 1
    if not set(counts) - {"keep"}:
        return f"nothing to change ({counts.get('keep', 0)} there)"
    acts: dict[str, str] = {"create": "created", "change": "changed", "remove": "removed"}
    words = {act: word if done else f"to {act}" for act, word in acts.items()} | {"hold": "held back"}
    return ", ".join(f"{counts[act]} {word}" for act, word in words.items() if act in counts)
