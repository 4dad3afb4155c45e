"""The static pod that every node has beside a server's own (static_pods.py): kube-proxy, as the API shows it.

Upstream: Kubernetes, "Create static Pods".
"""

from __future__ import annotations

import hashlib
from typing import Any

Obj = dict[str, Any]


def proxy_pod(node: Obj) -> Obj:
    """Return the mirror pod of a registered node's kube-proxy."""
    component = "kube-proxy"
    name, version = node["metadata"]["name"], node["status"]["nodeInfo"]["kubeletVersion"].replace("+", "-")
    digest = hashlib.sha256(f"{component} {version}".encode()).hexdigest()[:32]
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
            "containers": [{"name": component, "image": f"docker.io/rancher/hardened-kubernetes:{version}"}],
            "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
        },
    }
