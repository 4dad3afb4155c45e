"""Kubernetes objects that RKE2 itself brings: Nodes and what lies in kube-system after the first server's start.

`ClusterApi` is all that RKE2's stand-in asks of the Kubernetes stand-in.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable, Iterable
from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from stackwright.lab.rke2.config import as_list

if TYPE_CHECKING:
    from stackwright.lab.rke2.disk import Disk

Obj = dict[str, Any]
Close = Callable[[], Awaitable[None]]


class ClusterApi(Protocol):
    """The Kubernetes stand-in as RKE2 sees it: objects by kind, namespace ("" for none) and name, and its server."""

    def put(self, obj: Obj) -> Any:
        """Create or replace an object, status included."""

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """Return an object, or None."""

    def delete(self, kind: str, namespace: str, name: str) -> Any:
        """Delete an object; nothing happens when there is none."""

    def objects(self, kind: str) -> Iterable[Obj]:
        """Return all objects of a kind."""

    def stored(self) -> Iterable[tuple[str, bytes]]:
        """Return every object as it lies in etcd, as (key, value), in the order of their last changes."""

    async def serve(self, address: str, port: int, context: ssl.SSLContext, version: str) -> Close:
        """Serve the API of a server of this version over HTTPS; return what stops it."""


class NoApi:
    """The API of a second cluster that should not be: it holds nothing and answers nobody."""

    def put(self, obj: Obj) -> None:
        """Forget it."""

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """Return nothing."""
        return None

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete nothing."""

    def objects(self, kind: str) -> Iterable[Obj]:
        """Return nothing."""
        return ()

    def stored(self) -> Iterable[tuple[str, bytes]]:
        """Return nothing."""
        return ()

    async def serve(self, address: str, port: int, context: ssl.SSLContext, version: str) -> Close:
        """Serve nothing."""

        async def close() -> None:
            return None

        return close


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_object(
    machine: Disk, name: str, role: str, version: str, config: dict[str, Any], old: Obj | None, member_id: str = ""
) -> Obj:
    """Make the Node that a kubelet registers; labels and taints of the configuration act at registration only."""
    spec = machine.spec
    node: Obj = deepcopy(old) if old else {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {}}
    meta = node["metadata"]
    labels = meta.setdefault("labels", {})
    labels.update({
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/instance-type": "rke2",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "rke2",
    })  # fmt: skip
    annotations = meta.setdefault("annotations", {})
    annotations["rke2.io/hostname"] = name
    annotations["rke2.io/internal-ip"] = spec.address
    annotations["rke2.io/node-args"] = json.dumps(node_args(role, config))
    if role == "server":
        labels["node-role.kubernetes.io/control-plane"] = "true"
        labels["node-role.kubernetes.io/etcd"] = "true"
        annotations["etcd.rke2.cattle.io/node-name"] = f"{name}-{member_id}"
        annotations["etcd.rke2.cattle.io/node-address"] = spec.address
    if old is None:
        labels.update(dict(str(label).partition("=")[::2] for label in as_list(config.get("node-label"))))
        taints = [_taint(str(taint)) for taint in as_list(config.get("node-taint"))]
        if taints:
            node["spec"]["taints"] = taints
    node["spec"]["providerID"] = f"rke2://{name}"
    status = node.setdefault("status", {})
    amounts = {
        "cpu": str(spec.cpus),
        "memory": f"{spec.memory_gib * 1024 * 1024}Ki",
        "pods": "110",
        "ephemeral-storage": "419430400Ki",
    }
    for key in ("capacity", "allocatable"):
        status[key] = {**status.get(key, {}), **amounts}
    status["addresses"] = [{"type": "InternalIP", "address": spec.address}, {"type": "Hostname", "address": name}]
    status["nodeInfo"] = {
        "architecture": "amd64",
        "bootID": machine.read("/proc/sys/kernel/random/boot_id").strip(),
        "containerRuntimeVersion": "containerd://2.1.4-k3s1",
        "kernelVersion": machine.read("/proc/sys/kernel/osrelease").strip(),
        "kubeProxyVersion": version,
        "kubeletVersion": version,
        "machineID": machine.read("/etc/machine-id").strip(),
        "operatingSystem": "linux",
        "osImage": "SUSE Linux Enterprise Server",
        "systemUUID": machine.read("/etc/machine-id").strip(),
    }
    for kind in ("MemoryPressure", "DiskPressure", "PIDPressure"):
        set_condition(node, kind, "False", f"KubeletHasNo{kind}", "")
    set_condition(node, "NetworkUnavailable", "False", "FlannelIsUp", "Flannel is running on this node")
    return node


def node_args(role: str, config: dict[str, Any]) -> list[str]:
    """Return the arguments that RKE2 notes of itself: those of its configuration, secrets left out."""
    words = [role]
    for key, value in config.items():
        for item in as_list(value):
            words += [f"--{key}", "********" if "token" in key else str(item)]
    return words


