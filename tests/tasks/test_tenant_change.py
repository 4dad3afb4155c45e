"""A living tenant changed, suspended, resumed, given a new key pair: refusals, second runs, deaths in the middle."""

from __future__ import annotations

import pytest

from stackwright.clients.clearml_types import QueueInfo
from stackwright.domain.errors import GateTimeoutError, PlanRefusedError, SecretMissingError, StackError
from stackwright.domain.spec import Policy, Queue, Quota
from stackwright.domain.tenant_request import TenantChanges
from tasks.tenant_change import change_tenant, resume_tenant, rotate_tenant, suspend_tenant
from tasks.tenants import tenant_client
from tests.tasks.life_site import LifeSite, ask


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture
def place(tmp_path):
    place = LifeSite(tmp_path)
    place.onboard()
    return place


def change(place, **changes):
    return change_tenant(place.site, place.record(), ask("change", changes=TenantChanges(**changes)), place.lease)


def quota_of(place):
    return place.kube.objects[("v1", "ResourceQuota", "clearml-red", "tenant-quota")]


def journal(place):
    return [*place.server.journal, *place.kube.journal, *place.helm.journal, *place.secrets.made]


def test_a_larger_quota_is_applied_and_the_record_says_it(place):
    record = change(place, quota=Quota(cpu=24, memory_gib=96, gpus=2))
    assert quota_of(place)["spec"]["hard"]["requests.cpu"] == "24"
    assert record.wanted.quota.cpu == 24
    assert record.wanted.admin_email == place.wanted.admin_email


def test_a_change_that_is_asked_for_again_changes_nothing(place):
    """A run that died before its record was written is begun again: what was done is not done twice."""
    change(place, quota=Quota(cpu=24, memory_gib=96, gpus=2))
    before = journal(place)
    change(place, quota=Quota(cpu=24, memory_gib=96, gpus=2))
    assert journal(place) == before


def test_a_quota_below_what_is_used_is_refused_with_every_resource(place):
    quota_of(place)["status"] = {"used": {"requests.cpu": "7500m", "requests.memory": "40Gi", "pods": "3"}}
    before = journal(place)
    with pytest.raises(PlanRefusedError) as caught:
        change(place, quota=Quota(cpu=6, memory_gib=32, gpus=2))
    text = str(caught.value)
    assert "requests.cpu is in use" in text and "7500m" in text and "requests.memory is in use" in text
    assert "pods" not in text
    assert journal(place) == before


def test_a_quota_above_what_is_used_may_shrink(place):
    quota_of(place)["status"] = {"used": {"requests.cpu": "5500m", "requests.memory": "20Gi"}}
    change(place, quota=Quota(cpu=6, memory_gib=32, gpus=2))
    assert quota_of(place)["spec"]["hard"]["requests.cpu"] == "6"


def test_what_is_used_must_be_known(place):
    """Without a count in force a change could starve what runs: unknown is not absent."""
    del quota_of(place)["status"]
    with pytest.raises(StackError, match="not known"):
        change(place, quota=Quota(cpu=24, memory_gib=96))


def test_a_queue_that_holds_waiting_tasks_is_not_dropped(place):
    place.queue("default", entries=2)
    before = journal(place)
    with pytest.raises(PlanRefusedError, match=r"2 task\(s\) wait in it"):
        change(place, queues=(Queue(name="other"),))
    assert journal(place) == before


def test_an_empty_queue_is_dropped_after_the_new_one_is_served(place):
    record = change(place, queues=(Queue(name="other"),))
    assert [queue.name for queue in record.wanted.queues] == ["other"]
    assert [queue.name for queue in place.server.queues[place.company]] == ["other"]


def test_a_workspace_only_grows(place):
    record = place.record()
    record = record.model_copy(update={"wanted": record.wanted.model_copy(update={"workspace_gib": 100})})
    request = ask("change", changes=TenantChanges(workspace_gib=50))
    with pytest.raises(PlanRefusedError, match="a volume cannot shrink"):
        change_tenant(place.site, record, request, place.lease)


