"""One cluster on its own, served with TLS on the loopback: for a test, or to try kubectl and helm by hand."""

from __future__ import annotations

import base64
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stackwright.lab.alone import Alone, alone
from stackwright.lab.kube.app import Gate, create_kube_app
from stackwright.lab.kube.state import KubeState, Record
from stackwright.lab.net import Authority

Obj = dict[str, Any]
PROVISIONER = "disk.lab.test"


@dataclass
class Cluster:
    """A served cluster: its state, address, CA, and the administrator's kubeconfig."""

    state: KubeState
    url: str
    ca: Authority
    kubeconfig: Path
    _served: Alone

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the cluster's event loop."""
        return self._served.call(work)

    def do(self, work: Callable[[], Any]) -> Any:
        """Call a function in the cluster's event loop: that is where its state may be touched."""

        async def run() -> Any:
            return work()

        return self._served.call(run())

    def login(self, path: Path, name: str, *groups: str) -> Path:
        """Write the kubeconfig of a user with a client certificate."""
        certificate, key = self.ca.issue(name, organization=groups[0] if groups else "")
        write_kubeconfig(
            path, self.url, self.ca.certificate, {"client-certificate-data": certificate, "client-key-data": key}
        )
        return path


@contextmanager
def kube_alone(
    folder: Path, *, nodes: int = 3, speed: float = 50.0, record: Record | None = None, gate: Gate | None = None
) -> Iterator[Cluster]:
    """Serve a cluster with so many ready nodes and a default storage class, for the time of the block."""
    state = KubeState(speed=speed, record=record or (lambda wire, target, action: None))
    ca = Authority("kube CA")
    state.ca_certificate = ca.certificate
    state.provisioners.add(PROVISIONER)
    for index in range(nodes):
        state.put(ready_node(f"node{index + 1}"))
    state.put(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "allowVolumeExpansion": True,
        }
    )
    tls = ca.server_context("kube-apiserver", ["127.0.0.1", "localhost"], client_ca=ca.certificate)
    with alone(lambda: create_kube_app(state, gate), tls=tls) as served:
        path = folder / "admin.kubeconfig"
        cluster = Cluster(state, served.url, ca, path, served)
        cluster.login(path, "admin", "system:masters")
        yield cluster


def ready_node(name: str, **allocatable: str) -> Obj:
    """Return a Node that is ready; more resources than the usual may be named."""
    resources = {"cpu": "16", "memory": "64Gi", "pods": "110", **allocatable}
    status = {
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
        "capacity": dict(resources),
        "allocatable": resources,
        "nodeInfo": {"kubeletVersion": "v1.34.10+rke2r1"},
    }
    meta = {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {}, "status": status}


def write_kubeconfig(path: Path, url: str, ca: str, user: Obj) -> None:
    """Write a kubeconfig of mode 600; certificates and keys in `user` are PEM text."""
    encoded = {key: _encoded(value) if key.endswith("-data") else value for key, value in user.items()}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": url, "certificate-authority-data": _encoded(ca)}}],
        "users": [{"name": "lab", "user": encoded}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content))


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
