"""Real kubectl and the official Python client against the stand-in."""

from __future__ import annotations

import json
import threading

import pytest
import yaml
from kubernetes import client, config, watch

from stackwright.lab.kube.alone import ready_node

NAMES = iter(range(1000))


@pytest.fixture
def space(driver):
    name = f"space-{next(NAMES)}"
    driver.kubectl("create", "namespace", name)
    driver.until(
        lambda: driver.cluster.do(lambda: driver.cluster.state.get("ServiceAccount", name, "default")), "the account"
    )
    return name


def deployment(name, **spec):
    pod = {"containers": [{"name": "main", "image": "busybox:1"}]}
    body = {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {**body, **spec}}


def apply(driver, space, body, *more, ok=True):
    return driver.kubectl("apply", "-n", space, *more, "-f", "-", stdin=yaml.safe_dump(body), ok=ok)


def test_apply_is_recorded_once_and_is_unchanged_the_second_time(driver, space):
    driver.journal.clear()
    assert "created" in apply(driver, space, deployment("d")).stdout
    assert "unchanged" in apply(driver, space, deployment("d")).stdout
    assert driver.journal == [("kube", f"kubectl:Deployment/{space}/d", "create")]
    assert "configured" in apply(driver, space, deployment("d", replicas=2)).stdout
    driver.kubectl("rollout", "status", "deploy/d", "-n", space, "--timeout=20s")


def test_server_side_apply_takes_over_from_client_side(driver, space):
    apply(driver, space, deployment("d", replicas=2))
    assert "serverside-applied" in apply(driver, space, deployment("d", replicas=3), "--server-side").stdout
    found = driver.get("deploy", "d", space)
    assert found["spec"]["replicas"] == 3


def test_label_annotate_and_wait(driver, space):
    apply(driver, space, deployment("d"))
    assert "labeled" in driver.kubectl("label", "deploy/d", "a=b", "-n", space).stdout
    assert "not labeled" in driver.kubectl("label", "deploy/d", "a=b", "-n", space).stdout
    assert "annotated" in driver.kubectl("annotate", "deploy/d", "note=1", "-n", space).stdout
    driver.kubectl("wait", "deploy/d", "--for=condition=Available", "-n", space, "--timeout=20s")
    driver.kubectl("delete", "deploy/d", "-n", space, "--wait", "--timeout=20s")
    assert "NotFound" in driver.kubectl("get", "deploy/d", "-n", space, ok=False).stderr


def test_unknown_fields_are_refused_by_the_server(driver, space):
    body = deployment("d")
    body["spec"]["replica"] = 1
    refused = apply(driver, space, body, ok=False)
    assert 'strict decoding error: unknown field "spec.replica"' in refused.stderr


def test_jobs_succeed_or_fail_and_say_so(driver, space):
    driver.cluster.state.failing_jobs.add(f"{space}/wrong")
    for name, want in (("right", "complete"), ("wrong", "failed")):
        pod = {"restartPolicy": "Never", "containers": [{"name": "j", "image": "busybox:1"}]}
        body = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}},
        }
        apply(driver, space, body)
        driver.kubectl("wait", f"job/{name}", f"--for=condition={want}", "-n", space, "--timeout=20s")


def test_a_cordoned_node_takes_no_pods_and_drains(driver, space):
    state = driver.cluster.state
    driver.cluster.do(lambda: state.put(ready_node("spare", **{"lab.test/only": "1"})))
    pod = {"containers": [{"name": "main", "image": "i", "resources": {"limits": {"lab.test/only": "1"}}}]}
    body = deployment("d")
    body["spec"]["template"]["spec"] = pod
    apply(driver, space, body)
    driver.kubectl("rollout", "status", "deploy/d", "-n", space, "--timeout=20s")
    driver.kubectl("drain", "spare", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=20s", "--force")

    def pending():
        pods = driver.cluster.do(lambda: state.objects("Pod", space))
        waiting = [p for p in pods if p["status"]["phase"] == "Pending" and p["status"].get("conditions")]
        return waiting and waiting[0]["status"]["conditions"][0]

    found = driver.until(pending, "the pod that waits")
    assert (
        found["reason"] == "Unschedulable"
        and "untolerated taint {node.kubernetes.io/unschedulable: }" in found["message"]
    )
    driver.kubectl("uncordon", "spare")
    driver.kubectl("rollout", "status", "deploy/d", "-n", space, "--timeout=20s")
    driver.cluster.do(lambda: state.delete("Node", "", "spare"))


def test_pods_on_a_lost_node_are_not_ready(driver, space):
    state = driver.cluster.state
    driver.cluster.do(lambda: state.put(ready_node("frail", **{"lab.test/frail": "1"})))
    body = deployment("d")
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"lab.test/frail": "1"}}
    apply(driver, space, body)
    driver.kubectl("rollout", "status", "deploy/d", "-n", space, "--timeout=20s")
    node = ready_node("frail", **{"lab.test/frail": "1"})
    node["status"]["conditions"][0]["status"] = "Unknown"
    driver.cluster.do(lambda: state.put(node))
    driver.kubectl("wait", "deploy/d", "--for=condition=Available=False", "-n", space, "--timeout=20s")
    driver.cluster.do(lambda: state.put(ready_node("frail", **{"lab.test/frail": "1"})))
    driver.kubectl("wait", "deploy/d", "--for=condition=Available", "-n", space, "--timeout=20s")
    driver.cluster.do(lambda: state.delete("Node", "", "frail"))


