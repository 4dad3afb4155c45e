"""A whole rehearsal on real etcd: bundle, drill, upgrade behind the fence, the way back, the ticket."""

from __future__ import annotations

import pytest

from stackwright.domain.layers import chart_versions
from stackwright.domain.ticket import Upgrade
from tasks.drill import drill
from tasks.rehearsal import Wanted, rehearse
from tasks.tickets import find_ticket
from tests.drill.ground import SERVER, SPARE, STORE, lay_ground
from tests.rung.sites import NEXT, VERSION, spec_of, with_spec
from tests.store_server import running_store

pytestmark = pytest.mark.slow
WANT = Wanted(VERSION, NEXT, "0123456789ab", ())


@pytest.fixture(scope="module")
def ground(_hosts, tmp_path_factory):
    """Return production of one server, its spare host behind a fence, and one proven bundle."""
    if isinstance(_hosts, str):
        pytest.skip(_hosts)
    folder = tmp_path_factory.mktemp("rehearsal")
    with running_store(folder / "store", STORE) as store:
        ground = lay_ground(_hosts, store, folder / "work")
        ground.change()
        ground.bundle()
        judged = drill(ground.site)
        assert judged.passed, judged.faults
        yield ground
        for name in (SERVER, SPARE):
            _hosts.drop(name)


def with_target(ground, version):
    """Return production's site with another release wanted."""
    wanted = spec_of(ground.hosts, {SERVER: ["server"]}, version).rke2
    update = {"version": version, "artifacts": wanted.artifacts}
    spec = ground.site.spec
    return with_spec(ground.site, spec.model_copy(update={"rke2": spec.rke2.model_copy(update=update)}))


def test_an_upgrade_is_rehearsed_and_its_ticket_allows_it(ground) -> None:
    """The copy is upgraded and brought back; production stays as it was, the spare host is clean again."""
    site = with_target(ground, NEXT)
    found = rehearse(site, WANT)
    assert found.passed, found.problems
    assert found.upgrade_s > 0 and found.back_s > 0 and found.bundle in found.way_back
    ticket, problems = find_ticket(site, Upgrade(WANT.plan, VERSION, NEXT, chart_versions(site.spec)[0]))
    assert not problems and ticket.bundle == found.bundle
    assert [node.version for node in ground.site.kube().nodes()] == [VERSION]
    assert ground.hosts[SPARE].sh("ls /usr/local/bin/rke2 /var/lib/rancher/rke2 2>/dev/null | wc -l").strip() == "0"


def test_an_upgrade_that_does_not_come_back_fails_and_the_way_back_is_shown(ground) -> None:
    """The target's program ends at its start: that is the finding; the restore of the bundle still works."""
    site = with_target(ground, NEXT)
    folder = ground.hosts.folder / "artifacts" / NEXT
    (folder / "sha256sum-amd64.txt").write_text("0" * 64 + "  rke2.linux-amd64.tar.gz\n")
    found = rehearse(site, WANT)
    assert not found.passed and found.back_s > 0
    assert all(
        "the upgrade in the fence" in problem.what or "after the upgrade" in problem.what for problem in found.problems
    )
    _, problems = find_ticket(site, Upgrade(WANT.plan, VERSION, NEXT, chart_versions(site.spec)[0]))
    assert [problem.what for problem in problems] == ["the rehearsal failed"]
