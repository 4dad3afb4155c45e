"""Tickets over a real store: kept, read with their bundle's seal, refused when altered, orphaned or unreadable."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from stackwright.domain.bundle import bundle_key
from stackwright.domain.ticket import Ticket, Upgrade, render_ticket, ticket_key
from tasks.tickets import find_ticket, keep_ticket, read_tickets
from tests.store_server import Fault, running_store
from tests.tasks.stored_bundle import opened_bundle, put_bundle, site_with_store

WANT = Upgrade("0123456789ab", "v1.34.10+rke2r1", "v1.35.3+rke2r1", {"rancher": "2.13.1"})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with running_store(tmp_path_factory.mktemp("store"), "store.example.test") as server:
        yield server


@pytest.fixture
def place(served, tmp_path):
    """Return server, site, bundle, and a ticket of now for it; the store holds nothing else."""
    served.fault = None
    store = served.store()
    store.delete([one.key for one in store.list("")])
    site = site_with_store(served, tmp_path)
    manifest = put_bundle(served)
    at = datetime.fromtimestamp(site.clock.now(), UTC).isoformat()
    ticket = Ticket(
        manifest.id, at, "north", WANT.running, WANT.target, WANT.charts, WANT.plan, True, (), "by restore", 60.0
    )
    yield served, site, opened_bundle(served, manifest.id), ticket
    served.fault = None


def whys(site) -> list[str]:
    found, problems = find_ticket(site, WANT)
    assert found is None
    return [problem.what for problem in problems]


def test_a_kept_ticket_is_found_and_allows_its_upgrade(place) -> None:
    _, site, bundle, ticket = place
    assert whys(site) == ["no rehearsal of this upgrade was ever done"]
    kept = keep_ticket(site, bundle, ticket)
    assert find_ticket(site, WANT) == (kept, [])
    assert kept.tag and [one.ticket for one in read_tickets(site)] == [kept]


def test_a_ticket_that_somebody_wrote_himself_is_refused(place) -> None:
    """Without the bundle's seal nobody can make one: a changed verdict, or one with a tag of his own."""
    server, site, bundle, ticket = place
    kept = keep_ticket(site, bundle, replace(ticket, passed=False, findings=("it broke",)))
    assert whys(site) == ["the rehearsal failed"]
    store = server.store()
    store.write(ticket_key(store.folder, kept), render_ticket(replace(kept, passed=True)).encode())
    assert whys(site) == ["it is not what a rehearsal wrote"]
    store.write(ticket_key(store.folder, kept), b"not json")
    assert whys(site) == ["no rehearsal of this upgrade was ever done"]


def test_a_ticket_whose_bundle_is_gone_is_refused(place) -> None:
    """What was rehearsed is also the way back: without the bundle there is none."""
    server, site, bundle, ticket = place
    keep_ticket(site, bundle, ticket)
    store = server.store()
    store.delete([bundle_key(store.folder, "north", ticket.bundle, "manifest.json")])
    (why,) = whys(site)
    assert why == f"its bundle {ticket.bundle} cannot be opened"


def test_a_store_that_cannot_be_read_is_no_ticket(place) -> None:
    server, site, bundle, ticket = place
    keep_ticket(site, bundle, ticket)
    server.fault = Fault("refused", method="GET")
    _, problems = find_ticket(site, WANT)
    assert problems[0].what == "the tickets cannot be read" and "--without-rehearsal" in problems[0].remedy


@pytest.mark.parametrize("has_backup", [True, False])
def test_a_site_that_cannot_rehearse_is_told_so(served, tmp_path, has_backup: bool) -> None:
    site = site_with_store(served, tmp_path, drill=False)
    if not has_backup:
        site = replace(site, spec=site.spec.model_copy(update={"backup": None}))
    (problem,) = find_ticket(site, WANT)[1]
    assert (
        problem.where == "backup.drill" and "no spare host" in problem.what and "--without-rehearsal" in problem.remedy
    )
