"""What the flows and helm need of a Kubernetes API server: the stand-in always, a live cluster when one is given."""

from __future__ import annotations

import json
import uuid

import pytest

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"


def config_map(name, data=None, **meta):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **meta}, "data": data or {}}


def deployment(name, image, *, replicas=1, labels=None, **container):
    labels = labels or {"app": name}
    pod = {"containers": [{"name": "main", "image": image, **container}], "terminationGracePeriodSeconds": 1}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}}
    spec["template"] = {"metadata": {"labels": labels}, "spec": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def restricted_pod(name, image, **spec):
    safe = {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    body = {
        "containers": [{"name": "main", "image": image, "securityContext": safe}],
        "terminationGracePeriodSeconds": 1,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {**body, **spec},
    }


# --- discovery -------------------------------------------------------------------------------------------------------


def test_discovery_names_kinds_in_both_forms(kube):
    listed = kube.good("GET", "/apis/apps/v1")
    found = next(item for item in listed["resources"] if item["name"] == "deployments")
    assert found["kind"] == "Deployment" and found["namespaced"] and "deploy" in found["shortNames"]
    everything = kube.good(
        "GET", "/apis", accept="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    )
    assert everything["kind"] == "APIGroupDiscoveryList"
    apps = next(item for item in everything["items"] if item["metadata"]["name"] == "apps")
    resources = {item["resource"]: item for item in apps["versions"][0]["resources"]}
    assert {sub["subresource"] for sub in resources["deployments"]["subresources"]} == {"scale", "status"}


def test_openapi_v3_tells_merge_keys_and_that_the_server_checks_fields(kube):
    """kubectl and helm read both from the document that the index names."""
    index = kube.good("GET", "/openapi/v3")
    path = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
    document = kube.good("GET", path)
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "apps", "version": "v1", "kind": "Deployment"}
    names = [item.get("name") for item in patch["parameters"]]
    assert "fieldValidation" in names
    shapes = document["components"]["schemas"].values()
    lists = [shape["properties"]["containers"] for shape in shapes if "containers" in (shape.get("properties") or {})]
    assert lists[0]["x-kubernetes-list-map-keys"] == ["name"]
    assert lists[0]["x-kubernetes-patch-merge-key"] == "name"


# --- objects ---------------------------------------------------------------------------------------------------------


def test_create_twice_is_already_exists(kube):
    made = kube.good("POST", f"{kube.core}/configmaps", config_map("one", {"a": "1"}))
    assert made["metadata"]["uid"] and made["metadata"]["resourceVersion"] and made["metadata"]["creationTimestamp"]
    again = kube.ask("POST", f"{kube.core}/configmaps", config_map("one"))
    assert (again.status, again.reason) == (409, "AlreadyExists")
    assert again.message == 'configmaps "one" already exists'
    assert again.body["details"] == {"name": "one", "kind": "configmaps"}


def test_what_is_not_there_is_not_found(kube):
    gone = kube.ask("GET", f"{kube.apps}/deployments/none")
    assert (gone.status, gone.reason) == (404, "NotFound")
    assert gone.message == 'deployments.apps "none" not found'
    assert kube.ask("GET", "/apis/none.example.com/v1/things").status == 404


def test_create_in_no_namespace_is_not_found(kube):
    body = config_map("one")
    answer = kube.ask("POST", "/api/v1/namespaces/stackwright-none/configmaps", body)
    assert (answer.status, answer.message) == (404, 'namespaces "stackwright-none" not found')


def test_a_generated_name_starts_as_asked(kube):
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "made-"}}
    first = kube.good("POST", f"{kube.core}/configmaps", body)["metadata"]["name"]
    second = kube.good("POST", f"{kube.core}/configmaps", body)["metadata"]["name"]
    assert first.startswith("made-") and second.startswith("made-") and first != second


def test_an_update_with_an_old_version_is_a_conflict(kube):
    made = kube.good("POST", f"{kube.core}/configmaps", config_map("one", {"a": "1"}))
    kube.good("PUT", f"{kube.core}/configmaps/one", {**made, "data": {"a": "2"}})
    late = kube.ask("PUT", f"{kube.core}/configmaps/one", {**made, "data": {"a": "3"}})
    assert (late.status, late.reason) == (409, "Conflict")
    assert late.message.startswith('Operation cannot be fulfilled on configmaps "one": the object has been modified')


def test_an_update_that_changes_nothing_keeps_the_version(kube):
    made = kube.good("POST", f"{kube.core}/configmaps", config_map("one", {"a": "1"}))
    same = kube.good("PUT", f"{kube.core}/configmaps/one", made)
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_dry_run_keeps_nothing(kube):
    answer = kube.ask("POST", f"{kube.core}/configmaps", config_map("one"), dryRun="All")
    assert answer.status == 201 and answer.body["metadata"]["uid"]
    assert kube.ask("GET", f"{kube.core}/configmaps/one").status == 404


