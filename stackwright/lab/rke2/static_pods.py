"""A server's static pods: the manifests that RKE2 writes at each start, which pods that replaces, their mirror pods.

As in the real one, a pod is replaced only when its manifest's hash changes. What goes into that is written down here
once more, from rancher/rke2 (pkg/executor/staticpod, pkg/podtemplate), not taken from the product that is tested.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stackwright.lab.net import context_of
from stackwright.lab.rke2.config import as_list
from stackwright.lab.rke2.etcd_api import (
    CLIENT_PORT,
    HEALTH_PORT,
    create_gateway_app,
    create_health_app,
    gateway_context,
)
from stackwright.lab.rke2.objects import Close, ClusterApi, Obj, now
from stackwright.lab.rke2.state import DATA, SERVER, STATIC_PODS, ClusterState
from stackwright.lab.rke2.supervisor import serve

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster

API_PORT = 6443
ETCD_CERTIFICATES = ("etcd/server-client", "etcd/peer-server-client")
API_CERTIFICATES = ("serving-kube-apiserver", "client-kube-apiserver")
REPLACE_S = 3.0  # from the old pod's end to the new one's first answer
ENV_FILES = ("/etc/default/rke2-server", "/etc/sysconfig/rke2-server")
IMAGES = {"etcd": "hardened-etcd", "cloud-controller-manager": "rke2-cloud-provider"}


@dataclass(frozen=True)
class Manifest:
    """One static pod's manifest, and the hash that the kubelet knows the pod by."""

    text: str
    hash: str
    image: str


@dataclass
class Pods:
    """What runs on a machine beside the RKE2 process itself: its static pods outlive a stop of the unit."""

    cluster: str
    version: str = ""
    running: dict[str, Manifest] = field(default_factory=dict)
    closers: dict[str, list[Close]] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)

    def answers(self, pod: str) -> bool:
        """Say whether a pod is up at this moment."""
        return pod in self.closers

    async def close(self, pod: str) -> None:
        """End a pod."""
        for close in self.closers.pop(pod, []):
            await close()

    async def close_all(self) -> None:
        """End every pod."""
        for pod in [*self.closers]:
            await self.close(pod)


# --- manifests -------------------------------------------------------------------------------------------------------


def manifests(machine: Machine, config: dict[str, Any], version: str) -> dict[str, Manifest]:
    """Return the manifest of each static pod, for the files that lie on the machine now."""
    return {pod: _manifest(machine, pod, config, version) for pod in STATIC_PODS}


def write_manifests(machine: Machine, made: dict[str, Manifest]) -> None:
    """Put the manifests where the kubelet looks."""
    for pod, manifest in made.items():
        machine.write(f"{DATA}/agent/pod-manifests/{pod}.yaml", manifest.text, 0o600)


def _manifest(machine: Machine, pod: str, config: dict[str, Any], version: str) -> Manifest:
    registry = str(config.get("system-default-registry") or "docker.io")
    image = f"{registry}/rancher/{IMAGES.get(pod, 'hardened-kubernetes')}:{version.replace('+', '-')}"
    spec: Obj = {
        "containers": [
            {
                "name": pod,
                "image": str(config.get(f"{pod}-image") or image),
                "command": [pod],
                "args": [f"--{item}" for item in as_list(config.get(f"{pod}-arg"))],
                "env": [*_proxies(machine), *(str(item) for item in as_list(config.get(f"{pod}-extra-env")))],
                "mounts": [str(item) for item in as_list(config.get(f"{pod}-extra-mount"))],
                "resources": [
                    f"{key}:{item}"
                    for key in ("requests", "limits")
                    for item in as_list(config.get(f"control-plane-resource-{key}"))
                    if str(item).startswith(f"{pod}-")
                ],
                "probes": [
                    str(item)
                    for item in as_list(config.get("control-plane-probe-configuration"))
                    if str(item).startswith(f"{pod}-")
                ],
            }
        ],
        "files": _files(machine, pod, config),
        "selinux": bool(config.get("selinux")),
        "user": "etcd" if pod == "etcd" and config.get("profile") else "root",
    }
    body: Obj = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod, "namespace": "kube-system", "labels": {"component": pod, "tier": "control-plane"}},
        "spec": spec,
    }
    uid = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
    body["metadata"]["uid"] = uid
    return Manifest(json.dumps(body, indent=1) + "\n", uid, spec["containers"][0]["image"])


