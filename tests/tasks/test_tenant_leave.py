"""A tenant leaves: refusals, what is kept, what is left, deaths in the middle; and the way back of every step."""

from __future__ import annotations

import pytest

from stackwright.domain.errors import PlanRefusedError, StackError
from stackwright.domain.spec import Identity, Policy, Queue
from tasks.tenant_leave import (
    LeftoversError,
    archive_tenant,
    delete_tenant,
    look_left,
    undo_step,
)
from tasks.tenant_undo import NamespaceStuckError
from tests.tasks.life_site import LifeSite, ask

SPACE = "clearml-red"
STEPS = ["company", "user", "credentials", "namespace", "quota", "limits", "network", "pull-secret", "agent", "gateway"]


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture(params=["older server", "newer server"])
def place(tmp_path, request):
    place = LifeSite(tmp_path, newer=request.param == "newer server")
    place.onboard()
    return place


def claim(place, **meta):
    place.kube.put({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": SPACE, **meta},
        "spec": {"volumeName": "pvc-1"}, "status": {"capacity": {"storage": "100Gi"}},
    })  # fmt: skip


def archive(place, **more):
    return archive_tenant(place.site, place.record(), ask("archive", **more), place.lease)


def delete(place, record=None, confirm="red"):
    return delete_tenant(place.site, record or place.record(), ask("delete", confirm=confirm), place.lease)


def journal(place):
    return [*place.server.journal, *place.kube.journal, *place.helm.journal, *place.secrets.made]


# --- archive ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_work_under_way_is_listed_and_blocks(place, status):
    task = place.work(status)
    before = journal(place)
    with pytest.raises(PlanRefusedError, match=f"task {task} train: {status}"):
        archive(place)
    assert journal(place) == before


def test_a_jobs_pod_blocks_although_clearml_knows_no_task(place):
    meta = {"name": "clearml-id-1", "namespace": SPACE, "labels": {"CLEARML": "agent"}}
    place.kube.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": {"phase": "Running"}})
    with pytest.raises(PlanRefusedError, match="pod clearml-id-1 Running"):
        archive(place)


def test_archived_nothing_runs_no_key_works_and_the_data_is_kept(place):
    claim(place)
    by_hand = place.server.client("SYSTEMKEY", _secret()).create_credentials("mine", user_id=place.server.users[0].id)
    record = archive(place)
    assert by_hand.access_key not in place.server.keys and place.server.keys == {}
    assert ("api-key", "clearml-tenant-red") not in place.secrets.blocks
    assert not [key for key in place.kube.objects if key[1] == "Deployment" and key[2] == SPACE]
    assert ("v1", "PersistentVolumeClaim", SPACE, "data") in place.kube.objects
    hard = place.kube.objects[("v1", "ResourceQuota", SPACE, "tenant-quota")]["spec"]["hard"]
    assert hard["pods"] == "0" and hard["requests.storage"] != "0"
    assert "volume data 100Gi (pvc-1)" in record.kept and "queue default, 0 waiting" in record.kept
    assert place.server.users and place.server.companies


def _secret():
    from pydantic import SecretStr

    return SecretStr("planted-system-secret")


def test_work_is_ended_when_that_is_asked_for(place):
    task = place.work("queued")
    meta = {"name": "clearml-id-1", "namespace": SPACE, "labels": {"CLEARML": "agent"}}
    place.kube.put({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "status": {"phase": "Running"}})
    record = archive(place, stop_running=True)
    assert [one.status for one in place.server.tasks[place.company] if one.id == task] == ["stopped"]
    assert ("v1", "Pod", SPACE, "clearml-id-1") not in place.kube.objects
    assert "1 task(s) stopped" in record.kept


def test_work_that_came_in_at_the_last_moment_brings_the_tenant_back(place):
    """Refused for new work after the releases went: they are back, and nothing else was done."""
    uninstall = place.helm.uninstall

    def late(name, ns, **more):
        uninstall(name, ns, **more)
        if not place.server.tasks:
            place.work("queued")

    place.helm.uninstall = late
    with pytest.raises(PlanRefusedError, match="queued"):
        archive(place)
    assert place.server.workers[place.company] and place.server.keys
    assert ("api-key", "clearml-tenant-red") in place.secrets.blocks