def test_secret_texts_are_kept_encoded(kube):
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "text"}}
    made = kube.good("POST", f"{kube.core}/secrets", body)
    assert made["data"] == {"a": "dGV4dA=="} and made["type"] == "Opaque" and "stringData" not in made


@pytest.mark.parametrize(
    ("path", "body", "field", "reason"),
    [
        ("core/configmaps", config_map("Bad_Name"), "metadata.name", "FieldValueInvalid"),
        ("core/configmaps", config_map("a", labels={"k": "not valid!"}), "metadata.labels", "FieldValueInvalid"),
        ("apps/deployments", deployment("d", "i", labels={"app": "x"}),
         "spec.template.metadata.labels", "FieldValueInvalid"),
        ("apps/deployments", deployment("d", ""), "spec.template.spec.containers[0].image", "FieldValueRequired"),
        ("apps/deployments", deployment("d", "i", volumeMounts=[{"name": "v", "mountPath": "/v"}]),
         "spec.template.spec.containers[0].volumeMounts[0].name", "FieldValueNotFound"),
    ],
)  # fmt: skip
def test_invalid_objects_are_refused_with_the_field(kube, path, body, field, reason):
    root, plural = path.split("/")
    answer = kube.ask("POST", f"{getattr(kube, root)}/{plural}", body)
    assert (answer.status, answer.reason) == (422, "Invalid"), answer.body
    assert {"reason": reason, "field": field} in [{k: c.get(k) for k in ("reason", "field")} for c in answer.causes]


def test_a_wrong_type_is_a_bad_request(kube):
    body = deployment("d", "i", env=[{"name": "A", "value": 1}])
    answer = kube.ask("POST", f"{kube.apps}/deployments", body)
    assert (answer.status, answer.reason) == (400, "BadRequest")
    assert (
        "cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value" in answer.message
    )


def test_unknown_fields_warn_or_are_refused(kube):
    body = {**config_map("one"), "spec": {"x": 1}}
    strict = kube.ask("POST", f"{kube.core}/configmaps", body, fieldValidation="Strict")
    assert strict.status == 400 and 'strict decoding error: unknown field "spec"' in strict.message
    warned = kube.ask("POST", f"{kube.core}/configmaps", body)
    assert warned.status == 201 and "spec" not in warned.body
    assert 'unknown field \\"spec\\"' in warned.headers["Warning"]


