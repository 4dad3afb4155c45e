"""The static pod of a server's API server: its certificate and manifest. What runs in it is in apiserver.py."""

from __future__ import annotations

from typing import Any

from stackwright.lab.host import etcdpod
from stackwright.lab.host.disk import HostDisk
from stackwright.lab.host.identity import TLS, ensure_leaf
from stackwright.lab.host.pods import StaticPods, hash_of, manifest
from stackwright.lab.rke2.config import as_list
from stackwright.lab.rke2.state import ClusterState

PROGRAM = "/usr/lib/stackwright-lab/rke2"
SERVING = "serving-kube-apiserver"


def names_of(disk: HostDisk, node: str, config: dict[str, Any]) -> list[str]:
    """Return the names and addresses that the server's certificate is valid for."""
    names = [node, disk.spec.address, "127.0.0.1", "localhost", "10.43.0.1", "kubernetes", "kubernetes.default",
             "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]  # fmt: skip
    return list(dict.fromkeys([*names, *(str(san) for san in as_list(config.get("tls-san")))]))


def write_pod(
    disk: HostDisk, pods: StaticPods, state: ClusterState, config: dict[str, Any], version: str, node: str
) -> None:
    """Write the API server's certificate and manifest."""
    ensure_leaf(disk, SERVING, state.authority("server-ca"), "kube-apiserver", names_of(disk, node, config))
    ensure_leaf(disk, "client-admin", state.authority("client-ca"), "system:admin", (), "system:masters")
    arguments = [f"--{text}" for text in as_list(config.get("kube-apiserver-arg"))]
    command = [PROGRAM, version, "lab-apiserver", f"--node={node}", *arguments]
    files = hash_of(disk, [f"{TLS}/{SERVING}.crt", f"{TLS}/client-ca.crt", etcdpod.CERTIFICATE])
    pods.write(manifest("kube-apiserver", version, command, files))
