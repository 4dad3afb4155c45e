"""What a cluster's network lets through: NetworkPolicies as a CNI enforces them, and the connections a probe makes.

Policies are looked at as Kubernetes' page "Network Policies" says: a pod that no policy selects is open; the others
are open to the union of what their policies allow. Addresses are compared after a Service's has been exchanged.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from stackwright.domain.tenant_isolation import TARGETS_ENV, Reached
from stackwright.lab.kube.values import dig, labels_of, selects
from stackwright.lab.kube.workloads import is_ready

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
PODS, SERVICES, POLICIES = ("", "pods"), ("", "services"), ("networking.k8s.io", "networkpolicies")


def probe_log(state: KubeState, pod: Obj) -> str | None:
    """Return what the isolation probe prints in this pod; None for a pod that is none."""
    for container in dig(pod, "spec", "containers", default=()):
        for item in container.get("env") or ():
            if item["name"] == TARGETS_ENV and "PROBED" in " ".join(container.get("command") or ()):
                tried = [connect(state, pod, one["host"], int(one["port"])) for one in json.loads(item["value"])]
                return f"PROBED {json.dumps(tried)}\n"
    return None


def connect(state: KubeState, source: Obj, host: str, port: int) -> Reached:
    """Tell how a TCP connection from a pod ends: open, refused by the target's host, or without an answer."""
    service = next((item for item in state.each(SERVICES) if dig(item, "spec", "clusterIP") == host), None)
    if service is not None:
        return _to_service(state, source, service, port)
    target = next((item for item in state.each(PODS) if dig(item, "status", "podIP") == host), None)
    if target is None or not _passes(state, source, target, port):
        return "silent"
    return "open" if port in _listening(target) else "refused"


def _to_service(state: KubeState, source: Obj, service: Obj, port: int) -> Reached:
    """A Service without a ready pod refuses at once: kube-proxy rejects."""
    meta, entry = service["metadata"], _port_of(service, port)
    selector = dig(service, "spec", "selector", default={})
    pods = [
        pod
        for pod in state.each(PODS, meta["namespace"])
        if selector and is_ready(pod) and all(labels_of(pod).get(key) == value for key, value in selector.items())
    ]
    if entry is None:
        return "silent"
    if not pods:
        return "refused"
    inner = _number(entry.get("targetPort", port), pods[0]) or port
    return "open" if any(_passes(state, source, pod, inner) for pod in pods) else "silent"


def _port_of(service: Obj, port: int) -> Mapping[str, Any] | None:
    return next((item for item in dig(service, "spec", "ports", default=()) if item["port"] == port), None)


def _listening(pod: Obj) -> set[int]:
    ports = [item for container in dig(pod, "spec", "containers", default=()) for item in container.get("ports") or ()]
    return {int(item["containerPort"]) for item in ports}


def _number(port: int | str, pod: Obj) -> int | None:
    """Return a port's number; a name is looked up in the pod that is meant."""
    if isinstance(port, int) or str(port).isdigit():
        return int(port)
    ports = [item for container in dig(pod, "spec", "containers", default=()) for item in container.get("ports") or ()]
    return next((int(item["containerPort"]) for item in ports if item.get("name") == port), None)


def _passes(state: KubeState, source: Obj, target: Obj, port: int) -> bool:
    return _allows(state, source, "Egress", target, port) and _allows(state, target, "Ingress", source, port)


def _allows(state: KubeState, own: Obj, direction: str, peer: Obj, port: int) -> bool:
    """Tell whether the policies that select a pod let it speak to a peer, or be spoken to by it."""
    space = own["metadata"]["namespace"]
    chosen = [
        policy["spec"]
        for policy in state.each(POLICIES, space)
        if selects(dig(policy, "spec", "podSelector", default={}), labels_of(own))
        and direction in _types(policy["spec"])
    ]
    if not chosen:
        return True
    field = "to" if direction == "Egress" else "from"
    server = peer if direction == "Egress" else own
    rules: Iterable[Obj] = (rule for spec in chosen for rule in spec.get(direction.lower()) or ())
    return any(_peer_fits(state, rule.get(field), space, peer) and _port_fits(rule, server, port) for rule in rules)


def _types(spec: Mapping[str, Any]) -> list[str]:
    return list(spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]))


def _peer_fits(state: KubeState, peers: list[Obj] | None, space: str, pod: Obj) -> bool:
    return not peers or any(_is_peer(state, peer, space, pod) for peer in peers)


def _is_peer(state: KubeState, peer: Mapping[str, Any], space: str, pod: Obj) -> bool:
    block = peer.get("ipBlock")
    if block:
        address = ipaddress.ip_address(dig(pod, "status", "podIP", default="0.0.0.0"))
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(part) for part in block.get("except") or ())
    theirs = pod["metadata"]["namespace"]
    if "namespaceSelector" in peer:
        labels = labels_of(state.peek(("", "namespaces"), "", theirs) or {"metadata": {}})
        if not selects(peer["namespaceSelector"], labels):
            return False
    elif theirs != space:
        return False
    return "podSelector" not in peer or selects(peer["podSelector"], labels_of(pod))


def _port_fits(rule: Mapping[str, Any], server: Obj, port: int) -> bool:
    ports = rule.get("ports")
    return not ports or any(_is_port(item, server, port) for item in ports)


def _is_port(item: Mapping[str, Any], server: Obj, port: int) -> bool:
    if item.get("protocol", "TCP") != "TCP":
        return False
    if "port" not in item:
        return True
    first = _number(item["port"], server)
    return first is not None and first <= port <= int(item.get("endPort", first))
