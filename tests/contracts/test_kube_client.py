"""What the Kubernetes client promises: measured on the stand-in always, on a live cluster when one is given.

A live cluster is named by STACKWRIGHT_LIVE_KUBECONFIG. All that is made is one namespace a test, deleted afterwards.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import threading
import time
import uuid
from pathlib import Path

import pytest
import yaml
from kubernetes import client as official
from kubernetes import config as official_config

from stackwright.clients import kube as kube_module
from stackwright.clients.kube import Kube
from stackwright.domain.errors import ApiError, ApiUnavailableError, ConflictError, GateTimeoutError, NotFoundError
from stackwright.lab.net import Authority

LIVE_KUBECONFIG = os.environ.get("STACKWRIGHT_LIVE_KUBECONFIG", "")
LIVE_IMAGE = os.environ.get("STACKWRIGHT_LIVE_IMAGE", "")
LIVE_CORDON = os.environ.get("STACKWRIGHT_LIVE_CORDON", "")
PLANTED = "planted-s3cret-42"


@pytest.fixture(params=["stand-in", *(["live"] if LIVE_KUBECONFIG else [])])
def kubeconfig(request):
    """The administrator's kubeconfig of a cluster."""
    live = request.param == "live"
    return Path(LIVE_KUBECONFIG) if live else request.getfixturevalue("stand_in_cluster").kubeconfig


@pytest.fixture
def kube(kubeconfig):
    client = Kube(kubeconfig)
    yield client
    client.close()


@pytest.fixture
def space(kube):
    """A namespace of the test's own."""
    name = f"stackwright-contract-{uuid.uuid4().hex[:8]}"
    kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    kube.delete("v1", "Namespace", name)


@pytest.fixture
def closed_port():
    """A port that refuses: bound, so that nobody else gets it, and not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def config_map(ns, name="one", data=None, **more):
    meta = {"name": name, "namespace": ns, **more.pop("meta", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data or {"a": "1"}, **more}


def poll(check, what):
    """Ask again until `check` returns something true: RBAC takes a moment to be seen by every API server."""
    deadline = time.monotonic() + 30
    while not (found := check()):
        assert time.monotonic() < deadline, f"{what} was not seen"
        time.sleep(0.05)
    return found


# --- looking ---------------------------------------------------------------------------------------------------------


def test_what_is_absent_is_none_and_not_an_error(kube, space):
    """An absent object, an absent namespace and a kind that nobody serves: looked, and not there."""
    assert kube.get("v1", "ConfigMap", "none", space) is None
    assert kube.get("v1", "ConfigMap", "none", f"{space}-none") is None
    assert kube.get("stackwright.test/v1", "Unicorn", "none", space) is None


def test_kinds_come_from_discovery(kube, space):
    """A listing of a kind that is not served is an error, so that nobody takes it for an empty cluster."""
    assert kube.has_kind("v1", "ConfigMap") and kube.has_kind("apps/v1", "Deployment")
    assert not kube.has_kind("v1", "Unicorn") and not kube.has_kind("stackwright.test/v1", "Unicorn")
    with pytest.raises(NotFoundError):
        kube.list("v1", "Unicorn", space)
    with pytest.raises(ApiError, match="needs a namespace"):
        kube.get("v1", "ConfigMap", "one")


def test_a_listing_follows_labels_and_pages(kube, space, monkeypatch):
    """Three pages are one list; each object says what it is, although a list's items leave that out."""
    monkeypatch.setattr(kube_module, "PAGE", 2)
    for index in range(5):
        kube.create(config_map(space, f"m{index}", meta={"labels": {"part": "odd" if index % 2 else "even"}}))
    found = kube.list("v1", "ConfigMap", space, label_selector="part")
    assert [item["metadata"]["name"] for item in found] == ["m0", "m1", "m2", "m3", "m4"]
    assert {(item["apiVersion"], item["kind"]) for item in found} == {("v1", "ConfigMap")}
    odd = kube.list("v1", "ConfigMap", space, label_selector="part=odd")
    assert [item["metadata"]["name"] for item in odd] == ["m1", "m3"]
    one = kube.list("v1", "ConfigMap", space, field_selector="metadata.name=m4")
    assert [item["metadata"]["name"] for item in one] == ["m4"]