def test_a_selector_is_immutable(kube):
    made = kube.good("POST", f"{kube.apps}/deployments", deployment("d", kube.image, replicas=0))
    made["spec"]["selector"]["matchLabels"] = {"app": "other"}
    made["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    made["metadata"].pop("resourceVersion")
    answer = kube.ask("PUT", f"{kube.apps}/deployments/d", made)
    assert answer.status == 422 and "spec.selector" in answer.message and "field is immutable" in answer.message


def test_a_lease_is_changed_only_by_who_has_seen_it(kube):
    """A replacement names the version that it replaces, and that must be the newest; so must a patch that names one."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{kube.space}/leases"
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}}
    made = kube.good("POST", path, {**body, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}})
    blind = kube.ask("PUT", f"{path}/l", {**body, "spec": {"holderIdentity": "b"}})
    assert (blind.status, blind.reason) == (422, "Invalid")
    assert "metadata.resourceVersion" in blind.message and "must be specified for an update" in blind.message
    made["spec"]["holderIdentity"] = "b"
    taken = kube.good("PUT", f"{path}/l", made)
    stale = kube.ask("PUT", f"{path}/l", {**made, "spec": {"holderIdentity": "c"}})
    assert (stale.status, stale.reason) == (409, "Conflict") and "the object has been modified" in stale.message
    old = {"resourceVersion": made["metadata"]["resourceVersion"]}
    patched = kube.ask("PATCH", f"{path}/l", {"metadata": old, "spec": {"holderIdentity": "c"}}, content=MERGE)
    assert (patched.status, patched.reason) == (409, "Conflict")
    assert kube.good("GET", f"{path}/l") == taken


def test_a_lease_lasts_for_some_time(kube):
    path = f"/apis/coordination.k8s.io/v1/namespaces/{kube.space}/leases"
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}}
    answer = kube.ask("POST", path, {**body, "spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}})
    assert answer.status == 422
    assert {cause["field"] for cause in answer.causes} == {"spec.leaseDurationSeconds", "spec.leaseTransitions"}
    wrong = kube.ask("POST", path, {**body, "spec": {"renewTime": "2026-01-02"}})
    assert wrong.status == 400, "a time is a time with microseconds"


def test_the_generation_counts_wishes_not_status(kube):
    made = kube.good("POST", f"{kube.apps}/deployments", deployment("d", kube.image, replicas=0))
    assert made["metadata"]["generation"] == 1
    labelled = kube.good("PATCH", f"{kube.apps}/deployments/d", {"metadata": {"labels": {"a": "b"}}}, content=MERGE)
    assert labelled["metadata"]["generation"] == 1
    changed = kube.good("PATCH", f"{kube.apps}/deployments/d", {"spec": {"minReadySeconds": 1}}, content=MERGE)
    assert changed["metadata"]["generation"] == 2


def test_a_service_keeps_its_address(kube):
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    made = kube.good("POST", f"{kube.core}/services", body)
    assert made["spec"]["type"] == "ClusterIP" and made["spec"]["ports"][0]["targetPort"] == 80
    address = made["spec"]["clusterIP"]
    assert address
    again = kube.good("PUT", f"{kube.core}/services/s", {**body, "metadata": {"name": "s"}})
    assert again["spec"]["clusterIP"] == address


# --- patches ---------------------------------------------------------------------------------------------------------


def test_merge_patch_removes_with_null(kube):
    kube.good("POST", f"{kube.core}/configmaps", config_map("one", {"a": "1", "b": "2"}))
    made = kube.good("PATCH", f"{kube.core}/configmaps/one", {"data": {"a": None, "c": "3"}}, content=MERGE)
    assert made["data"] == {"b": "2", "c": "3"}


def test_json_patch_that_does_not_fit_is_refused(kube):
    kube.good("POST", f"{kube.core}/configmaps", config_map("one", {"a": "1"}))
    patch = [{"op": "test", "path": "/data/a", "value": "2"}, {"op": "replace", "path": "/data/a", "value": "3"}]
    assert kube.ask("PATCH", f"{kube.core}/configmaps/one", patch, content=JSON_PATCH).status == 422
    made = kube.good("PATCH", f"{kube.core}/configmaps/one", [{**patch[1], "op": "add"}], content=JSON_PATCH)
    assert made["data"] == {"a": "3"}


def test_strategic_patch_merges_containers_and_their_variables(kube):
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    kube.good("POST", f"{kube.apps}/deployments", deployment("d", kube.image, replicas=0, env=env))
    change = {"name": "main", "env": [{"name": "B", "value": "3"}, {"name": "A", "$patch": "delete"}]}
    patch = {"spec": {"template": {"spec": {"containers": [change]}}}}
    made = kube.good("PATCH", f"{kube.apps}/deployments/d", patch, content=STRATEGIC)
    container = made["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == kube.image and container["env"] == [{"name": "B", "value": "3"}]


def test_an_unknown_patch_type_is_refused(kube):
    kube.good("POST", f"{kube.core}/configmaps", config_map("one"))
    answer = kube.ask("PATCH", f"{kube.core}/configmaps/one", {}, content="application/json")
    assert (answer.status, answer.reason) == (415, "UnsupportedMediaType")


# --- server-side apply -----------------------------------------------------------------------------------------------


def test_apply_again_changes_nothing(kube):
    path = f"{kube.core}/configmaps/one"
    first = kube.apply(path, config_map("one", {"a": "1"}))
    assert first.status == 201
    second = kube.apply(path, config_map("one", {"a": "1"}))
    assert second.status == 200
    assert second.body["metadata"]["resourceVersion"] == first.body["metadata"]["resourceVersion"]
    entry = first.body["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["operation"]) == ("one", "Apply")
    assert entry["fieldsV1"] == {"f:data": {"f:a": {}}}


def test_apply_takes_away_what_the_manager_gave_up_and_nobody_else_holds(kube):
    path = f"{kube.core}/configmaps/one"
    kube.apply(path, config_map("one", {"a": "1", "b": "2", "c": "3"}))
    kube.apply(path, config_map("one", {"b": "2"}), manager="two")
    made = kube.apply(path, config_map("one", {"a": "1"})).body
    assert made["data"] == {"a": "1", "b": "2"}


def test_apply_refuses_another_owners_field_until_forced(kube):
    path = f"{kube.core}/configmaps/one"
    kube.apply(path, config_map("one", {"a": "1"}))
    clash = kube.apply(path, config_map("one", {"a": "2"}), manager="two")
    assert (clash.status, clash.reason) == (409, "Conflict")
    assert clash.message == 'Apply failed with 1 conflict: conflict with "one": .data.a'
    assert clash.causes == [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.a"}]
    forced = kube.apply(path, config_map("one", {"a": "2"}), manager="two", force=True).body
    assert forced["data"] == {"a": "2"}
    assert [entry["manager"] for entry in forced["metadata"]["managedFields"]] == ["two"]


def test_apply_refuses_a_field_changed_by_an_update(kube):
    path = f"{kube.apps}/deployments/d"
    kube.apply(path, deployment("d", kube.image, replicas=0))
    kube.good("PATCH", path, {"spec": {"replicas": 0, "minReadySeconds": 3}}, content=MERGE, fieldManager="hand")
    body = deployment("d", kube.image, replicas=0)
    body["spec"]["minReadySeconds"] = 5
    clash = kube.apply(path, body)
    assert clash.status == 409 and 'conflict with "hand" using apps/v1: .spec.minReadySeconds' in clash.message
    assert [cause["field"] for cause in clash.causes] == [".spec.minReadySeconds"]


def test_apply_merges_lists_by_key(kube):
    path = f"{kube.apps}/deployments/d"
    one = deployment("d", kube.image, replicas=0, env=[{"name": "A", "value": "1"}])
    kube.apply(path, one)
    two = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    env = [{"name": "B", "value": "2"}]
    two["spec"] = {"template": {"spec": {"containers": [{"name": "main", "env": env}]}}}
    made = kube.apply(path, two, manager="two").body
    assert [item["name"] for item in made["spec"]["template"]["spec"]["containers"][0]["env"]] == ["A", "B"]
    two["spec"]["template"]["spec"]["containers"][0]["env"] = []
    made = kube.apply(path, two, manager="two").body
    assert [item["name"] for item in made["spec"]["template"]["spec"]["containers"][0]["env"]] == ["A"]


def test_apply_of_an_unknown_field_is_refused(kube):
    body = {**config_map("one"), "spec": {"x": 1}}
    answer = kube.apply(f"{kube.core}/configmaps/one", body)
    assert answer.status == 500 and ".spec: field not declared in schema" in answer.message


# --- lists and watches -----------------------------------------------------------------------------------------------


def test_selectors_choose(kube):
    for name, tier in (("a", "web"), ("b", "db"), ("c", "web")):
        kube.good("POST", f"{kube.core}/configmaps", config_map(name, labels={"tier": tier}))

    def names(**query):
        items = kube.good("GET", f"{kube.core}/configmaps", **query)["items"]
        return [item["metadata"]["name"] for item in items if item["metadata"]["name"] != "kube-root-ca.crt"]

    assert names(labelSelector="tier=web") == ["a", "c"]
    assert names(labelSelector="tier in (db, cache)") == ["b"]
    assert names(labelSelector="tier,tier!=db") == ["a", "c"]
    assert names(fieldSelector="metadata.name=b") == ["b"]
    wrong = kube.ask("GET", f"{kube.core}/configmaps", fieldSelector="spec.x=1")
    assert wrong.status == 400 and "field label not supported: spec.x" in wrong.message


def test_pages_hold_everything_once(kube):
    for index in range(5):
        kube.good(
            "POST", f"{kube.core}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"s{index}"}}
        )
    names, token = [], ""
    while True:
        page = kube.good("GET", f"{kube.core}/secrets", limit=2, **({"continue": token} if token else {}))
        assert len(page["items"]) <= 2
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
        if not token:
            break
    assert names == [f"s{index}" for index in range(5)]


def events_of(kube, path, count, **query):
    """Watch until so many events came."""
    answer = kube.ask("GET", path, raw=True, watch="1", timeoutSeconds=20, **query)
    found, rest = [], b""
    for chunk in answer.stream(1024):
        *lines, rest = (rest + chunk).split(b"\n")
        found += [json.loads(line) for line in lines if line.strip()]
        if len(found) >= count:
            break
    answer.close()
    return found[:count]


def test_a_watch_resumes_from_a_version(kube):
    start = kube.good("GET", f"{kube.core}/secrets")["metadata"]["resourceVersion"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"a": "b"}}}
    kube.good("POST", f"{kube.core}/secrets", secret)
    kube.good("PATCH", f"{kube.core}/secrets/s", {"data": {"k": "dg=="}}, content=MERGE)
    kube.good("DELETE", f"{kube.core}/secrets/s")
    found = events_of(kube, f"{kube.core}/secrets", 3, resourceVersion=start)
    assert [event["type"] for event in found] == ["ADDED", "MODIFIED", "DELETED"]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in found]
    assert versions == sorted(set(versions))


def test_a_watch_by_label_sees_objects_come_into_sight_and_leave_it(kube):
    start = kube.good("GET", f"{kube.core}/secrets")["metadata"]["resourceVersion"]
    kube.good("POST", f"{kube.core}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
    for value in ("b", None):
        kube.good("PATCH", f"{kube.core}/secrets/s", {"metadata": {"labels": {"a": value}}}, content=MERGE)
    found = events_of(kube, f"{kube.core}/secrets", 2, resourceVersion=start, labelSelector="a=b")
    assert [event["type"] for event in found] == ["ADDED", "DELETED"]


def test_a_streamed_list_ends_with_a_bookmark(kube):
    """client-go's informers, and so helm 4's watcher, read lists this way."""
    kube.good("POST", f"{kube.core}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
    found = events_of(kube, f"{kube.core}/secrets", 2, sendInitialEvents="true", allowWatchBookmarks="true",
                      resourceVersionMatch="NotOlderThan")  # fmt: skip
    assert [event["type"] for event in found] == ["ADDED", "BOOKMARK"]
    assert found[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"


# --- endings ---------------------------------------------------------------------------------------------------------


def test_a_finalizer_holds_an_object_back(kube):
    kube.good("POST", f"{kube.core}/configmaps", config_map("one", finalizers=["stackwright.test/hold"]))
    kube.good("DELETE", f"{kube.core}/configmaps/one")
    held = kube.good("GET", f"{kube.core}/configmaps/one")
    assert held["metadata"]["deletionTimestamp"]
    kube.good("PATCH", f"{kube.core}/configmaps/one", {"metadata": {"finalizers": None}}, content=MERGE)
    assert kube.ask("GET", f"{kube.core}/configmaps/one").status == 404


def test_a_delete_for_another_uid_is_a_conflict(kube):
    kube.good("POST", f"{kube.core}/configmaps", config_map("one"))
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": str(uuid.uuid4())}}
    answer = kube.ask("DELETE", f"{kube.core}/configmaps/one", options)
    assert (answer.status, answer.reason) == (409, "Conflict")


@pytest.mark.parametrize("policy", ["Background", "Foreground", "Orphan"])
def test_dependents_follow_their_owner(kube_controllers, policy):
    kube = kube_controllers
    owner = kube.good("POST", f"{kube.core}/configmaps", config_map("owner"))
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    kube.good("POST", f"{kube.core}/configmaps", config_map("below", ownerReferences=[reference]))
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
    kube.good("DELETE", f"{kube.core}/configmaps/owner", options)
    kube.until(lambda: kube.ask("GET", f"{kube.core}/configmaps/owner").status == 404, "the owner's end")
    if policy == "Orphan":
        left = kube.until(
            lambda: (
                (found := kube.good("GET", f"{kube.core}/configmaps/below"))["metadata"].get("ownerReferences") is None
                and found
            )
        )
        assert left["metadata"]["name"] == "below"
    else:
        kube.until(lambda: kube.ask("GET", f"{kube.core}/configmaps/below").status == 404, "the dependent's end")


def test_a_namespace_takes_its_content_along_and_takes_no_more(kube_controllers):
    kube = kube_controllers
    space = kube.namespace()
    body = config_map("held", finalizers=["stackwright.test/hold"])
    kube.good("POST", f"/api/v1/namespaces/{space}/configmaps", body)
    kube.good("DELETE", f"/api/v1/namespaces/{space}")
    assert kube.good("GET", f"/api/v1/namespaces/{space}")["status"]["phase"] == "Terminating"
    late = kube.ask("POST", f"/api/v1/namespaces/{space}/configmaps", config_map("late"))
    assert (late.status, late.reason) == (403, "Forbidden")
    assert late.causes[0]["reason"] == "NamespaceTerminating"
    kube.good("PATCH", f"/api/v1/namespaces/{space}/configmaps/held", {"metadata": {"finalizers": None}}, content=MERGE)
    kube.until(lambda: kube.ask("GET", f"/api/v1/namespaces/{space}").status == 404, "the namespace's end")


# --- custom kinds ----------------------------------------------------------------------------------------------------


@pytest.fixture
def widgets(kube):
    """A custom kind of the test's own; its root path."""
    group = f"t{uuid.uuid4().hex[:8]}.stackwright.test"
    spec = {
        "type": "object", "required": ["size"],
        "properties": {
            "size": {"type": "integer", "minimum": 1}, "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                      "items": {"type": "object", "required": ["name"],
                                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}}},
        },
    }  # fmt: skip
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}}
    version["schema"] = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}}
    names = {
        "kind": "Widget",
        "plural": "widgets",
        "singular": "widget",
        "listKind": "WidgetList",
        "shortNames": ["wgt"],
    }
    body = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"widgets.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }  # fmt: skip
    root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    kube.good("POST", root, body)
    kube.made.append(f"{root}/widgets.{group}")

    def established():
        conditions = kube.good("GET", f"{root}/widgets.{group}").get("status", {}).get("conditions") or ()
        return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)

    kube.until(established, "the kind's acceptance")
    path = f"/apis/{group}/v1/namespaces/{kube.space}/widgets"
    kube.until(lambda: kube.ask("GET", path).status == 200, "the kind's service")
    return group, path


