"""Which upgrade a ticket allows: its own, in time, as it was written. Each refusal says its reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from stackwright.domain.ticket import (
    NotRehearsedError,
    SeenTicket,
    Ticket,
    Upgrade,
    check_ticket,
    is_sealed_ticket,
    parse_ticket,
    refuse_unrehearsed,
    rehearsal_note,
    render_ticket,
    sealed_ticket,
    ticket_key,
)

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
NOW_S = AT.timestamp() + 3600
SEAL = SecretStr("seal-of-the-bundle")
TICKET = Ticket(
    bundle="20260504T000000Z-0123abcd", at=AT.isoformat(), site="north", from_version="v1.33.10+rke2r1",
    to_version="v1.34.10+rke2r1", charts={"rancher": "2.13.1"}, plan="0123456789ab", passed=True, findings=(),
    way_back="by restore of the bundle", seconds=812.0,
)  # fmt: skip
WANT = Upgrade("0123456789ab", "v1.33.10+rke2r1", "v1.34.10+rke2r1", {"rancher": "2.13.1"})


def seen(**changes: object) -> SeenTicket:
    return SeenTicket(sealed_ticket(replace(TICKET, **changes), SEAL), SEAL)


def reasons(*tickets: SeenTicket, want: Upgrade = WANT, now_s: float = NOW_S) -> list[str]:
    found, problems = check_ticket(tickets, want, now_s, 72, "north")
    assert (found is None) == bool(problems)
    return [problem.what for problem in problems]


def test_a_fresh_ticket_of_this_upgrade_allows_it() -> None:
    assert reasons(seen()) == []


@pytest.mark.parametrize(
    ("ticket", "reason"),
    [
        (seen(plan="ffffffffffff"), "it is for another plan"),
        (seen(to_version="v1.34.9+rke2r1"), "it is for another target"),
        (seen(from_version="v1.33.9+rke2r1"), "it is from another release"),
        (seen(charts={"rancher": "2.13.0"}), "charts have changed since"),
        (seen(charts={}), "charts have changed since"),
        (seen(passed=False, findings=("a PDB",)), "the rehearsal failed"),
        (SeenTicket(replace(sealed_ticket(TICKET, SEAL), seconds=1.0), SEAL), "it is not what a rehearsal wrote"),
        (SeenTicket(TICKET, SEAL), "it is not what a rehearsal wrote"),
        (SeenTicket(sealed_ticket(TICKET, SecretStr("another")), SEAL), "it is not what a rehearsal wrote"),
        (
            SeenTicket(sealed_ticket(TICKET, SEAL), None, "no-bundle"),
            "its bundle 20260504T000000Z-0123abcd cannot be opened",
        ),
    ],
)
def test_a_ticket_that_does_not_fit_is_refused_with_its_reason(ticket: SeenTicket, reason: str) -> None:
    assert reasons(ticket) == [reason]


def test_a_ticket_grows_old_and_none_is_from_the_future() -> None:
    assert reasons(seen(), now_s=AT.timestamp() + 72 * 3600) == []
    assert reasons(seen(), now_s=AT.timestamp() + 72 * 3600 + 1) == ["it is too old"]
    assert reasons(seen(), now_s=AT.timestamp() - 7200) == ["it is from the future"]


def test_no_ticket_is_a_reason_too() -> None:
    assert reasons() == ["no rehearsal of this upgrade was ever done"]


def test_the_newest_ticket_of_this_plan_decides() -> None:
    """A later rehearsal of another plan, or a forged one, spoils nothing; a later one of this plan that failed does."""
    later = datetime(2026, 5, 4, 3, 30, tzinfo=UTC).isoformat()
    assert reasons(seen(plan="ffffffffffff", at=later), seen()) == []
    assert reasons(seen(passed=False), seen(plan="ffffffffffff", at=later)) == ["the rehearsal failed"]
    assert reasons(seen(), seen(passed=False, at=later)) == ["the rehearsal failed"]
    assert reasons(seen(passed=False), seen(at=later)) == []
    assert reasons(seen(), SeenTicket(replace(TICKET, passed=False, at=later), SEAL)) == []
    assert reasons(seen(plan="ffffffffffff")) == ["it is for another plan"]


def test_several_problems_are_all_said() -> None:
    assert len(reasons(seen(plan="ffffffffffff", passed=False), now_s=NOW_S + 1e7)) == 3


def test_a_ticket_is_read_as_it_was_written() -> None:
    kept = sealed_ticket(replace(TICKET, findings=("one", "two")), SEAL)
    read = parse_ticket(render_ticket(kept))
    assert read == kept and is_sealed_ticket(read, SEAL)
    assert ticket_key("f", kept) == "f/north/tickets/20260504T030201Z-0123456789ab.json"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"passed": true}', render_ticket(replace(TICKET, at="soon"))]
)
def test_what_is_no_ticket_allows_nothing(text: str) -> None:
    assert parse_ticket(text) is None


def test_only_an_override_or_a_begun_upgrade_goes_without() -> None:
    _, problems = check_ticket([], WANT, NOW_S, 72, "north")
    with pytest.raises(NotRehearsedError, match="was ever done"):
        refuse_unrehearsed(problems, "north", "", ())
    refuse_unrehearsed(problems, "north", "J. Doe: urgent", ())
    refuse_unrehearsed(problems, "north", "", ("srv1",))
    refuse_unrehearsed([], "north", "", ())


def test_the_plans_note_says_how_it_was_rehearsed() -> None:
    _, problems = check_ticket([], WANT, NOW_S, 72, "north")
    assert "by restore of the bundle" in rehearsal_note(TICKET, [], "", ())
    assert "refused" in rehearsal_note(None, problems, "", ())
    assert "J. Doe: urgent" in rehearsal_note(None, problems, "J. Doe: urgent", ())
    assert "begun on srv1" in rehearsal_note(None, problems, "", ("srv1",))