def _files(machine: Machine, pod: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of what the pod's arguments name, as far as it can change."""
    address = str(config.get("advertise-address") or config.get("node-ip") or machine.spec.address)
    if pod == "etcd":
        metrics = ["127.0.0.1", address] if config.get("etcd-expose-metrics") else ["127.0.0.1"]
        return {"config": {"listen": address, "metrics": metrics}, "certificates": _sums(machine, ETCD_CERTIFICATES)}
    if pod == "kube-apiserver":
        psa = str(config.get("pod-security-admission-config-file") or "")
        audit = str(config.get("audit-policy-file") or "")
        sums, ports = _sums(machine, API_CERTIFICATES), str(config.get("service-node-port-range") or "")
        admission = machine.read(psa) if psa else ""
        return {"certificates": sums, "admission": admission, "audit": audit, "ports": ports}
    return {}


def _sums(machine: Machine, names: tuple[str, ...]) -> list[str]:
    return [hashlib.sha256(machine.read(f"{SERVER}/tls/{name}.crt").encode()).hexdigest() for name in names]


def _proxies(machine: Machine) -> list[str]:
    """Return the unit's proxy variables: RKE2 hands them to every static pod."""
    lines = [line.strip() for file in ENV_FILES for line in machine.read(file).splitlines()]
    return sorted(line for line in lines if "proxy" in line.partition("=")[0].lower() and not line.startswith("#"))


# --- pods ------------------------------------------------------------------------------------------------------------


async def run_pods(
    cluster: Rke2Cluster, machine: Machine, state: ClusterState, made: dict[str, Manifest], version: str
) -> None:
    """Bring a server's pods to their manifests: one whose hash changed is ended, and comes again a moment later."""
    pods = cluster.pods.setdefault(machine.name, Pods(state.id))
    pods.version = version
    openers: dict[str, Callable[[], Awaitable[list[Close]]]] = {
        "etcd": lambda: _open_etcd(cluster, machine, state),
        "kube-apiserver": lambda: _open_api(cluster, machine, state, version),
    }
    for pod, manifest in made.items():
        known = pods.running.get(pod)
        if known is not None and known.hash == manifest.hash and (pod not in openers or pods.answers(pod)):
            continue
        if pod in openers:
            if pods.answers(pod):
                await pods.close(pod)
                cluster.note(f"{pod} replaced on {machine.name}")
                await cluster.pause(REPLACE_S)
            pods.closers[pod] = await openers[pod]()
        pods.running[pod] = manifest
        pods.started[pod] = time.time()
        cluster.note(f"{pod} started on {machine.name}")


async def _open_etcd(cluster: Rke2Cluster, machine: Machine, state: ClusterState) -> list[Close]:
    address, member = machine.spec.address, lambda: cluster.member_on(state, machine.name)
    context = gateway_context(state, *_pair(machine, "etcd/server-client"))
    return [
        await serve(create_health_app(cluster, state, member), address, HEALTH_PORT),
        await serve(create_gateway_app(cluster, state, member), address, CLIENT_PORT, context),
    ]


async def _open_api(cluster: Rke2Cluster, machine: Machine, state: ClusterState, version: str) -> list[Close]:
    context = context_of(*_pair(machine, "serving-kube-apiserver"))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=state.authorities["client-ca"][0])
    return [await cluster.api_of(state).serve(machine.spec.address, API_PORT, context, version)]


def _pair(machine: Machine, name: str) -> tuple[str, str]:
    return machine.read(f"{SERVER}/tls/{name}.crt"), machine.read(f"{SERVER}/tls/{name}.key")


# --- mirror pods -----------------------------------------------------------------------------------------------------


def put_mirror_pods(api: ClusterApi, node: str, pods: Pods) -> None:
    """Show a server's static pods in the API as its kubelet does, as long as its Node is there; made anew when the hash
    changes."""
    owner = api.get("Node", "", node)
    for pod, manifest in pods.running.items():
        seen = api.get("Pod", "kube-system", f"{pod}-{node}")
        if seen is not None and _hash(seen) != manifest.hash:
            api.delete("Pod", "kube-system", f"{pod}-{node}")
            seen = None
        if seen is None and owner is not None:
            api.put(_mirror_pod(owner, pod, manifest))


def drop_mirror_pods(api: ClusterApi, node: str) -> None:
    """Take a gone node's mirror pods away."""
    for pod in STATIC_PODS:
        api.delete("Pod", "kube-system", f"{pod}-{node}")


def _hash(pod: Obj) -> str:
    return str((pod["metadata"].get("annotations") or {}).get("kubernetes.io/config.hash", ""))


def _mirror_pod(owner: Obj, pod: str, manifest: Manifest) -> Obj:
    node = owner["metadata"]["name"]
    address = next((item["address"] for item in owner["status"]["addresses"] if item["type"] == "InternalIP"), "")
    notes = {f"kubernetes.io/config.{key}": manifest.hash for key in ("hash", "mirror")}
    container = {"name": pod, "image": manifest.image, "command": [pod]}
    state = {"running": {"startedAt": now()}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{pod}-{node}",
            "namespace": "kube-system",
            "uid": str(uuid.uuid4()),
            "labels": {"component": pod, "tier": "control-plane"},
            "annotations": {**notes, "kubernetes.io/config.source": "file"},
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "name": node,
                    "uid": owner["metadata"].get("uid", node),
                    "controller": True,
                }
            ],
        },
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "priorityClassName": "system-cluster-critical",
            "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
            "restartPolicy": "Always",
            "containers": [container],
        },
        "status": {
            "phase": "Running",
            "hostIP": address,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": now(),
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": now()}
                for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "containerStatuses": [
                {
                    "name": pod,
                    "image": manifest.image,
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "started": True,
                    "state": state,
                    "lastState": {},
                }
            ],
        },
    }