def test_a_load_balancer_gets_an_address_of_the_pool(driver, space):
    state = driver.cluster.state
    state.lb_pools[:] = ["192.0.2.10-192.0.2.11"]
    for name in ("one", "two", "three"):
        body = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        }
        apply(driver, space, body)

    def address(name):
        found = driver.cluster.do(lambda: state.get("Service", space, name))
        return ((found.get("status") or {}).get("loadBalancer") or {}).get("ingress", [{}])[0].get("ip")

    driver.until(lambda: address("one") == "192.0.2.10" and address("two") == "192.0.2.11", "the addresses")
    assert address("three") is None
    state.lb_pools.clear()


def test_a_service_proxy_reaches_what_the_lab_runs(driver, space):
    state = driver.cluster.state

    async def answer(method, path, headers, query, body):
        return 200, {"Content-Type": "application/json"}, json.dumps([method, path, query, body.decode()]).encode()

    state.service_backends[(space, "d", 80)] = answer
    apply(driver, space, deployment("d"))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "d"},
        "spec": {"selector": {"app": "d"}, "ports": [{"port": 80, "name": "http"}]},
    }
    apply(driver, space, service)
    driver.kubectl("rollout", "status", "deploy/d", "-n", space, "--timeout=20s")
    driver.until(lambda: driver.cluster.do(lambda: state.service_ready(space, "d")), "the endpoints")
    for port in ("80", "http"):
        done = driver.kubectl("get", "--raw", f"/api/v1/namespaces/{space}/services/http:d:{port}/proxy/a/b?c=d")
        assert json.loads(done.stdout) == ["GET", "/a/b", {"c": "d"}, ""]


def test_the_python_client_watches(driver, space):
    settings = client.Configuration()
    config.load_kube_config(str(driver.cluster.kubeconfig), client_configuration=settings)
    with client.ApiClient(settings) as connection:
        core = client.CoreV1Api(connection)
        start = core.list_namespaced_config_map(space).metadata.resource_version
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one"), data={"a": "1"})
        threading.Thread(target=lambda: core.create_namespaced_config_map(space, body)).start()
        seen = []
        for event in watch.Watch().stream(
            core.list_namespaced_config_map, space, resource_version=start, timeout_seconds=10
        ):
            seen.append((event["type"], event["object"].metadata.name))
            break
        assert seen == [("ADDED", "one")]
        with pytest.raises(client.ApiException) as refused:
            core.create_namespaced_config_map(space, body)
        assert refused.value.status == 409 and json.loads(refused.value.body)["reason"] == "AlreadyExists"


def test_a_user_without_rights_is_refused(driver, space, tmp_path):
    other = driver.cluster.login(tmp_path / "other", "eve", "guests")
    refused = driver.kubectl("get", "secrets", "-n", space, kubeconfig=other, ok=False)
    assert 'User "eve" cannot list resource "secrets" in API group "" in the namespace' in refused.stderr
    driver.kubectl("create", "-f", "-", stdin=yaml.safe_dump({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "eve", "namespace": space},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "name": "guests"}],
    }))  # fmt: skip
    driver.kubectl("get", "configmaps", "-n", space, kubeconfig=other)
    assert (
        driver.kubectl("auth", "can-i", "delete", "pods", "-n", space, kubeconfig=other, ok=False).stdout.strip()
        == "no"
    )