def test_an_answer_is_dated_by_the_server(kube, space):
    """The API server's own clock comes with the object, and also where there is none."""
    kube.create(config_map(space))
    found, first = kube.get_dated("v1", "ConfigMap", "one", space)
    nothing, second = kube.get_dated("v1", "ConfigMap", "none", space)
    assert found == kube.get("v1", "ConfigMap", "one", space) and nothing is None
    assert first <= second and second - first < 60
    assert abs(second - time.time()) < 24 * 3600


def test_nodes_are_readable(kube):
    """Every Node of the cluster becomes a status, by name."""
    names = [node.name for node in kube.nodes()]
    assert names == sorted(item["metadata"]["name"] for item in kube.list("v1", "Node"))
    assert all(isinstance(node.ready, bool) and isinstance(node.schedulable, bool) for node in kube.nodes())


def test_the_server_says_its_version(kube):
    assert re.match(r"v1\.\d+\.\d+", kube.server_version())


def test_a_secret_value_stays_wrapped(kube, space):
    """The value is decoded and does not show in a repr; a missing Secret and a missing key are None."""
    data = {"password": base64.b64encode(PLANTED.encode()).decode()}
    meta = {"name": "login", "namespace": space}
    kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data})
    value = kube.secret_value("login", space, "password")
    assert value.get_secret_value() == PLANTED and PLANTED not in repr(value)
    assert kube.secret_value("login", space, "user") is None
    assert kube.secret_value("none", space, "password") is None


# --- changing --------------------------------------------------------------------------------------------------------


def test_applying_twice_changes_once(kube, space):
    """The second apply says so, and the object keeps its version."""
    first, changed = kube.apply(config_map(space, data={"a": "1", "b": "2"}))
    assert changed and first["data"] == {"a": "1", "b": "2"}
    second, changed = kube.apply(config_map(space, data={"a": "1", "b": "2"}))
    assert not changed and second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third, changed = kube.apply(config_map(space, data={"a": "3"}))
    assert changed and third["data"] == {"a": "3"}, "what is no longer applied goes"


def test_a_field_of_another_owner_is_not_taken_silently(kube, space):
    """The conflict names the owner and the field; `force` takes the field."""
    kube.apply(config_map(space), field_manager="someone-else")
    with pytest.raises(ConflictError) as caught:
        kube.apply(config_map(space, data={"a": "2"}))
    assert caught.value.status == 409
    assert "someone-else" in caught.value.seen and ".data.a" in caught.value.seen
    assert kube.get("v1", "ConfigMap", "one", space)["data"] == {"a": "1"}
    after, changed = kube.apply(config_map(space, data={"a": "2"}), force=True)
    assert changed and after["data"] == {"a": "2"}


def test_creating_what_exists_is_a_conflict(kube, space):
    kube.create(config_map(space))
    with pytest.raises(ConflictError) as caught:
        kube.create(config_map(space, data={"a": "2"}))
    assert caught.value.status == 409 and 'configmaps "one" already exists' in caught.value.seen
    assert not caught.value.transient
    assert kube.get("v1", "ConfigMap", "one", space)["data"] == {"a": "1"}


def lease(ns, **spec):
    meta = {"name": "one", "namespace": ns, "annotations": {"stackwright.test/number": "1"}}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def test_a_patch_of_what_has_changed_since_is_refused(kube, space):
    """Two that read the same lease: the first write is kept, the second is a conflict and changes nothing."""
    times = {"acquireTime": "2026-01-02T03:04:05.000006Z", "renewTime": "2026-01-02T03:04:05.000006Z"}
    kube.create(lease(space, holderIdentity="a", leaseDurationSeconds=300, leaseTransitions=0, **times))
    where = ("coordination.k8s.io/v1", "Lease", "one")
    seen = kube.get(*where, space)
    assert seen["spec"]["renewTime"] == "2026-01-02T03:04:05.000006Z", "microseconds are kept"
    meta = {"resourceVersion": seen["metadata"]["resourceVersion"]}
    note = {"annotations": {"stackwright.test/number": None, "stackwright.test/other": "2"}}
    after = kube.patch_merge(*where, {"metadata": meta | note, "spec": {"holderIdentity": None}}, space)
    assert "holderIdentity" not in after["spec"], "null takes a field away"
    assert after["metadata"]["annotations"] == {"stackwright.test/other": "2"}
    with pytest.raises(ConflictError) as caught:
        kube.patch_merge(*where, {"metadata": meta, "spec": {"holderIdentity": "b"}}, space)
    assert caught.value.status == 409 and "the object has been modified" in caught.value.seen
    assert kube.get(*where, space) == after


