"""A ticket: what a rehearsal of an upgrade has found. Bound to plan, bundle, versions and time. Pure.

In the store it lies below `<folder>/<site>/tickets/`, tagged with the seal of the bundle that was upgraded, so only who
can open that bundle can have written it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from stackwright.domain.bundle import site_prefix
from stackwright.domain.errors import Problem, ProblemsError

REHEARSE = "Run rehearse-upgrade (`stackwright upgrade rehearse`), then upgrade under its ticket."
OVERRIDE = "To go without one, say who decides and why: --without-rehearsal 'NAME: reason'."


class NotRehearsedError(ProblemsError):
    """No ticket allows this upgrade, and nobody has said to go without one."""


@dataclass(frozen=True)
class Ticket:
    """The verdict of one rehearsal. `at` is when it ended (ISO 8601, UTC); `plan` the hash of the upgrade's plan then.

    `charts` are the versions of the site's charts, which must go with the target; `findings` what it found, the
    reasons first; `way_back` until when and how one can return.
    """

    bundle: str
    at: str
    site: str
    from_version: str
    to_version: str
    charts: Mapping[str, str]
    plan: str
    passed: bool
    findings: tuple[str, ...]
    way_back: str
    seconds: float
    tag: str = ""

    @property
    def at_s(self) -> float:
        """When the rehearsal ended, in seconds since the epoch."""
        return datetime.fromisoformat(self.at).timestamp()

    @property
    def id(self) -> str:
        """Its name in the store; they sort by time."""
        return f"{datetime.fromtimestamp(self.at_s, UTC):%Y%m%dT%H%M%SZ}-{self.plan or 'none'}"


@dataclass(frozen=True)
class SeenTicket:
    """A ticket as it was read, with its bundle's seal; `gone` says why that bundle could not be opened."""

    ticket: Ticket
    seal: SecretStr | None
    gone: str = ""


@dataclass(frozen=True)
class Upgrade:
    """What a ticket must be for: the plan that was approved, and from where to where it goes."""

    plan: str
    running: str
    target: str
    charts: Mapping[str, str]


def tickets_prefix(folder: str, site: str) -> str:
    """Return where a site's tickets lie in its store."""
    return site_prefix(folder, site, "tickets")


def ticket_key(folder: str, ticket: Ticket) -> str:
    """Return a ticket's key in the store."""
    return f"{tickets_prefix(folder, ticket.site)}{ticket.id}.json"


