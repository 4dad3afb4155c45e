"""Rules of `nodes`: counts, names, addresses, roles, labels, taints, disks, GPUs. Guide: 4.9, 5.1, 5.2."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from stackwright.domain.checks.syntax import address_of, is_dns_name, is_label, is_label_key, is_label_value, repeated
from stackwright.domain.errors import Problem
from stackwright.domain.spec import Node, StackSpec

LEAST_SERVERS = 3  # Guide 4.9, 5.2: quorum of etcd
LEAST_PLATFORM_NODES = 3  # Guide 4.9: platform services with high availability
LEAST_STORAGE_NODES = 3  # Guide 5.4

# Labels in Kubernetes' own domains that a kubelet may give itself. Kubernetes: NodeRestriction admission.
_KUBELET_LABELS = {
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
}
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_KEY_TYPES = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")


def check_nodes(spec: StackSpec) -> list[Problem]:
    """Return every problem of the nodes, counts first."""
    problems = [*_counts(spec), *_same(spec), *_removed(spec)]
    for index, node in enumerate(spec.nodes):
        where = f"nodes[{index}]"
        problems += [*_name(node, where), *_address(spec, node, where), *_roles(node, where), *_labels(node, where)]
        problems += [*_disks(node, where), *_host_key(node, where)]
    return problems


def _counts(spec: StackSpec) -> Iterator[Problem]:
    servers = len(spec.servers)
    seen = f"{servers} server(s)"
    if spec.rke2.allow_single_server and servers == 1:
        return
    if servers < LEAST_SERVERS:
        remedy = "Give the role `server` to three nodes; for a trial, keep one and set rke2.allow_single_server: true."
        yield Problem("nodes", "too few servers for a quorum of etcd", remedy, "3, 5 or 7 servers", seen)
    elif servers % 2 == 0:
        remedy = "Add one server or make one an agent: an even number bears no more losses than one server fewer."
        yield Problem("nodes", "an even number of servers", remedy, "an odd number", seen)
    platform = [node for node in spec.agents if "worker" in node.roles or "storage" in node.roles]
    platform = [node for node in platform if "gpu" not in node.roles]
    if not spec.agents:
        remedy = "Add nodes with the role `worker`: the platform's services do not run on the servers."
        yield Problem("nodes", "there is no worker", remedy, "three workers or more", "none")
    elif len(platform) < LEAST_PLATFORM_NODES:
        what = "too few workers for the platform's services"
        remedy = "Add nodes with the role `worker` or `storage` and without GPUs, up to three."
        yield Problem("nodes", what, remedy, "3 or more", f"{len(platform)} worker(s) without GPUs")


def _same(spec: StackSpec) -> Iterator[Problem]:
    names = [(f"nodes[{index}].name", node.name) for index, node in enumerate(spec.nodes)]
    for where, first, value in repeated(names):
        remedy = "Give each node its own name: RKE2 refuses the second one."
        yield Problem(where, f"the same name as {first}", remedy, "a name of its own", value)
    # The lab's machines may share an address; real ones cannot, whatever their SSH ports.
    port = spec.environment == "lab"
    places = [(f"nodes[{i}].address", f"{n.address}:{n.port}" if port else n.address) for i, n in enumerate(spec.nodes)]
    for where, first, value in repeated(places):
        yield Problem(where, f"the same address as {first}", "Correct one of them.", "an address of its own", value)


def _removed(spec: StackSpec) -> Iterator[Problem]:
    kept = {node.name for node in spec.nodes}
    names = [(f"removed[{index}].name", node.name) for index, node in enumerate(spec.removed)]
    for where, name in names:
        if name in kept:
            remedy = "Keep the entry in one of the two lists; a new machine of the same name is nodes[].replaced: true."
            yield Problem(where, "the node is wanted and removed at once", remedy, "in one list", name)
    for where, first, value in repeated(names):
        yield Problem(where, f"the same name as {first}", "Remove one.", "each once", value)
    for index, node in enumerate(spec.removed):
        path = f"removed[{index}]"
        yield from check_host(spec, node, path)
        if node.replaced:
            what = "a removed node cannot be a replacement"
            yield Problem(f"{path}.replaced", what, "For a machine that is gone, write lost: true.", "false", "true")


def check_host(spec: StackSpec, node: Node, where: str) -> Iterator[Problem]:
    """Return what is wrong with a host by itself, whether it is a node of the cluster or not."""
    yield from (*_name(node, where), *_address(spec, node, where), *_roles(node, where), *_host_key(node, where))


def _name(node: Node, where: str) -> Iterator[Problem]:
    where = f"{where}.name"
    wanted = "lower-case letters, digits and `-`, at most 63 characters a part"
    lower = node.name.lower()
    if node.name.split(".")[0].lower() == "localhost":
        yield Problem(where, "localhost is no node name", "Give the node a name of its own.", wanted, node.name)
    elif node.name != lower and is_dns_name(lower):
        yield Problem(where, "upper case in a node name", f"Write it as {lower}.", wanted, node.name)
    elif not (is_dns_name(node.name) or is_label(node.name)) or address_of(node.name):
        yield Problem(where, "Kubernetes would refuse this node name", "Choose a DNS name.", wanted, node.name[:80])


def _address(spec: StackSpec, node: Node, where: str) -> Iterator[Problem]:
    where = f"{where}.address"
    address = address_of(node.address)
    if address is None:
        remedy = "Write the node's IP address; names go to dns.hosts or your name server."
        yield Problem(where, "this is not an IP address", remedy, "such as 192.0.2.11", node.address[:80])
        return
    if address.is_unspecified or address.is_multicast:
        yield Problem(where, "no node can have this address", "Write the node's own.", "a host address", node.address)
    if spec.environment == "lab" and not address.is_loopback:
        what = "a lab has loopback addresses only: its reports say that the machines are stand-ins"
        remedy = "Set environment: production for real machines."
        yield Problem(where, what, remedy, "an address in 127.0.0.0/8", node.address)
    if spec.environment == "production" and address.is_loopback:
        remedy = "Write the address that the other nodes reach, or set environment: lab for stand-in machines."
        yield Problem(where, "other nodes cannot reach a loopback address", remedy, "a routable one", node.address)


def _roles(node: Node, where: str) -> Iterator[Problem]:
    if not node.roles:
        remedy = "Give it at least one of server, worker, storage, gpu."
        yield Problem(f"{where}.roles", "a node without roles", remedy, "one role or more", "none")
    for role in dict.fromkeys(role for role in node.roles if node.roles.count(role) > 1):
        yield Problem(f"{where}.roles", "the same role twice", "Remove one.", "each role once", role)
    if "gpu" in node.roles and node.gpu is None:
        remedy = "Add gpu: {vendor: nvidia, count: N}, or remove the role."
        yield Problem(f"{where}.gpu", "the role `gpu` without a section `gpu`", remedy, "vendor and count", "none")
    if "gpu" not in node.roles and node.gpu is not None:
        remedy = "Add the role `gpu`, or remove the section."
        yield Problem(f"{where}.roles", "GPUs without the role `gpu`", remedy, "gpu", ", ".join(node.roles) or "none")


def _labels(node: Node, where: str) -> Iterator[Problem]:
    for key, value in node.labels.items():
        path = f"{where}.labels[{key[:80]}]"
        if not is_label_key(key):
            yield Problem(path, "Kubernetes would refuse this label key", "Write [domain/]name.", "[domain/]name")
        elif _is_reserved(key):
            what = "a kubelet may not give itself this label, and would not start"
            remedy = "Use a domain of your own, such as stackwright.io/; the roles are set by RKE2 itself."
            yield Problem(path, what, remedy, "another prefix", key)
        if not is_label_value(value):
            wanted = "letters, digits, `-`, `_`, `.`; at most 63"
            yield Problem(path, "Kubernetes would refuse this label value", "Shorten or change it.", wanted, value[:80])
    for index, taint in enumerate(node.taints):
        path = f"{where}.taints[{index}]"
        if not is_label_key(taint.key) or not is_label_value(taint.value):
            yield Problem(
                path, "Kubernetes would refuse this taint", "Write key, value, effect.", "key=value", str(taint)
            )
    keys = [(f"{where}.taints[{index}]", f"{taint.key}:{taint.effect}") for index, taint in enumerate(node.taints)]
    for path, first, value in repeated(keys):
        yield Problem(path, f"the same key and effect as {first}", "Remove one.", "each once", value)


def _is_reserved(key: str) -> bool:
    domain = key.rpartition("/")[0]
    ours = any(domain == name or domain.endswith(f".{name}") for name in ("kubernetes.io", "k8s.io"))
    free = any(
        domain == name or domain.endswith(f".{name}") for name in ("kubelet.kubernetes.io", "node.kubernetes.io")
    )
    return ours and not free and key not in _KUBELET_LABELS


def _disks(node: Node, where: str) -> Iterator[Problem]:
    for index, disk in enumerate(node.disks):
        path = f"{where}.disks[{index}]"
        if not disk.device.startswith("/dev/"):
            remedy = "Write the stable name, such as /dev/disk/by-id/..."
            yield Problem(f"{path}.device", "not an absolute device path", remedy, "/dev/...", disk.device[:80])
        if not disk.mount.startswith("/") or disk.mount == "/" or ".." in disk.mount.split("/"):
            remedy = "Write the folder that the disk is mounted at."
            yield Problem(f"{path}.mount", "not a mount point of its own", remedy, "/folder", disk.mount[:80])
        if disk.use == "storage" and "storage" not in node.roles:
            remedy = "Give the node the role `storage`, or set the disk's use to `data`."
            yield Problem(f"{path}.use", "a storage disk on a node without the role `storage`", remedy, "storage", "")
    for field in ("device", "mount"):
        places = [(f"{where}.disks[{index}].{field}", getattr(disk, field)) for index, disk in enumerate(node.disks)]
        for path, first, value in repeated(places):
            yield Problem(path, f"the same {field} as {first}", "Correct one of them.", f"a {field} of its own", value)


def _host_key(node: Node, where: str) -> Iterator[Problem]:
    key = node.host_key
    if key is None or _FINGERPRINT.fullmatch(key) or _is_public_key(key):
        return
    remedy = "Copy the line of /etc/ssh/ssh_host_ed25519_key.pub, or the output of ssh-keygen -lf on it."
    what = "this is not a public host key"
    yield Problem(f"{where}.host_key", what, remedy, "ssh-ed25519 AAAA... or SHA256:...", "another text")


def _is_public_key(text: str) -> bool:
    parts = text.split()
    if len(parts) < 2 or parts[0] not in _KEY_TYPES:
        return False
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError):
        return False
    return blob[4 : 4 + len(parts[0])] == parts[0].encode()
