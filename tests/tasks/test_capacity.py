"""Reading a cluster's capacity and keeping its history, against fakes and a real object store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stackwright.clients.clearml_types import QueueInfo
from stackwright.clients.store import StoreUnreachableError
from stackwright.domain.capacity_history import Sample
from stackwright.domain.capacity_trend import DAY_S
from stackwright.domain.errors import ApiError, ApiUnavailableError
from tasks.capacity import METRICS_API, make_capacity_report, read_capacity
from tasks.capacity_history import FolderHistory, StoreHistory, history_of, keep_sample, read_history
from tests.store_server import running_store
from tests.tasks.stored_bundle import site_with_store
from tests.tasks.tenant_site import TenantSite

LONGHORN = "longhorn.io/v1beta2"


@pytest.fixture
def place(tmp_path):
    site = TenantSite(tmp_path)
    site.bring("red")
    for item in list(site.kube.list("v1", "Node")):
        item["status"]["allocatable"] = {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "2"}
        site.kube.put(item)
    return site


def pod(name, ns, node, **requests):
    spec = {"nodeName": node, "containers": [{"name": "x", "resources": {"requests": requests}}]}
    meta = {"name": name, "namespace": ns, "uid": f"u-{name}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": {"phase": "Running"}}


def test_a_whole_look(place):
    node = place.spec.gpu_nodes[0].name
    place.kube.put(pod("job", "clearml-red", node, cpu="4", **{"nvidia.com/gpu": "1"}))
    company = place.server.companies[0].id
    now = place.clock.now()
    since = datetime.fromtimestamp(now - 5400, UTC).isoformat()
    place.server.queues[company][0] = QueueInfo("q", "default", 1, False, (since,))
    facts = read_capacity(place.site)
    assert facts.tenants == {"clearml-red": "red"} and facts.at.timestamp() == now
    assert {shape.queue for shape in facts.shapes if shape.tenant == "red"} == {"default", "gpu"}
    gpu = next(shape for shape in facts.shapes if (shape.tenant, shape.queue) == ("red", "gpu"))
    assert gpu.pod.needs["nvidia.com/gpu"] == 1000 and gpu.pod.needs["cpu"] > 0
    (jobs,) = [jobs for jobs in facts.waiting if jobs.ages_s]
    assert jobs.queue == "default" and jobs.ages_s == (5400.0,)
    assert any("metrics.k8s.io" in line for line in facts.unread)
    assert any("tenant blue: no key pair" in line for line in facts.unread)


def test_measured_use_and_storage_are_read_where_they_are_offered(place):
    node = place.spec.nodes[0].name
    place.kube.put(
        {"apiVersion": METRICS_API, "kind": "NodeMetrics", "metadata": {"name": node}, "usage": {"cpu": "3"}}
    )
    disk = {"d": {"path": "/x", "allowScheduling": True, "storageReserved": 1}}
    status = {"conditions": [{"type": "Ready", "status": "True"}],
              "diskStatus": {"d": {"storageMaximum": 10, "storageScheduled": 2, "storageAvailable": 7}}}  # fmt: skip
    meta = {"name": node, "namespace": "longhorn-system"}
    place.kube.put({"apiVersion": LONGHORN, "kind": "Node", "metadata": meta,
                    "spec": {"allowScheduling": True, "disks": disk}, "status": status})  # fmt: skip
    meta = {"name": "storage-over-provisioning-percentage", "namespace": "longhorn-system"}
    place.kube.put({"apiVersion": LONGHORN, "kind": "Setting", "metadata": meta, "value": "150"})
    volume = {"metadata": {"name": "pvc-1", "namespace": "longhorn-system"}, "spec": {"size": "7"}}
    place.kube.put({"apiVersion": LONGHORN, "kind": "Volume", **volume})
    facts = read_capacity(place.site)
    assert facts.sizes == {"pvc-1": 7}
    assert facts.used[node]["cpu"] == 3000 and facts.over_provisioning == 1.5
    assert [(disk.node, disk.used) for disk in facts.disks] == [(node, 3)]


def test_what_may_not_be_read_is_named_and_what_does_not_answer_ends_the_look(place, monkeypatch):
    real = place.kube.each

    def refuse(api, kind, ns=None):
        if kind == "ResourceQuota":
            raise ApiError("refused", where="x", seen="403 Forbidden", status=403)
        yield from real(api, kind, ns)

    monkeypatch.setattr(place.kube, "each", refuse)
    assert "quotas: 403 Forbidden" in read_capacity(place.site).unread

    def down(api, kind, ns=None):
        raise ApiUnavailableError("down", where="x")

    monkeypatch.setattr(place.kube, "each", down)
    with pytest.raises(ApiUnavailableError):
        read_capacity(place.site)


def test_a_report_keeps_its_sample_once_and_tells_the_trend(place, tmp_path):
    history = FolderHistory(tmp_path / "kept")
    now = place.clock.now()
    for day in range(1, 11):
        keep_sample(history, Sample(now - day * DAY_S, {}, {"cpu": 100 - day}, {"cpu": 1000}))
    first = make_capacity_report(place.site, history)
    again = make_capacity_report(place.site, history)
    assert len(first.samples) == len(again.samples) == 11
    assert first.trends["cpu"].points == 11 and first.trends["cpu"].known and not first.trends["gpu"].known
    assert first.lab and str(tmp_path) in first.history


def test_history_in_the_bundle_store_survives_and_a_torn_month_is_told(tmp_path: Path, caplog):
    with running_store(tmp_path / "s3") as server:
        site = site_with_store(server, tmp_path)
        history = history_of(site)
        assert isinstance(history, StoreHistory) and read_history(history) == []
        samples = [Sample(1_780_000_000.0 + n * 86400, {"a": (n, 100)}) for n in range(70)]
        for sample in samples:
            keep_sample(history, sample)
        keep_sample(history, samples[3])
        assert read_history(history_of(site)) == samples
        assert len(history.names()) == 4
        name = history.names()[-1]
        history.write(name, history.read(name) + "torn")
        assert read_history(history) == samples and "cannot be read" in caplog.text


def test_a_store_that_is_away_ends_the_report(place, tmp_path):
    with running_store(tmp_path / "s3") as server:
        stored = site_with_store(server, tmp_path)
    site = replace(place.site, spec=place.spec.model_copy(update={"backup": stored.spec.backup}))
    place.secrets.blocks |= stored.secrets.blocks
    with pytest.raises(StoreUnreachableError):
        make_capacity_report(replace(site, resolve=stored.resolve))


def test_without_a_store_the_report_says_where_its_history_lies(tmp_path):
    site = TenantSite(tmp_path)
    bare = replace(site.site, spec=site.spec.model_copy(update={"backup": None}))
    assert "on this controller only" in history_of(bare).where
