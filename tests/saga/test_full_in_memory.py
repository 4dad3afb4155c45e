"""A full tenant's saga and its life, killed at any change on fakes: what `make saga-test` does on real wires, quickly.

Forward steps, ways back and changes are the production ones; only the network's proof is left out.
"""

from __future__ import annotations

from contextlib import suppress

import pytest

from stackwright.domain.errors import ConflictError
from tasks import tenant_saga
from tasks.tenant_hands import HANDS, Hands
from tasks.tenant_register import read_record
from tasks.tenant_saga import carry_out
from tests.fakes.clearml_platform import FakeCompany
from tests.saga.scene import full_tenant, request
from tests.tasks import tenant_kills as kills
from tests.tasks.life_site import LifeSite

NAME = "saga0007"
QUICK = Hands(HANDS.undo_step, lambda *_: [], HANDS.moves)


class FullSite(LifeSite):
    """A site where full tenants may be asked for. `refused`: their first job is refused for good."""

    def __init__(self, folder, *, refused=False, newer=False):
        super().__init__(folder, newer=newer, tenants=[])
        self.secrets.blocks[("secret-text", f"clearml-tenant-{NAME}-sso")] = {"value": "planted-sso"}
        self.refused = refused
        uninstall = self.helm.uninstall

        def watched(name, ns, **more):
            self.kube.on_change(f"helm uninstall {name}")
            uninstall(name, ns, **more)

        self.helm.uninstall = watched

    def tenant(self, name="red"):
        return full_tenant(NAME).to_tenant()

    def ask(self, action):
        return carry_out(self.site, request(action, NAME), self.lease, hands=QUICK)

    def record(self):
        return read_record(self.site, NAME)

    @property
    def company(self):
        return next((company.id for company in self.server.companies if company.name == NAME), "")

    def state(self):
        """Return what must be the same however often a run died."""
        server, record = self.server, self.record()
        parts = server.parts.get(self.company, FakeCompany(server.features))
        users = {user.id: user.email for user in server.users}
        return {
            "record": (record.state, record.begun, record.adopted, record.doing, record.changing_to, record.wanted),
            "companies": sorted((company.name, company.active) for company in server.companies),
            "users": sorted((user.email, user.role) for user in server.users),
            "keys": sorted((users.get(key.user, "?"), key.label) for key in server.keys.values()),
            "queues": sorted(queue.name for queue in server.queues.get(self.company, ()) if not queue.hidden),
            "tasks": sorted((task.name, task.status) for task in server.tasks.get(self.company, ())),
            "pools": sorted((pool.name, pool.resources) for pool in parts.live.pools),
            "profiles": sorted((profile.name, profile.cost, len(profile.links)) for profile in parts.live.profiles),
            "policies": sorted((p.name, p.reservation, p.limit, len(p.links)) for p in parts.policies.values()),
            "logins": (parts.domains, parts.emails, parts.sso, len(parts.providers)),
            "objects": sorted(key for key in self.kube.objects if "sh.helm" not in key[3]),
            "deployed": sorted(
                item["metadata"]["labels"]["name"]
                for item in self.kube.list("v1", "Secret", label_selector="owner=helm,status=deployed")
            ),
            "blocks": sorted(name for _, name in self.secrets.blocks),
        }


SCENARIOS = {
    "onboard": ((), False),
    "undo": ((), True),
    "change": (("onboard",), False),
    "suspend": (("onboard",), False),
    "resume": (("onboard", "suspend"), False),
    "rotate": (("onboard",), False),
    "archive": (("onboard",), False),
    "delete": (("onboard", "archive"), False),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Digests of secrets are slow on purpose; here they need not be."""
    monkeypatch.setattr("stackwright.domain.releases.SECRET_DIGEST_ROUNDS", 1)


def prepared(folder, scenario, monkeypatch, newer):
    before, refused = SCENARIOS[scenario]
    place = FullSite(folder, refused=refused, newer=newer)
    if refused:

        def refuse(*_):
            raise ConflictError("the job was refused for good", where=NAME)

        monkeypatch.setattr(tenant_saga, "run_smoke", refuse)
    for action in before:
        outcome = place.ask(action)
        assert outcome.good, outcome.text
    return place


def ended(place, scenario):
    """Start it again until it ends, as the dispatcher does."""
    for _ in range(4):
        outcome = place.ask("onboard" if scenario == "undo" else scenario)
        if outcome.later is None:
            return outcome.verdict
    raise AssertionError(outcome.text)


def killed_everywhere(folder, scenario, monkeypatch, *, newer=False, every=1, start=0):
    """Kill at every so-manieth change, before and after it, and compare with an undisturbed run."""
    place, seen = prepared(folder, scenario, monkeypatch, newer), []
    kills.watch(place, seen.append)
    verdict = ended(place, scenario)
    assert verdict == ("undone" if scenario == "undo" else "completed")
    want, lost = place.state(), []
    for number in range(start, len(seen), every):
        for moment in ("before", "after"):
            place = prepared(folder, scenario, monkeypatch, newer)
            kills.kill_at(place, number, moment)
            with suppress(kills.Killed):
                place.ask("onboard" if scenario == "undo" else scenario)
            kills.watch(place, lambda action: None)
            again = ended(place, scenario)
            found = place.state()
            differ = [key for key in want if want[key] != found[key]]
            if again != verdict or differ:
                lost.append((seen[number], moment, again, {key: (want[key], found[key]) for key in differ}))
    assert not lost, lost[:3]
    return len(seen)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_full_tenant_killed_at_some_changes_ends_as_an_undisturbed_one(tmp_path, monkeypatch, scenario):
    """A sample that is another one for each scenario; the long form takes every change."""
    killed_everywhere(tmp_path, scenario, monkeypatch, every=9, start=len(scenario) % 5)


@pytest.mark.slow
@pytest.mark.parametrize("newer", [False, True], ids=["3.29", "3.30"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_full_tenant_killed_at_any_change_ends_as_an_undisturbed_one(tmp_path, monkeypatch, scenario, newer):
    """Whatever change a run dies at, on both generations of the server: no twin, no orphan, nothing half-way."""
    killed_everywhere(tmp_path, scenario, monkeypatch, newer=newer)