def widget(group, name, **spec):
    return {"apiVersion": f"{group}/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


def test_custom_objects_are_defaulted_pruned_and_checked(kube, widgets):
    group, path = widgets
    made = kube.good("POST", path, {**widget(group, "w", size=2, more=1), "status": {"x": 1}})
    assert made["spec"] == {"size": 2, "mode": "a"} and "status" not in made and made["metadata"]["generation"] == 1
    wrong = kube.ask("POST", path, widget(group, "v", size=0, mode="c"))
    assert (wrong.status, wrong.reason) == (422, "Invalid")
    assert {cause["field"] for cause in wrong.causes} == {"spec.size", "spec.mode"}
    missing = kube.ask("POST", path, widget(group, "v", mode="a"))
    assert missing.status == 422 and missing.causes[0]["reason"] == "FieldValueRequired"


def test_a_custom_objects_status_is_a_door_of_its_own(kube, widgets):
    group, path = widgets
    kube.good("POST", path, widget(group, "w", size=2))
    patch = {"spec": {"size": 5}, "status": {"ready": True}}
    made = kube.good("PATCH", f"{path}/w/status", patch, content=MERGE)
    assert made["status"] == {"ready": True} and made["spec"]["size"] == 2 and made["metadata"]["generation"] == 1
    made = kube.good("PATCH", f"{path}/w", {"spec": {"size": 5}, "status": {"ready": False}}, content=MERGE)
    assert made["status"] == {"ready": True} and made["spec"]["size"] == 5 and made["metadata"]["generation"] == 2


def test_custom_lists_by_key_are_applied_by_key(kube, widgets):
    group, path = widgets
    kube.apply(f"{path}/w", widget(group, "w", size=1, parts=[{"name": "a", "count": 1}]))
    made = kube.apply(f"{path}/w", widget(group, "w", size=1, parts=[{"name": "b"}]), manager="two").body
    assert made["spec"]["parts"] == [{"name": "a", "count": 1}, {"name": "b"}]


def test_strategic_patches_are_not_for_custom_kinds(kube, widgets):
    group, path = widgets
    kube.good("POST", path, widget(group, "w", size=2))
    answer = kube.ask("PATCH", f"{path}/w", {"spec": {"size": 3}}, content=STRATEGIC)
    assert (answer.status, answer.reason) == (415, "UnsupportedMediaType")


def test_a_definitions_end_ends_its_objects(kube, widgets):
    group, path = widgets
    kube.good("POST", path, widget(group, "w", size=2))
    root = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.{group}"
    kube.good("DELETE", root)
    kube.until(lambda: kube.ask("GET", root).status == 404, "the definition's end")
    kube.until(lambda: kube.ask("GET", path).status == 404, "the kind's end")


# --- limits and rights -----------------------------------------------------------------------------------------------


def test_a_quota_refuses_what_is_too_much(kube_controllers):
    kube = kube_controllers
    hard = {"count/configmaps": "3", "pods": "1", "requests.cpu": "1"}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}}
    kube.good("POST", f"{kube.core}/resourcequotas", body)
    kube.until(
        lambda: "used" in kube.good("GET", f"{kube.core}/resourcequotas/q").get("status", {}), "the quota's status"
    )
    unnamed = kube.ask("POST", f"{kube.core}/pods", restricted_pod("p", kube.image))
    assert unnamed.status == 403 and "failed quota: q: must specify requests.cpu for: main" in unnamed.message
    pod = restricted_pod("p", kube.image)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "2"}}
    large = kube.ask("POST", f"{kube.core}/pods", pod)
    assert (large.status, large.reason) == (403, "Forbidden")
    assert large.message == (
        'pods "p" is forbidden: exceeded quota: q, requested: requests.cpu=2, used: requests.cpu=0, '
        "limited: requests.cpu=1"
    )
    there = len(kube.good("GET", f"{kube.core}/configmaps")["items"])
    for index in range(3 - there):
        kube.good("POST", f"{kube.core}/configmaps", config_map(f"c{index}"))
    kube.until(
        lambda: kube.ask("POST", f"{kube.core}/configmaps", config_map("c"), dryRun="All").status == 403,
        "the quota's refusal",
    )
    kube.until(
        lambda: kube.good("GET", f"{kube.core}/resourcequotas/q")["status"]["used"]["count/configmaps"] == "3",
        "the count",
    )