def test_a_patch_of_what_was_made_anew_is_refused(kube, space):
    """An object of the same name is not the one that was seen; one that is gone is not made by a patch."""
    where = ("coordination.k8s.io/v1", "Lease", "one")
    kube.create(lease(space, holderIdentity="a"))
    meta = {"resourceVersion": kube.get(*where, space)["metadata"]["resourceVersion"]}
    kube.delete(*where, space)
    with pytest.raises(NotFoundError):
        kube.patch_merge(*where, {"metadata": meta, "spec": {"holderIdentity": "b"}}, space)
    kube.create(lease(space, holderIdentity="c"))
    with pytest.raises(ConflictError):
        kube.patch_merge(*where, {"metadata": meta, "spec": {"holderIdentity": "b"}}, space)
    assert kube.get(*where, space)["spec"]["holderIdentity"] == "c"


def test_a_field_that_may_not_change_is_refused_in_the_servers_words(kube, space):
    """422 is an error that no retry mends, with the field and the reason as the server gave them."""
    kube.create(config_map(space, immutable=True))
    with pytest.raises(ApiError) as caught:
        kube.patch_merge("v1", "ConfigMap", "one", {"data": {"a": "2"}}, space)
    assert caught.value.status == 422 and not caught.value.transient
    assert 'ConfigMap "one" is invalid' in caught.value.seen
    assert "data: Forbidden: field is immutable when `immutable` is set" in caught.value.seen


def test_a_field_that_does_not_exist_is_refused(kube, space):
    """Server-side apply knows the schema: a typing error in an object does not pass."""
    with pytest.raises(ApiError) as caught:
        kube.apply(config_map(space, dta={"a": "1"}))
    assert ".dta" in caught.value.seen and not caught.value.transient
    assert kube.get("v1", "ConfigMap", "one", space) is None


def test_a_dry_run_does_everything_but_keep_it(kube, space):
    """The answer is what a create would give; what a create would refuse is refused."""
    assert kube.create_dry_run(config_map(space))["metadata"]["uid"]
    assert kube.get("v1", "ConfigMap", "one", space) is None
    with pytest.raises(ApiError) as caught:
        kube.create_dry_run(config_map(space, "Not_A_Name"))
    assert caught.value.status == 422 and "metadata.name" in caught.value.seen
    kube.create(config_map(space))
    with pytest.raises(ConflictError):
        kube.create_dry_run(config_map(space))


def test_a_merge_patch_adds_and_removes(kube, space):
    """null removes a key, what is not named stays; nothing is made where there is nothing."""
    kube.create(config_map(space, data={"a": "1", "b": "2"}))
    after = kube.patch_merge("v1", "ConfigMap", "one", {"data": {"a": None, "c": "3"}}, space)
    assert after["data"] == {"b": "2", "c": "3"}
    with pytest.raises(NotFoundError) as caught:
        kube.patch_merge("v1", "ConfigMap", "none", {"data": {"a": "1"}}, space)
    assert caught.value.status == 404 and 'configmaps "none" not found' in caught.value.seen


def test_deleting_twice_deletes_once(kube, space):
    kube.create(config_map(space))
    assert kube.delete("v1", "ConfigMap", "one", space) is True
    assert kube.get("v1", "ConfigMap", "one", space) is None
    assert kube.delete("v1", "ConfigMap", "one", space) is False


