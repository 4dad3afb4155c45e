"""Services and Ingresses: endpoints from pods, addresses from the lab's pools."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.store import Event
from stackwright.lab.kube.values import copy, dig, labels_of
from stackwright.lab.kube.workloads import is_active, is_ready, owner_reference

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
ASKED_IP = "metallb.io/loadBalancerIPs"


def wake_services(state: KubeState, event: Event, add: Callable[[tuple[str, str, str]], None]) -> None:
    """Ask for the Services that a pod's change may concern."""
    if event.type == "MODIFIED" and event.old is not None and _shown(event.old.obj) == _shown(event.obj):
        return
    for found in state.each(("", "services"), event.namespace):
        selector = dig(found, "spec", "selector", default={})
        if selector and _selected(selector, labels_of(event.obj)):
            add(("service", event.namespace, found["metadata"]["name"]))


def _shown(pod: Obj) -> tuple[Any, ...]:
    return (is_ready(pod), dig(pod, "status", "podIP"), pod["metadata"].get("deletionTimestamp"), dict(labels_of(pod)))


def _selected(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


async def service(state: KubeState, space: str, name: str) -> float | None:
    """Keep a Service's endpoints and its outer address."""
    own = state.peek(("", "services"), space, name)
    if own is None:
        for kind in ("Endpoints",):
            state.delete(kind, space, name)
        return None
    selector = dig(own, "spec", "selector", default={})
    if selector and own["spec"].get("type") != "ExternalName":
        chosen = [
            pod
            for pod in state.each(("", "pods"), space)
            if _selected(selector, labels_of(pod)) and dig(pod, "status", "podIP")
        ]
        _endpoints(state, own, [pod for pod in chosen if is_active(pod)])
    if own["spec"].get("type") == "LoadBalancer":
        _outer_address(state, own)
    elif dig(own, "status", "loadBalancer", "ingress"):
        state.set_status(("", "services"), space, name, {"loadBalancer": {}})
    for found in state.each(("apiregistration.k8s.io", "apiservices")):
        if dig(found, "spec", "service", "name") == name and dig(found, "spec", "service", "namespace") == space:
            state.controllers.add(("apiservice", "", found["metadata"]["name"]))
    return None


def _endpoints(state: KubeState, own: Obj, pods: list[Obj]) -> None:
    meta = own["metadata"]
    pods = sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))
    ready = [pod for pod in pods if is_ready(pod) or own["spec"].get("publishNotReadyAddresses")]
    unready = [pod for pod in pods if pod not in ready]
    ports = [_port(item, pods) for item in own["spec"].get("ports") or ()]
    subset: Obj = {}
    if ready:
        subset["addresses"] = [_address(pod) for pod in ready]
    if unready:
        subset["notReadyAddresses"] = [_address(pod) for pod in unready]
    subset |= {"ports": ports} if ports and subset else {}
    labels = {**(meta.get("labels") or {}), "endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    base = {"name": meta["name"], "namespace": meta["namespace"], "labels": labels}
    state.put(
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": base, "subsets": [subset] if subset else []},
        manager="kube-controller-manager",
    )
    points = [
        {
            "addresses": [dig(pod, "status", "podIP")],
            "nodeName": pod["spec"].get("nodeName", ""),
            "conditions": {"ready": pod in ready, "serving": pod in ready, "terminating": False},
            "targetRef": {
                "kind": "Pod",
                "name": pod["metadata"]["name"],
                "namespace": meta["namespace"],
                "uid": pod["metadata"]["uid"],
            },
        }
        for pod in pods
    ]
    labels = {
        "kubernetes.io/service-name": meta["name"],
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    place = {"name": f"{meta['name']}-{str(meta['uid'])[:5]}", "namespace": meta["namespace"], "labels": labels}
    state.put(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**place, "ownerReferences": [owner_reference(own)]},
            "addressType": "IPv4",
            "endpoints": points,
            "ports": copy(ports),
        },
        manager="kube-controller-manager",
    )


def _address(pod: Obj) -> Obj:
    meta = pod["metadata"]
    target = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
    return {"ip": dig(pod, "status", "podIP"), "nodeName": pod["spec"].get("nodeName", ""), "targetRef": target}


def _port(item: Mapping[str, Any], pods: list[Obj]) -> Obj:
    number = item.get("targetPort", item["port"])
    if isinstance(number, str):
        found = [
            port["containerPort"]
            for pod in pods
            for container in pod["spec"]["containers"]
            for port in container.get("ports") or ()
            if port.get("name") == number
        ]
        number = found[0] if found else item["port"]
    made = {"port": number, "protocol": item.get("protocol", "TCP")}
    return {"name": item["name"], **made} if item.get("name") else made


def pool_addresses(pools: list[str]) -> Iterator[str]:
    """Yield the addresses of pools written as CIDR or as first-last."""
    for pool in pools:
        first, dash, last = pool.partition("-")
        if dash:
            low, high = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
            for number in range(int(low), int(high) + 1):
                yield str(ipaddress.ip_address(number))
        else:
            yield from (str(address) for address in ipaddress.ip_network(first.strip(), strict=False))


def _outer_address(state: KubeState, own: Obj) -> None:
    """Give a LoadBalancer Service an address of the lab's pools, the same as long as it lives."""
    meta = own["metadata"]
    have = dig(own, "status", "loadBalancer", "ingress", 0, "ip")
    offered = list(pool_addresses(state.lb_pools))
    asked = own["spec"].get("loadBalancerIP") or dig(meta, "annotations", ASKED_IP)
    if have in offered and (not asked or have == asked):
        return
    taken = {
        dig(item, "status", "loadBalancer", "ingress", 0, "ip")
        for item in state.each(("", "services"))
        if item["metadata"]["uid"] != meta["uid"]
    }
    free = [address for address in offered if address not in taken and asked in (None, "", address)]
    if free:
        status = {"loadBalancer": {"ingress": [{"ip": free[0], "ipMode": "VIP"}]}}
        state.set_status(("", "services"), meta["namespace"], meta["name"], status)
        state.controllers.event(own, "Normal", "IPAllocated", f'Assigned IP ["{free[0]}"]', "metallb-controller")
    elif offered:
        state.controllers.event(
            own,
            "Warning",
            "AllocationFailed",
            f'Failed to allocate IP for "{meta["namespace"]}/{meta["name"]}": no available IPs',
            "metallb-controller",
        )


async def ingress(state: KubeState, space: str, name: str) -> float | None:
    """Give an Ingress the addresses of the lab's ingress nodes."""
    own = state.peek(("networking.k8s.io", "ingresses"), space, name)
    if own is not None and state.ingress_ips:
        status = {"loadBalancer": {"ingress": [{"ip": address} for address in state.ingress_ips]}}
        state.set_status(("networking.k8s.io", "ingresses"), space, name, status)
    return None