def set_condition(node: Obj, kind: str, status: str, reason: str, message: str) -> bool:
    """Set a Node condition; say whether it changed."""
    conditions = node["status"].setdefault("conditions", [])
    for condition in conditions:
        if condition["type"] == kind:
            if (condition["status"], condition["reason"]) == (status, reason):
                return False
            condition.update(status=status, reason=reason, message=message, lastTransitionTime=now())
            return True
    conditions.append({"type": kind, "status": status, "reason": reason, "message": message,
                       "lastHeartbeatTime": now(), "lastTransitionTime": now()})  # fmt: skip
    return True


def _taint(text: str) -> dict[str, str]:
    key, _, effect = text.rpartition(":")
    name, _, value = key.partition("=")
    return {"key": name, "value": value, "effect": effect} if value else {"key": name, "effect": effect}


def system_objects(config: dict[str, Any], version: str) -> list[Obj]:
    """Return what RKE2's own charts leave in kube-system: CNI, DNS, metrics, ingress, and their install jobs."""
    cni = str(as_list(config.get("cni") or "canal")[-1])
    minor = int(version.split(".")[1])
    ingress = str(as_list(config.get("ingress-controller") or ("traefik" if minor >= 36 else "ingress-nginx"))[0])
    disabled = {str(name) for name in as_list(config.get("disable"))}
    charts = [f"rke2-{cni}", "rke2-coredns", "rke2-metrics-server", "rke2-runtimeclasses", "rke2-snapshot-controller"]
    daemons, deployments, objects = [f"rke2-{cni}"], ["rke2-coredns-rke2-coredns", "rke2-metrics-server"], []
    if ingress == "traefik":
        charts.append("rke2-traefik")
        daemons.append("rke2-traefik")
        objects.append(_ingress_class("traefik", "traefik.io/ingress-controller"))
    elif ingress == "ingress-nginx":
        charts.append("rke2-ingress-nginx")
        daemons.append("rke2-ingress-nginx-controller")
        objects.append(_ingress_class("nginx", "k8s.io/ingress-nginx"))
    charts = [chart for chart in charts if chart not in disabled]
    objects += [_workload("DaemonSet", name) for name in daemons if name not in disabled]
    objects += [_workload("Deployment", name) for name in deployments if not any(name.startswith(d) for d in disabled)]
    objects += [_install_job(chart) for chart in charts]
    return objects + (_network_policies() if config.get("profile") == "cis" else [])


def _network_policies() -> list[Obj]:
    """Return the policies of the CIS profile: each namespace to itself, and DNS for all. RKE2: pkg/rke2/np.go."""
    inside = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}
    ports = [{"protocol": protocol, "port": port} for protocol, port in (("TCP", 53), ("UDP", 53), ("TCP", 9153))]
    dns = {"podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}, "policyTypes": ["Ingress"],
           "ingress": [{"ports": ports}], "egress": []}  # fmt: skip
    places = [(space, "default-network-policy", inside) for space in ("kube-system", "kube-public", "default")]
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": space},
            "spec": deepcopy(spec),
        }
        for space, name, spec in (*places, ("kube-system", "default-network-dns-policy", dns))
    ]


def _ingress_class(name: str, controller: str) -> Obj:
    meta = {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": meta,
        "spec": {"controller": controller},
    }


def _workload(kind: str, name: str) -> Obj:
    labels = {"app.kubernetes.io/instance": name, "k8s-app": name}
    pod = {"metadata": {"labels": labels}, "spec": {
           "containers": [{"name": name, "image": f"docker.io/rancher/{name}:lab"}],
           "tolerations": [{"operator": "Exists"}]}}  # fmt: skip
    spec: Obj = {"selector": {"matchLabels": labels}, "template": pod}
    if kind == "Deployment":
        spec["replicas"] = 1
    meta = {"name": name, "namespace": "kube-system", "labels": labels, "generation": 1}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}


def _install_job(chart: str) -> Obj:
    labels = {"helmcharts.helm.cattle.io/chart": chart}
    pod = {"metadata": {"labels": labels}, "spec": {"restartPolicy": "OnFailure",
           "containers": [{"name": "helm", "image": "docker.io/rancher/klipper-helm:lab"}]}}  # fmt: skip
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"helm-install-{chart}", "namespace": "kube-system", "labels": labels},
        "spec": {"completions": 1, "parallelism": 1, "template": pod},
        "status": {
            "succeeded": 1,
            "startTime": now(),
            "completionTime": now(),
            "conditions": [
                {
                    "type": "SuccessCriteriaMet",
                    "status": "True",
                    "reason": "CompletionsReached",
                    "lastTransitionTime": now(),
                },
                {"type": "Complete", "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now()},
            ],
        },
    }
