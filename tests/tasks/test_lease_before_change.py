"""No change over the Kubernetes API, helm or ClearML without a question to the lease right before it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stackwright.domain.errors import FencedError, GateTimeoutError
from stackwright.domain.layers import BY_NAME
from stackwright.domain.layers.gates import VolumeSmokeGate
from tasks.gates import wait_gates
from tasks.layers import bring_layer
from tests.fakes.kube import ready
from tests.tasks.layer_site import FakeLease, FakeSite
from tests.tasks.tenant_site import TenantSite

CRD = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": {}}


class Told(list):
    """A journal that also tells another one."""

    def __init__(self, all_of_them):
        super().__init__()
        self._all = all_of_them

    def append(self, item):
        super().append(item)
        self._all.append(item)


class WatchedLease(FakeLease):
    """Writes each question among the changes."""

    def __init__(self, everything, lives=1_000_000):
        super().__init__(lives)
        self.everything = everything

    def check(self):
        super().check()
        self.everything.append("check")


def watch(fake):
    """Let all changes of a site and all questions to its lease come into one list."""
    everything: list[str] = []
    fake.kube.journal, fake.helm.journal = Told(everything), Told(everything)
    fake.lease = WatchedLease(everything)
    return everything


def without_question(everything):
    """Return the changes that no question stands right before."""
    return [
        what
        for before, what in zip(["start", *everything], everything, strict=False)
        if what != "check" and before != "check"
    ]


def layer_with_crds(folder):
    """Return a site whose MetalLB brings CRDs of its own, as ClearML's chart does."""
    fake = FakeSite(folder)
    fake.helm.crds["metallb"] = [{**CRD, "metadata": {"name": f"{name}.test"}} for name in ("one", "two")]
    return fake


def test_a_layer_asks_before_each_change(tmp_path, monkeypatch):
    """Also after the chart was pulled and its CRDs were applied: that may have taken long."""
    fake = layer_with_crds(tmp_path)
    layer = BY_NAME["metallb"]
    with_crds = replace(layer, releases=lambda spec: tuple(replace(one, crds=True) for one in layer.releases(spec)))
    monkeypatch.setitem(BY_NAME, "metallb", with_crds)
    steps = fake.steps("metallb")
    everything = watch(fake)
    bring_layer(fake.site, "metallb", fake.lease, steps)
    assert without_question(everything) == []
    changes = [what for what in everything if what != "check"]
    assert "apply CustomResourceDefinition /two.test" in changes and "apply metallb-system/metallb 0.16.1" in changes
    for lives in range(everything.count("check")):
        fake = layer_with_crds(tmp_path)
        everything = watch(fake)
        with pytest.raises(FencedError):
            bring_layer(fake.site, "metallb", WatchedLease(everything, lives), steps)
        assert [what for what in everything if what != "check"] == changes[: len(everything) - lives]


def test_a_tenant_asks_before_each_change(tmp_path):
    place = TenantSite(tmp_path)
    steps = place.plan()
    everything = watch(place)
    place.server.journal = Told(everything)
    place.bring(approved=steps)
    assert len(everything) > 20 and without_question(everything) == []


def smoke(fake):
    """Return a layer that has the volume check as its only gate."""
    manager = ready("DaemonSet", "longhorn-manager", "longhorn-system")
    manager["spec"]["template"] = {"spec": {"containers": [{"image": "manager:1"}]}}
    fake.kube.put(manager)
    gate = VolumeSmokeGate("longhorn-system", "longhorn", "ReadWriteOnce")
    return replace(BY_NAME["storage"], gates=lambda spec: (gate,))


def test_the_volume_check_asks_before_it_writes_and_before_it_clears_up(tmp_path):
    fake = FakeSite(tmp_path)
    layer = smoke(fake)
    everything = watch(fake)
    with pytest.raises(GateTimeoutError):
        wait_gates(fake.site, layer, 100, fake.lease)
    assert everything[0] == "check" and "create Pod longhorn-system/stackwright-smoke-rwo-write" in everything
    first_delete = next(index for index, what in enumerate(everything) if what.startswith("delete"))
    assert everything[first_delete - 1] == "check"


@pytest.mark.parametrize("lives", [0, 1, 2])
def test_a_run_that_lost_its_lease_leaves_the_volume_check_to_the_next(tmp_path, lives):
    """Its names are the same for every run: what it would remove may be the other's."""
    fake = FakeSite(tmp_path)
    layer = smoke(fake)
    everything = watch(fake)
    with pytest.raises(FencedError):
        wait_gates(fake.site, layer, 1000, WatchedLease(everything, lives))
    assert not [what for what in everything if what.startswith("delete")]
    assert everything.count("check") == lives


def test_without_a_lease_nothing_that_writes_is_looked_at(tmp_path):
    fake = FakeSite(tmp_path)
    layer = smoke(fake)
    assert wait_gates(fake.site, layer, 10) == [] and fake.kube.journal == []