def test_the_sites_own_rules_hold_for_a_change(place):
    """More GPUs than the site has are refused, as they are in a site file."""
    with pytest.raises(PlanRefusedError, match="GPU"):
        change(place, quota=Quota(cpu=24, memory_gib=96, gpus=500))


def test_suspended_nothing_of_the_tenant_starts_and_its_data_stays(place):
    place.queue("default", entries=1)
    record = suspend_tenant(place.site, place.record(), ask("suspend"), place.lease)
    assert record.wanted.suspended
    assert [line for line in place.helm.journal if line.startswith("uninstall")] == [
        "uninstall clearml-red/clearml-app-gateway",
        "uninstall clearml-red/clearml-enterprise-agent",
    ]
    assert place.server.queues[place.company][0].entries == 1
    assert ("api-key", "clearml-tenant-red") in place.secrets.blocks
    assert quota_of(place)
    before = journal(place)
    suspend_tenant(place.site, record, ask("suspend"), place.lease)
    assert journal(place) == before


def test_a_change_of_a_suspended_tenant_starts_nothing(place):
    record = suspend_tenant(place.site, place.record(), ask("suspend"), place.lease)
    place.helm.journal.clear()
    request = ask("change", changes=TenantChanges(quota=Quota(cpu=24, memory_gib=96, gpus=2)))
    change_tenant(place.site, record, request, place.lease)
    assert place.helm.journal == [] and quota_of(place)["spec"]["hard"]["requests.cpu"] == "24"


def test_resumed_the_tenant_works_again(place):
    record = suspend_tenant(place.site, place.record(), ask("suspend"), place.lease)
    record = resume_tenant(place.site, record, ask("resume"), place.lease)
    assert not record.wanted.suspended
    assert place.server.workers[place.company] and place.server.routers[place.company]


def test_a_release_that_is_not_ours_is_not_uninstalled(place):
    for key, item in place.kube.objects.items():
        if key[1] == "Secret" and item["metadata"]["labels"].get("name") == "clearml-app-gateway":
            item["metadata"]["labels"]["stackwright.io/tenant"] = "somebody"
    suspend_tenant(place.site, place.record(), ask("suspend"), place.lease)
    assert "uninstall clearml-red/clearml-app-gateway" not in place.helm.journal


# --- rotation --------------------------------------------------------------------------------------------------------


def held(place):
    return place.secrets.blocks[("api-key", "clearml-tenant-red")]["access_key"]


def rotate(place):
    return rotate_tenant(place.site, place.record(), ask("rotate"), place.lease)


def test_the_old_pair_is_revoked_only_when_both_releases_report_with_the_new_one(place):
    old = held(place)
    record = rotate(place)
    assert held(place) != old and list(place.server.keys) == [held(place)]
    assert record.replaces == ""
    assert place.server.journal[-1] == f"revoke_credentials {old}"
    assert [line.split()[1] for line in place.helm.journal[-2:]] == [
        "clearml-red/clearml-enterprise-agent", "clearml-red/clearml-app-gateway",
    ]  # fmt: skip


def test_releases_that_stay_silent_keep_the_old_pair(place):
    """Without a report by the new pods nothing is revoked, and the next start goes on and ends with one pair."""
    old = held(place)
    place.server.silent = True
    with pytest.raises(GateTimeoutError, match=r"queue default|router"):
        rotate(place)
    assert {old, held(place)} == set(place.server.keys)
    place.server.silent = False
    rotate(place)
    assert list(place.server.keys) == [held(place)] != [old]


def test_jobs_that_have_not_logged_in_yet_are_waited_for(place):
    """A pod that was made with the old pair and still pulls its image needs it once more."""
    old = held(place)
    pod = {"apiVersion": "v1", "kind": "Pod", "status": {"phase": "Pending"}}
    meta = {"name": "clearml-id-1", "namespace": "clearml-red", "labels": {"CLEARML": "agent"}}
    place.kube.put({**pod, "metadata": meta})
    with pytest.raises(GateTimeoutError, match="clearml-id-1"):
        rotate(place)
    assert old in place.server.keys
    place.kube.put({**pod, "metadata": meta, "status": {"phase": "Succeeded"}})
    rotate(place)
    assert list(place.server.keys) == [held(place)]


