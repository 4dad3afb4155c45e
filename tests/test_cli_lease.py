"""`stackwright lease SITE`: both copies and every node's number, as they lie; what cannot be read is said."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stackwright import cli
from stackwright.cli_lease import told
from stackwright.domain.lease import LeaseState
from tasks.lease import Lease
from tasks.lease_view import PlaceView
from tests.fakes.kube import FakeKube
from tests.tasks.lease_site import WHOLE, change_node, lease_file, make_site, other_host

shell = CliRunner()


@pytest.fixture
def site(tmp_path, monkeypatch):
    found = make_site(tmp_path, FakeKube())
    monkeypatch.setattr("blocks.site.load_site", lambda name: (found.spec, found))
    return found


def show(*words, code=0):
    done = shell.invoke(cli.app, ["lease", "north", *words])
    assert done.exit_code == code, done.output
    return done.output


def test_before_the_first_run_there_is_nothing(site):
    said = show()
    assert "s1: no lease was ever taken here" in said and "cluster: no lease was ever taken here" in said
    assert site.kube().journal == [] and not lease_file(site).exists(), "looking changes nothing"


def test_a_held_lease_names_its_holder_in_both_places(site):
    holder = other_host("deploy-north-1a2b")
    lease = Lease(site, holder)
    lease.take(WHOLE)
    change_node(site, "w1", lease)
    lines = show().splitlines()
    for place in ("s1", "cluster"):
        (line,) = [line for line in lines if line.startswith(f"{place}: ")]
        for part in (str(holder), "http://ui/runs/deploy-north-1a2b", "number 1 since", "until", WHOLE.hash):
            assert part in line
    numbers = dict(line.split() for line in lines if line.startswith(("s1 ", "s2 ", "w1 ")))
    assert numbers == {"s1": "1", "s2": "0", "w1": "1"}


def test_a_given_back_lease_keeps_its_number(site):
    lease = Lease(site, other_host())
    lease.take(WHOLE)
    lease.release(finished=True)
    assert "s1: free; last number 1, given back" in show()


def test_what_cannot_be_read_is_said_and_fails(site):
    """A node that is down, a file that is no lease: both are named, what can be read is shown all the same."""
    Lease(site, other_host()).take(WHOLE)
    site.shells.down.add("w1")
    lease_file(site).write_text("{half")
    said = show(code=1)
    assert "s1: could not be read: s1:/var/lib/stackwright/lease: the lease cannot be read" in said
    assert "cluster: held by run other" in said
    assert any(line.startswith("w1 ") and "does not answer" in line for line in said.splitlines())


def test_machines_get_one_object(site):
    Lease(site, other_host()).take(WHOLE)
    site.kube().down = True
    found = json.loads(show("--json", code=1))
    assert found["site"] == "north"
    server, cluster = found["places"]
    assert server["lease"]["holder"]["run"] == "other" and server["lease"]["steps"] == 2 and not server["problem"]
    assert cluster["lease"] is None and "does not answer" in cluster["problem"]
    assert [fence["number"] for fence in found["fences"]] == [1, 0, 0, 0, 0]


def test_a_site_without_a_cluster_has_one_place(tmp_path, monkeypatch):
    alone = make_site(tmp_path)
    monkeypatch.setattr("blocks.site.load_site", lambda name: (alone.spec, alone))
    assert "cluster" not in show()


def test_a_time_that_is_over_is_said_to_be():
    state = LeaseState(4, other_host(), renewed_at=1000.0)
    assert "time over since 1970-01-01 00:21:40 UTC" in told(PlaceView("s1", state, now=1300.0))
    assert "until 1970-01-01 00:21:40 UTC unless renewed" in told(PlaceView("s1", state, now=1299.0))