def test_what_has_a_finalizer_lives_on_after_its_delete(kube, space):
    kube.create(config_map(space, meta={"finalizers": ["stackwright.test/hold"]}))
    try:
        assert kube.delete("v1", "ConfigMap", "one", space) is True
        assert kube.get("v1", "ConfigMap", "one", space)["metadata"]["deletionTimestamp"]
    finally:
        kube.patch_merge("v1", "ConfigMap", "one", {"metadata": {"finalizers": None}}, space)
    assert kube.get("v1", "ConfigMap", "one", space) is None


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_a_wait_sees_a_change_by_its_watch(kube, space):
    """The change comes after the first look; one listing is made, the watch brings the rest."""
    kube.create(config_map(space))
    kube.create(config_map(space, "other"))
    looked, seen = threading.Event(), []

    def change():
        if looked.wait(20):
            kube.patch_merge("v1", "ConfigMap", "other", {"data": {"a": "2"}}, space)
            kube.patch_merge("v1", "ConfigMap", "one", {"data": {"a": "2"}}, space)

    def check(objects):
        seen.append([(item["metadata"]["name"], item["data"]["a"]) for item in objects])
        looked.set()
        return next((item for item in objects if item["data"]["a"] == "2"), None)

    helper = threading.Thread(target=change)
    helper.start()
    try:
        found = kube.wait("v1", "ConfigMap", check, ns=space, name="one", timeout_s=20, what="the change")
    finally:
        helper.join()
    assert found["data"] == {"a": "2"}
    assert seen == [[("one", "1")], [("one", "2")]], "the other object is no business of this wait"


def test_a_wait_sees_an_object_come_and_go(kube, space):
    """Selected by label: an object that did not exist at the first look, then its end."""
    acts = iter(
        [
            lambda: kube.create(config_map(space, meta={"labels": {"part": "x"}})),
            lambda: kube.delete("v1", "ConfigMap", "one", space),
        ]
    )
    counts = []

    def check(objects):
        counts.append(len(objects))
        act = next(acts, None)  # one act a look
        if act is None:
            return counts
        act()
        return None

    got = kube.wait("v1", "ConfigMap", check, ns=space, label_selector="part=x", timeout_s=20, what="its end")
    assert got == [0, 1, 0]


def test_a_wait_ends_at_its_deadline_with_what_was_seen(kube, space):
    kube.create(config_map(space))
    started = time.monotonic()
    with pytest.raises(GateTimeoutError) as caught:
        kube.wait("v1", "ConfigMap", lambda objects: None, ns=space, name="one", timeout_s=0.5, what="a wonder")
    assert time.monotonic() - started < 10
    assert caught.value.wanted == "a wonder" and "one" in caught.value.seen


# --- who may, and who answers ----------------------------------------------------------------------------------------


def limited_login(kubeconfig, kube, space):
    """Return the kubeconfig of an account that may read ConfigMaps in one namespace."""
    rbac = "rbac.authorization.k8s.io"
    meta = {"name": "robot", "namespace": space}
    kube.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
    kube.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules})
    whom = {
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "robot"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": space}],
    }
    kube.create({"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": meta, **whom})
    settings = official.Configuration()
    official_config.load_kube_config(str(kubeconfig), client_configuration=settings)
    with official.ApiClient(settings) as raw:
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        made = official.CoreV1Api(raw).create_namespaced_service_account_token("robot", space, asked)
    return with_user(kubeconfig, {"token": made.status.token})


def with_user(kubeconfig, user):
    """Return a kubeconfig's content with another login."""
    content = yaml.safe_load(kubeconfig.read_text())
    current = next(item for item in content["contexts"] if item["name"] == content["current-context"])
    content["users"] = [{"name": current["context"]["user"], "user": user}]
    return content


def test_rights_are_the_servers_own_answer(kubeconfig, kube, space):
    """The administrator may; an account may what its role says, and what it may not is refused with the reason."""
    assert kube.can_i("create", "configmaps", ns=space)
    assert kube.can_i("create", "deployments", group="apps", ns=space)
    robot = Kube(limited_login(kubeconfig, kube, space))
    try:
        poll(lambda: robot.can_i("get", "configmaps", ns=space), "the role's effect")
        assert not robot.can_i("create", "configmaps", ns=space)
        assert not robot.can_i("get", "secrets", ns=space)
        assert not robot.can_i("get", "configmaps", ns="default")
        with pytest.raises(ApiError) as caught:
            robot.create(config_map(space))
    finally:
        robot.close()
    assert caught.value.status == 403 and not caught.value.transient
    assert 'cannot create resource "configmaps"' in caught.value.seen