def test_a_running_job_that_has_logged_in_is_not_waited_for(place):
    state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    status = {"phase": "Running", "containerStatuses": [{"state": state}]}
    meta = {"name": "clearml-id-1", "namespace": "clearml-red", "labels": {"CLEARML": "agent"}}
    place.kube.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": status})
    rotate(place)
    assert len(place.server.keys) == 1


def test_a_pair_made_by_hand_is_not_revoked(place):
    admin = place.server.users[0].id
    mine = place.server.client("SYSTEMKEY", _secret()).create_credentials("by hand", user_id=admin)
    rotate(place)
    assert set(place.server.keys) == {held(place), mine.access_key}


def _secret():
    from pydantic import SecretStr

    return SecretStr("planted-system-secret")


def test_without_a_kept_pair_there_is_nothing_to_rotate(place):
    place.secrets.blocks.pop(("api-key", "clearml-tenant-red"))
    with pytest.raises(SecretMissingError):
        rotate(place)


def _watched(place, hear):
    def write(kind, name, fields, real=place.secrets.write):
        hear(f"block {name}")
        real(kind, name, fields)
        hear(f"block {name} written")

    real = type(place.helm).upgrade_install

    def upgrade(want):
        hear(f"helm {want.name}")
        real(place.helm, want)
        hear(f"helm {want.name} done")

    place.server.on_change = place.kube.on_change = hear
    place.secrets.write = write
    place.helm.upgrade_install = upgrade


def test_a_rotation_killed_at_any_change_ends_with_exactly_one_pair(tmp_path):
    """Whatever change it dies at, the next start ends with one pair, kept and in use, and never breaks what runs."""
    undisturbed = LifeSite(tmp_path)
    undisturbed.onboard()
    changes = []
    _watched(undisturbed, changes.append)
    rotate(undisturbed)
    assert len(changes) >= 8
    for number in range(len(changes)):
        place = LifeSite(tmp_path)
        place.onboard()
        old, seen = held(place), []

        def hear(action, number=number, seen=seen):
            seen.append(action)
            if len(seen) == number + 1:
                raise Killed(action)

        real = type(place.secrets).write.__get__(place.secrets)
        _watched(place, hear)
        with pytest.raises(Killed):
            rotate(place)
        running = place.helm.wants["clearml-enterprise-agent"].values["clearml"]["agentk8sglueKey"]
        assert running.get_secret_value() in place.server.keys, changes[number]
        _watched(place, lambda action: None)
        place.secrets.write = real
        record = rotate(place)
        assert record.replaces == "" and held(place) != old
        assert list(place.server.keys) == [held(place)], changes[number]


def test_a_queue_of_the_resource_policy_reports_through_its_pools(tmp_path):
    """The agent serves the pools' queues in its place: a rotation waits for those, and ends."""
    place = LifeSite(tmp_path)
    more = {"queues": (Queue(name="train", gpus=1),), "policy": Policy(reservation=1, limit=2)}
    place.wanted = place.wanted.model_copy(update=more)
    place.onboard()
    old = held(place)
    rotate(place)
    assert held(place) != old and list(place.server.keys) == [held(place)]


def test_a_queue_that_an_agent_made_of_an_id_goes_with_the_change(tmp_path):
    """The agent of before misses a queue that the policy replaced, and makes one that has its id for a name."""
    place = LifeSite(tmp_path)
    more = {"queues": (Queue(name="train", gpus=1),), "policy": Policy(reservation=1, limit=2)}
    place.wanted = place.wanted.model_copy(update=more)
    place.onboard()
    own = tenant_client(place.site, place.wanted)
    strange = [QueueInfo(f"id-{name}", name, 0, False) for name in ("0123456789abcdef" * 2, "0123456789abcdef")]
    place.server.queues[place.company] = [*own.queues(), *strange]
    change(place, quota=Quota(cpu=24, memory_gib=96, gpus=2))
    names = {queue.name for queue in own.queues()}
    assert "0123456789abcdef" in names and "0123456789abcdef" * 2 not in names