def test_limits_fill_in_and_refuse(kube_controllers):
    kube = kube_controllers
    limit = {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [limit]}}
    kube.good("POST", f"{kube.core}/limitranges", body)
    made = kube.good("POST", f"{kube.core}/pods", restricted_pod("p", kube.image))
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}
    pod = restricted_pod("q", kube.image)
    pod["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "2"}}
    answer = kube.ask("POST", f"{kube.core}/pods", pod)
    assert answer.status == 403 and "maximum cpu usage per Container is 1, but limit is 2" in answer.message


def test_pod_security_refuses_by_level(kube_controllers):
    kube = kube_controllers
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.good("PATCH", f"/api/v1/namespaces/{kube.space}", {"metadata": {"labels": labels}}, content=MERGE)
    pod = restricted_pod("p", kube.image)
    del pod["spec"]["containers"][0]["securityContext"]
    answer = kube.until(
        lambda: (found := kube.ask("POST", f"{kube.core}/pods", pod, dryRun="All")).status == 403 and found,
        "the refusal",
    )
    assert answer.message == (
        'pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
        '(container "main" must set securityContext.allowPrivilegeEscalation=false), '
        'unrestricted capabilities (container "main" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or container "main" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "main" must set '
        'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    )
    assert kube.ask("POST", f"{kube.core}/pods", restricted_pod("p", kube.image), dryRun="All").status == 201


def test_a_wrong_token_is_not_let_in(kube):
    answer = kube.ask("GET", f"{kube.core}/configmaps", token="wrong.token")
    assert (answer.status, answer.message) == (401, "Unauthorized")


def test_a_service_account_may_do_what_its_role_says(kube):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    kube.good("POST", f"{kube.core}/serviceaccounts", account)
    root = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{kube.space}"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "rules": [rule]}
    kube.good("POST", f"{root}/roles", role)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": kube.space}],
    }  # fmt: skip
    kube.good("POST", f"{root}/rolebindings", binding)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    token = kube.good("POST", f"{kube.core}/serviceaccounts/robot/token", request)["status"]["token"]
    kube.until(lambda: kube.ask("GET", f"{kube.core}/configmaps", token=token).status == 200, "the role's effect")
    refused = kube.ask("POST", f"{kube.core}/configmaps", config_map("one"), token=token)
    who = f"system:serviceaccount:{kube.space}:robot"
    assert (refused.status, refused.reason) == (403, "Forbidden")
    assert refused.message == (
        f'configmaps is forbidden: User "{who}" cannot create resource "configmaps" in API group "" '
        f'in the namespace "{kube.space}"'
    )
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    for verb, good in (("get", True), ("delete", False)):
        asked = {"verb": verb, "resource": "configmaps", "namespace": kube.space}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = kube.good("POST", path, {**review, "spec": {"resourceAttributes": asked}}, token=token)
        assert answer["status"]["allowed"] is good


# --- what runs -------------------------------------------------------------------------------------------------------


def rolled_out(kube, name, want):
    """Tell whether a Deployment is as its gate demands."""
    found = kube.good("GET", f"{kube.apps}/deployments/{name}")
    status = found.get("status") or {}
    counts = {status.get(key) for key in ("replicas", "updatedReplicas", "availableReplicas")}
    return status.get("observedGeneration", 0) >= found["metadata"]["generation"] and counts == {want} and found


def test_a_deployment_rolls_out_and_serves(kube_nodes):
    kube = kube_nodes
    kube.good("POST", f"{kube.apps}/deployments", deployment("d", kube.image, replicas=2))
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "d"},
        "spec": {"selector": {"app": "d"}, "ports": [{"port": 80}]},
    }
    kube.good("POST", f"{kube.core}/services", body)
    found = kube.until(lambda: rolled_out(kube, "d", 2), "the roll-out")
    conditions = {item["type"]: (item["status"], item["reason"]) for item in found["status"]["conditions"]}
    assert conditions["Progressing"] == ("True", "NewReplicaSetAvailable")
    assert conditions["Available"] == ("True", "MinimumReplicasAvailable")

    def addresses():
        subsets = kube.good("GET", f"{kube.core}/endpoints/d").get("subsets") or [{}]
        return len(subsets[0].get("addresses") or ())

    kube.until(lambda: addresses() == 2, "the endpoints")
    kube.good("PATCH", f"{kube.apps}/deployments/d/scale", {"spec": {"replicas": 1}}, content=MERGE)
    kube.until(lambda: rolled_out(kube, "d", 1), "the smaller size")