def test_a_second_archive_changes_nothing(place):
    claim(place)
    kept = archive(place).kept
    before = [line for line in journal(place) if "scout" not in line and "apply ResourceQuota" not in line]
    assert archive(place).kept == kept
    assert [line for line in journal(place) if "scout" not in line and "apply ResourceQuota" not in line] == before


# --- delete ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirm", ["", "blue", "Red", "red "])
def test_a_deletion_that_does_not_name_the_tenant_is_refused(place, confirm):
    record = archive(place)
    before = journal(place)
    with pytest.raises(PlanRefusedError, match="not confirmed"):
        delete(place, record, confirm)
    assert journal(place) == before


def test_deleted_nothing_is_left_and_what_cannot_be_deleted_is_named(place):
    claim(place)
    record = delete(place, archive(place))
    assert not [key for key in place.kube.objects if SPACE in (key[2], key[3])]
    assert place.server.users == [] and place.server.keys == {}
    assert not place.server.queues.get(place.company)
    assert {check.verdict for check in look_left(place.site, place.wanted)} == {"pass"}
    if place.server.newer:
        assert record.kept == () and not place.server.companies[0].active
    else:
        assert "delete_company_data_from_mongo" in record.kept[0] and place.company in record.kept[0]


def test_a_second_deletion_changes_nothing(place):
    record = delete(place, archive(place))
    before = [line for line in journal(place) if "scout" not in line]
    delete(place, record)
    assert [line for line in journal(place) if "scout" not in line] == before


def test_another_tenant_is_not_touched(place):
    place.bring("blue")
    blue = [key for key in place.kube.objects if key[2] == "clearml-blue"]
    delete(place, archive(place))
    assert [key for key in place.kube.objects if key[2] == "clearml-blue"] == blue
    assert [user.email for user in place.server.users] == ["admin@blue.example"]


def test_a_namespace_that_hangs_is_named_with_its_finalizers(place):
    record = archive(place)
    claim(place, finalizers=["example.com/guard"])
    with pytest.raises(NamespaceStuckError, match=r"PersistentVolumeClaim data is held by example\.com/guard"):
        delete(place, record)
    place.kube.objects.pop(("v1", "PersistentVolumeClaim", SPACE, "data"))
    delete(place, record)


def test_what_is_left_cluster_wide_fails_the_deletion_and_is_named(place):
    """A chart's ClusterRoleBinding outlives the namespace; another tenant's with a like name is not meant."""
    record = archive(place)
    for name in ("agent-clearml-red-access", "agent-clearml-reddish-access"):
        meta = {"name": name}
        place.kube.put({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": meta})
    with pytest.raises(LeftoversError, match="ClusterRole agent-clearml-red-access") as caught:
        delete(place, record)
    assert "reddish" not in str(caught.value)


def test_an_ingress_elsewhere_with_the_tenants_name_is_found(place):
    rules = [{"host": f"router-red.{place.spec.clearml.base_domain}"}]
    meta = {"name": "old", "namespace": "default"}
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"rules": rules}}
    place.kube.put(ingress)
    with pytest.raises(LeftoversError, match="Ingress default/old"):
        delete(place, archive(place))


def test_what_cannot_be_looked_at_is_unknown(place):
    place.server.down = True
    found = {check.id: check.verdict for check in look_left(place.site, place.wanted)}
    assert found["tenant/red/left-clearml"] == "unknown"


def _hear(place, hear):
    place.server.on_change = place.kube.on_change = hear
    uninstall = LifeSite.uninstalling(place)

    def watched(name, ns, **more):
        hear(f"uninstall {name}")
        uninstall(name, ns, **more)

    place.helm.uninstall = watched


@pytest.mark.parametrize("newer", [False, True])
def test_leaving_killed_at_any_change_ends_the_same(tmp_path, newer):
    """Whatever change archive or delete dies at, starting them again ends with nothing left."""

    def leave(place):
        record = place.record()
        if not record.kept or record.state == "ready":
            record = archive_tenant(place.site, record, ask("archive", stop_running=True), place.lease)
        delete_tenant(place.site, record, ask("delete", confirm="red"), place.lease)

    def fresh():
        place = LifeSite(tmp_path, newer=newer)
        place.onboard()
        claim(place)
        place.work("queued")
        return place

    whole, changes = fresh(), []
    _hear(whole, changes.append)
    leave(whole)
    assert len(changes) >= 8
    for number, change in enumerate(changes):
        place, seen = fresh(), []

        def hear(action, number=number, seen=seen):
            seen.append(action)
            if len(seen) == number + 1:
                raise Killed(action)

        _hear(place, hear)
        with pytest.raises(Killed):
            leave(place)
        _hear(place, lambda action: None)
        leave(place)
        assert {check.verdict for check in look_left(place.site, place.wanted)} == {"pass"}, change
        assert place.server.users == [] and place.server.keys == {}, change