def sealed_ticket(ticket: Ticket, seal: SecretStr) -> Ticket:
    """Return a ticket with its tag, made with its bundle's seal."""
    text = "ticket\n" + json.dumps(asdict(replace(ticket, tag="")), sort_keys=True)
    return replace(ticket, tag=hmac.new(seal.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest())


def is_sealed_ticket(ticket: Ticket, seal: SecretStr) -> bool:
    """Tell whether the ticket is what was written with this seal."""
    return hmac.compare_digest(ticket.tag, sealed_ticket(ticket, seal).tag)


def render_ticket(ticket: Ticket) -> str:
    """Return a ticket as it is stored."""
    return json.dumps(asdict(ticket), indent=1, sort_keys=True) + "\n"


def parse_ticket(text: str) -> Ticket | None:
    """Read a stored ticket; None for what is none: then it allows nothing."""
    try:
        raw: dict[str, Any] = json.loads(text)
        found = Ticket(**{
            **raw,
            "passed": raw["passed"] is True,
            "findings": tuple(raw["findings"]),
            "tag": str(raw["tag"]),
        })  # fmt: skip
        return found if found.at_s and found.charts is not None else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def check_ticket(
    seen: Sequence[SeenTicket], want: Upgrade, now_s: float, max_age_h: float, where: str
) -> tuple[Ticket | None, list[Problem]]:
    """Return the ticket that allows the upgrade and no problem, or None and every reason why not.

    The newest ticket of this very plan decides: a later rehearsal that failed takes back what an earlier one allowed.
    One that is not what a rehearsal wrote decides nothing. Without any of this plan, the newest of all is spoken of.
    """
    ordered = sorted(seen, key=lambda one: one.ticket.at_s, reverse=True)
    if not ordered:
        what = "no rehearsal of this upgrade was ever done"
        return None, [Problem(where, what, f"{REHEARSE} {OVERRIDE}", "a ticket", "none")]
    of_it = [one for one in ordered if _is_of(one, want)]
    decides = (of_it or ordered)[0]
    problems = list(_problems(decides, want, now_s, max_age_h))
    return (None, problems) if problems else (decides.ticket, [])


def _is_of(seen: SeenTicket, want: Upgrade) -> bool:
    """Tell whether a ticket is of this plan, and nobody else's work as far as its bundle can be asked."""
    genuine = seen.seal is None or is_sealed_ticket(seen.ticket, seen.seal)
    return genuine and (seen.ticket.plan, seen.ticket.to_version) == (want.plan, want.target)


def _problems(seen: SeenTicket, want: Upgrade, now_s: float, max_age_h: float) -> Iterator[Problem]:
    ticket = seen.ticket
    place = f"ticket {ticket.id}"
    remedy = f"{REHEARSE} {OVERRIDE}"
    if seen.seal is None:
        yield Problem(place, f"its bundle {ticket.bundle} cannot be opened", remedy, "the bundle", seen.gone)
    elif not is_sealed_ticket(ticket, seen.seal):
        yield Problem(place, "it is not what a rehearsal wrote", remedy, "the tag of its bundle's seal", "another")
    if not ticket.passed:
        found = "; ".join(ticket.findings[:3]) or "no reason"
        mend = f"Mend what the rehearsal found, then rehearse again. {OVERRIDE}"
        yield Problem(place, "the rehearsal failed", mend, "passed", found)
    for what, of_ticket, wanted in (
        ("it is for another target", ticket.to_version, want.target),
        ("it is from another release", ticket.from_version, want.running),
        ("it is for another plan", ticket.plan, want.plan),
    ):
        if of_ticket != wanted:
            yield Problem(place, what, remedy, wanted, of_ticket)
    if moved := _moved(ticket.charts, want.charts):
        yield Problem(place, "charts have changed since", remedy, "the charts of the rehearsal", ", ".join(moved))
    age_h = (now_s - ticket.at_s) / 3600
    if age_h > max_age_h:
        yield Problem(place, "it is too old", remedy, f"{max_age_h:g} h at most", f"{age_h:.0f} h")
    elif age_h < -1:
        yield Problem(
            place, "it is from the future", f"Look at the clocks. {OVERRIDE}", "a time that is past", ticket.at
        )


def _moved(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    names = sorted(before.keys() | now.keys())
    return [
        f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def refuse_unrehearsed(problems: list[Problem], site: str, override: str, begun: Collection[str]) -> None:
    """Refuse an upgrade without a ticket; never one that was begun (`begun` nodes are on their way) or was overridden.

    Half an upgrade is worse than one that was not rehearsed. Raises NotRehearsedError.
    """
    if problems and not override and not begun:
        raise NotRehearsedError("the upgrade was not rehearsed", problems, where=site)


def rehearsal_note(ticket: Ticket | None, problems: Sequence[Problem], override: str, begun: Collection[str]) -> str:
    """Return what the plan says of its rehearsal."""
    if ticket is not None:
        return f"Rehearsed {ticket.at} with bundle {ticket.bundle}. Way back: {ticket.way_back}"
    why = "; ".join(f"{problem.where}: {problem.what}" for problem in problems)
    if begun:
        return f"Not rehearsed ({why}); it was begun on {', '.join(sorted(begun)[:5])} and is let on."
    if override:
        return f"WITHOUT REHEARSAL, decided by {override} ({why})."
    return f"Not rehearsed, and refused so: {why}."