def test_a_change_of_template_replaces_pods_and_the_old_set_ends_empty(kube_nodes):
    kube = kube_nodes
    kube.good("POST", f"{kube.apps}/deployments", deployment("d", kube.image, replicas=2))
    kube.until(lambda: rolled_out(kube, "d", 2), "the roll-out")
    patch = {"spec": {"template": {"metadata": {"annotations": {"turn": "2"}}}}}
    kube.good("PATCH", f"{kube.apps}/deployments/d", patch, content=STRATEGIC)
    kube.until(lambda: rolled_out(kube, "d", 2), "the second roll-out")
    sets = kube.good("GET", f"{kube.apps}/replicasets", labelSelector="app=d")["items"]
    assert sorted(item["spec"]["replicas"] for item in sets) == [0, 2]


def test_an_eviction_that_breaks_a_budget_is_refused(kube_nodes):
    kube = kube_nodes
    kube.good("POST", f"{kube.apps}/deployments", deployment("d", kube.image, replicas=1))
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "d"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "d"}}},
    }  # fmt: skip
    path = f"/apis/policy/v1/namespaces/{kube.space}/poddisruptionbudgets"
    kube.good("POST", path, budget)
    kube.until(lambda: rolled_out(kube, "d", 1), "the roll-out")
    kube.until(
        lambda: kube.good("GET", f"{path}/d").get("status", {}).get("currentHealthy") == 1, "the budget's status"
    )
    name = kube.good("GET", f"{kube.core}/pods", labelSelector="app=d")["items"][0]["metadata"]["name"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": kube.space}}
    refused = kube.ask("POST", f"{kube.core}/pods/{name}/eviction", body)
    assert (refused.status, refused.reason) == (429, "TooManyRequests")
    assert refused.causes[0]["reason"] == "DisruptionBudget"
    assert "The disruption budget d needs 1 healthy pods and has 1 currently" in refused.causes[0]["message"]
    kube.good("DELETE", f"{path}/d")
    kube.good("POST", f"{kube.core}/pods/{name}/eviction", body)
    kube.until(lambda: kube.ask("GET", f"{kube.core}/pods/{name}").status == 404, "the pod's end")


def test_a_pod_that_is_not_ready_costs_its_budget_nothing_where_the_policy_says_so(kube_nodes):
    """AlwaysAllow lets a broken pod go, though the budget is spent; without it the eviction is refused."""
    kube = kube_nodes
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1}
    kube.good("POST", f"{kube.apps}/deployments", deployment("d", kube.image, replicas=1, readinessProbe=probe))
    path = f"/apis/policy/v1/namespaces/{kube.space}/poddisruptionbudgets"
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "d"}}}
    kube.good("POST", path, {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "d"},
                             "spec": spec})  # fmt: skip

    def running():
        pods = kube.good("GET", f"{kube.core}/pods", labelSelector="app=d")["items"]
        return [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]

    pod = kube.until(running, "a running pod")[0]["metadata"]["name"]
    kube.until(lambda: (kube.good("GET", f"{path}/d").get("status") or {}).get("expectedPods") == 1, "the budget")
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": kube.space}}
    refused = kube.ask("POST", f"{kube.core}/pods/{pod}/eviction", eviction)
    assert (refused.status, refused.causes[0]["reason"]) == (429, "DisruptionBudget")
    kube.good("PATCH", f"{path}/d", {"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}, content=MERGE)
    kube.good("POST", f"{kube.core}/pods/{pod}/eviction", eviction)


def test_an_eviction_for_another_uid_is_a_conflict(kube_nodes):
    kube = kube_nodes
    kube.good("POST", f"{kube.core}/pods", restricted_pod("p", kube.image))
    body = {
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": kube.space},
        "deleteOptions": {"preconditions": {"uid": str(uuid.uuid4())}},
    }  # fmt: skip
    refused = kube.ask("POST", f"{kube.core}/pods/p/eviction", body)
    assert (refused.status, refused.reason) == (409, "Conflict")
    assert kube.ask("GET", f"{kube.core}/pods/p").status == 200


def test_daemons_are_matched_by_the_hash_of_their_revision(kube_nodes):
    """The newest revision's label is what current pods carry, also when an older template comes back."""
    kube = kube_nodes
    body = deployment("d", kube.image)
    body["kind"] = "DaemonSet"
    del body["spec"]["replicas"]
    body["spec"]["template"]["metadata"]["annotations"] = {"turn": "1"}
    kube.good("POST", f"{kube.apps}/daemonsets", body)

    def settled(turn):
        owned = [item for item in kube.good("GET", f"{kube.apps}/controllerrevisions")["items"]
                 if item["metadata"]["ownerReferences"][0]["name"] == "d"]  # fmt: skip
        pods = kube.good("GET", f"{kube.core}/pods", labelSelector="app=d")["items"]
        if not owned or not pods:
            return None
        newest = max(owned, key=lambda item: item["revision"])["metadata"]["labels"]["controller-revision-hash"]
        marks = {pod["metadata"]["labels"]["controller-revision-hash"] for pod in pods}
        turns = {(pod["metadata"].get("annotations") or {}).get("turn") for pod in pods}
        return newest if marks == {newest} and turns == {turn} else None

    first = kube.until(lambda: settled("1"), "the first pods")
    for turn in ("2", "1"):
        patch = {"spec": {"template": {"metadata": {"annotations": {"turn": turn}}}}}
        kube.good("PATCH", f"{kube.apps}/daemonsets/d", patch, content=MERGE)
        last = kube.until(lambda turn=turn: settled(turn), f"the pods of turn {turn}")
    assert last == first


def test_a_service_without_ready_pods_cannot_be_reached(kube):
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"selector": {"app": "none"}, "ports": [{"port": 80}]},
    }
    kube.good("POST", f"{kube.core}/services", body)
    answer = kube.ask("GET", f"{kube.core}/services/s:80/proxy/")
    assert (answer.status, answer.reason) == (503, "ServiceUnavailable")
    assert 'no endpoints available for service "s' in answer.message
    assert kube.ask("GET", f"{kube.core}/services/none:80/proxy/").status in {404, 503}
