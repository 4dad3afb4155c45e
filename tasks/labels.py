"""Labels and taints of a node that is in the cluster, set and taken away through the API. Guide: 5.2."""

from __future__ import annotations

from stackwright.clients.site import LeaseHandle, Site
from stackwright.domain.cluster import node_status
from stackwright.domain.errors import ConflictError, NotFoundError
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.rke2_labels import label_change, label_patch
from stackwright.domain.spec import Node

PATCH_TRIES = 5  # controllers write the Node object too


def ensure_labels(site: Site, node: Node, facts: NodeFacts, lease: LeaseHandle) -> None:
    """Bring a Node object's labels and taints to the site file's; others' are left alone.

    `facts` must be older than any change of config.yaml. Raises NotFoundError, ConflictError.
    """
    kube = site.kube()
    for last in range(PATCH_TRIES, 0, -1):
        found = kube.get("v1", "Node", node.name)
        if found is None:
            raise NotFoundError("the node is not in the cluster", where=f"Node {node.name}", status=404)
        change = label_change(node, facts.rke2.config, node_status(found))
        if not change:
            return
        lease.check()
        try:
            kube.patch_merge("v1", "Node", node.name, label_patch(node, change, found))
            return
        except ConflictError:
            if last == 1:
                raise