def test_a_wrong_token_is_refused_without_showing_it(kubeconfig):
    stranger = Kube(with_user(kubeconfig, {"token": PLANTED}))
    try:
        with pytest.raises(ApiError) as caught:
            stranger.get("v1", "ConfigMap", "one", "default")
    finally:
        stranger.close()
    assert caught.value.status == 401 and "kubeconfig" in caught.value.how_to_fix
    assert PLANTED not in str(caught.value)


def test_a_service_that_is_not_there_does_not_answer(kube, space):
    """The caller learns that nobody answered, and does not take the API server's error for the Service's answer."""
    with pytest.raises((NotFoundError, ApiUnavailableError)) as caught:
        kube.service_request(space, "none", 80, "POST", "/x", json_body={"a": 1})
    assert caught.value.status in {404, 503} and f"{space}/none:80" in caught.value.where


def test_a_server_that_cannot_be_reached_is_worth_another_try(closed_port):
    clusters = [{"name": "k", "cluster": {"server": f"https://127.0.0.1:{closed_port}"}}]
    users, contexts = (
        [{"name": "u", "user": {"token": PLANTED}}],
        [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    )
    away = Kube({"current-context": "c", "clusters": clusters, "users": users, "contexts": contexts}, timeout_s=5)
    try:
        for ask in (away.server_version, lambda: away.get("v1", "ConfigMap", "one", "default")):
            with pytest.raises(ApiUnavailableError) as caught:
                ask()
            assert caught.value.transient and str(closed_port) in caught.value.where
            assert PLANTED not in str(caught.value)
    finally:
        away.close()


def test_a_server_with_another_ca_is_not_trusted(kubeconfig):
    """That does not pass by itself, so it is not tried again."""
    content = yaml.safe_load(kubeconfig.read_text())
    other = base64.b64encode(Authority("another CA").certificate.encode()).decode()
    for item in content["clusters"]:
        if not item["cluster"]["server"].startswith("https:"):
            pytest.skip("this API server speaks no TLS")
        for key in ("certificate-authority", "insecure-skip-tls-verify"):
            item["cluster"].pop(key, None)
        item["cluster"]["certificate-authority-data"] = other
    wary = Kube(content)
    try:
        with pytest.raises(ApiError) as caught:
            wary.server_version()
    finally:
        wary.close()
    assert "TLS" in caught.value.what and not caught.value.transient


# --- cordon and eviction ---------------------------------------------------------------------------------------------


@pytest.fixture
def image(kubeconfig):
    """An image whose containers run on, where pods run at all."""
    if kubeconfig == Path(LIVE_KUBECONFIG or "-"):
        if not LIVE_IMAGE:
            pytest.skip("STACKWRIGHT_LIVE_IMAGE is not set")
        return LIVE_IMAGE
    return "pause:1"


def workload(ns, name, image, replicas):
    pod = {"containers": [{"name": "main", "image": image}], "terminationGracePeriodSeconds": 1}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}}
    spec["template"] = {"metadata": {"labels": {"app": name}}, "spec": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": ns}, "spec": spec}


def budget(ns, name, minimum):
    spec = {"minAvailable": minimum, "selector": {"matchLabels": {"app": name}}}
    meta = {"name": name, "namespace": ns}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": spec}


def pods_of(kube, ns, name):
    found = kube.list("v1", "Pod", ns, label_selector=f"app={name}")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def test_an_eviction_asks_the_budget_first(kube, space, image):
    """False while the budget forbids it and nothing happens; True once it allows it, and the pod is made anew."""
    kube.create(workload(space, "web", image, 2))
    kube.create(budget(space, "web", 2))
    poll(lambda: kube.rollout("Deployment", "web", space).ready, "the roll-out")

    def status():
        return kube.get("policy/v1", "PodDisruptionBudget", "web", space).get("status") or {}

    poll(lambda: status().get("currentHealthy") == 2 and status().get("disruptionsAllowed") == 0, "a spent budget")
    pod = pods_of(kube, space, "web")[0]["metadata"]
    assert kube.evict(pod["name"], space) is False
    assert kube.get("v1", "Pod", pod["name"], space)["metadata"].get("deletionTimestamp") is None
    kube.patch_merge("policy/v1", "PodDisruptionBudget", "web", {"spec": {"minAvailable": 1}}, space)
    poll(lambda: status().get("disruptionsAllowed") == 1, "a budget that allows one")
    assert kube.evict(pod["name"], space, uid=pod["uid"]) is True
    poll(lambda: kube.get("v1", "Pod", pod["name"], space) is None, "its end")
    poll(lambda: kube.rollout("Deployment", "web", space).ready and len(pods_of(kube, space, "web")) == 2, "a new pod")
    assert kube.evict(pod["name"], space) is True, "a pod that is gone is evicted"


def test_an_eviction_means_one_pod_and_not_its_successor(kube, space, image):
    """With the uid of another pod nothing is done, and there is nothing left to ask for."""
    kube.create(workload(space, "web", image, 1))
    poll(lambda: kube.rollout("Deployment", "web", space).ready, "the roll-out")
    pod = pods_of(kube, space, "web")[0]["metadata"]
    assert kube.evict(pod["name"], space, uid=str(uuid.uuid4())) is True
    assert kube.get("v1", "Pod", pod["name"], space)["metadata"].get("deletionTimestamp") is None


def test_two_budgets_over_one_pod_are_an_error_that_no_waiting_mends(kube, space, image):
    kube.create(workload(space, "web", image, 1))
    for name in ("one", "two"):
        kube.create({**budget(space, "web", 0), "metadata": {"name": name, "namespace": space}})
    poll(lambda: kube.rollout("Deployment", "web", space).ready, "the roll-out")
    with pytest.raises(ApiError) as caught:
        kube.evict(pods_of(kube, space, "web")[0]["metadata"]["name"], space)
    assert caught.value.status == 500 and not caught.value.transient
    assert "more than one PodDisruptionBudget" in caught.value.seen


def test_a_wait_can_look_at_one_nodes_pods(kube, space, image):
    kube.create(workload(space, "web", image, 2))
    poll(lambda: kube.rollout("Deployment", "web", space).ready, "the roll-out")
    node = pods_of(kube, space, "web")[0]["spec"]["nodeName"]
    want = {pod["metadata"]["name"] for pod in pods_of(kube, space, "web") if pod["spec"]["nodeName"] == node}
    fields = f"spec.nodeName={node}"
    seen = kube.wait("v1", "Pod", lambda pods: pods, ns=space, field_selector=fields, timeout_s=10, what="its pods")
    assert {pod["metadata"]["name"] for pod in seen} == want
    listed = kube.list("v1", "Pod", space, field_selector=fields)
    assert {pod["metadata"]["name"] for pod in listed} == want


def test_a_cordon_shows_as_taint_and_goes_with_it(kube, kubeconfig):
    """On the stand-in alone, unless STACKWRIGHT_LIVE_CORDON names a node of a live cluster that may be cordoned."""
    live = kubeconfig == Path(LIVE_KUBECONFIG or "-")
    if live and not LIVE_CORDON:
        pytest.skip("STACKWRIGHT_LIVE_CORDON is not set")
    name = LIVE_CORDON if live else kube.nodes()[0].name

    def node():
        return next(item for item in kube.nodes() if item.name == name)

    assert node().schedulable
    kube.patch_merge("v1", "Node", name, {"spec": {"unschedulable": True}})
    try:
        poll(lambda: "node.kubernetes.io/unschedulable=:NoSchedule" in node().taints, "the taint")
        assert not node().schedulable
    finally:
        kube.patch_merge("v1", "Node", name, {"spec": {"unschedulable": None}})
    poll(lambda: node().schedulable and not any("unschedulable" in taint for taint in node().taints), "its end")


def test_the_server_says_that_it_is_ready(kube):
    assert kube.readyz() == "ok"