# --- the way back ----------------------------------------------------------------------------------------------------


def undo(place, *steps):
    for what in steps:
        undo_step(place.site, place.wanted, what, place.record(), place.lease)


def test_every_step_taken_back_leaves_nothing(place):
    empty = {key for key in place.kube.objects if SPACE in (key[2], key[3])}
    assert len(empty) > 8
    undo(place, "smoke", "identity", "policy", "names", "queues", *reversed(STEPS))
    assert not [key for key in place.kube.objects if SPACE in (key[2], key[3])]
    assert place.server.users == [] and place.server.keys == {} and not place.server.queues.get(place.company)
    assert ("api-key", "clearml-tenant-red") not in place.secrets.blocks
    assert place.server.newer != any(company.active for company in place.server.companies)


@pytest.mark.parametrize("what", ["smoke", "gateway", "agent", "pull-secret", "network", "limits", "quota"])
def test_a_step_taken_back_twice_changes_nothing_the_second_time(place, what):
    undo(place, what)
    before = journal(place)
    undo(place, what)
    assert journal(place) == before


def test_a_queue_that_holds_tasks_is_not_emptied(place):
    place.queue("default", entries=1)
    undo(place, "agent")
    assert [queue.name for queue in place.server.queues[place.company]] == ["default"]


def test_another_companys_user_is_not_touched(place):
    """A saga that was refused because the address belongs to somebody else must not remove that somebody."""
    for index, user in enumerate(place.server.users):
        from dataclasses import replace

        place.server.users[index] = replace(user, company_id="elsewhere")
    place.secrets.blocks.pop(("api-key", "clearml-tenant-red"))
    undo(place, "credentials", "user")
    assert len(place.server.users) == 1


def test_a_company_of_the_name_that_the_saga_did_not_make_is_not_touched(place):
    record = place.record().model_copy(update={"company_id": "another"})
    for what in ("credentials", "user", "company"):
        undo_step(place.site, place.wanted, what, record, place.lease)
    assert place.server.companies[0].active and len(place.server.users) == 1


def test_a_namespace_that_is_not_ours_is_not_touched(place):
    place.kube.objects[("v1", "Namespace", "", SPACE)]["metadata"]["labels"].pop("stackwright.io/tenant")
    before = set(place.kube.objects)
    undo(place, "network", "quota", "namespace")
    assert set(place.kube.objects) == before


def test_a_namespace_with_what_onboarding_did_not_make_stays(place):
    undo(place, "gateway", "agent")
    claim(place)
    with pytest.raises(StackError, match="PersistentVolumeClaim data"):
        undo(place, "namespace")
    assert ("v1", "Namespace", "", SPACE) in place.kube.objects


def test_a_step_that_nobody_knows_is_an_error(place):
    with pytest.raises(StackError, match="no way back"):
        undo(place, "dreams")


def test_policy_and_logins_are_taken_back_and_dropped_by_an_archive(tmp_path):
    """What was set up beside the queues goes with the tenant: pools, policy, login domains."""
    for leave in (lambda place: undo(place, "identity", "policy"), archive):
        place = LifeSite(tmp_path)
        logins = Identity(domains=("red.example",))
        more = {"queues": (Queue(name="train", gpus=1),), "policy": Policy(reservation=1, limit=2), "identity": logins}
        place.wanted = place.wanted.model_copy(update=more)
        place.onboard()
        parts = place.server.parts[place.company]
        assert parts.policies and parts.domains == ("red.example",)
        leave(place)
        assert not parts.policies and parts.domains == () and not parts.live.pools


def test_the_providers_secret_goes_with_the_tenant(place):
    block = ("secret-text", "clearml-tenant-red-sso")
    place.secrets.blocks[block] = {"value": "planted"}
    record = archive(place)
    assert block in place.secrets.blocks
    delete(place, record)
    assert block not in place.secrets.blocks
