"""Mirror pods: how the kubelet shows a node's static pods in the API. Upstream: Kubernetes, "Create static Pods"."""

from __future__ import annotations

import hashlib
from typing import Any

Obj = dict[str, Any]
EVERYWHERE = ("kube-proxy",)
"""Agents have it as well; RKE2 writes its manifest to the same folder."""


def mirror_pods(node: Obj) -> list[Obj]:
    """Return the mirror pods that every registered node has.

    Those of a server's control plane are shown by static_pods.py: their uids tell what a restart replaced.
    """
    return [mirror_pod(node, name) for name in EVERYWHERE]


def mirror_pod(node: Obj, component: str, digest: str = "") -> Obj:
    """Return one mirror pod; `digest` is the hash of its manifest, where there is a real one."""
    name, version = node["metadata"]["name"], node["status"]["nodeInfo"]["kubeletVersion"].replace("+", "-")
    image = "hardened-etcd" if component == "etcd" else "hardened-kubernetes"
    digest = digest or hashlib.sha256(f"{component} {version}".encode()).hexdigest()[:32]
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"].get("uid", ""),
             "controller": True}  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{component}-{name}",
            "namespace": "kube-system",
            "labels": {"component": component, "tier": "control-plane"},
            "annotations": {
                "kubernetes.io/config.hash": digest,
                "kubernetes.io/config.mirror": digest,
                "kubernetes.io/config.source": "file",
            },
            "ownerReferences": [owner],
        },
        "spec": {
            "nodeName": name,
            "hostNetwork": True,
            "priorityClassName": "system-cluster-critical",
            "containers": [{"name": component, "image": f"docker.io/rancher/{image}:{version}"}],
            "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
        },
    }
