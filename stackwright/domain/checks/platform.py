"""Rules of what stands on the cluster: names, certificates, layers, GPUs, ClearML, tenants, backup. Guide: 5.3-5.9.

Tenants' names, quotas and ports are in tenant_checks.py; what one layer alone finds is in domain/layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stackwright.domain.checks.backup import check_backup
from stackwright.domain.checks.nodes import LEAST_STORAGE_NODES
from stackwright.domain.checks.syntax import is_dns_name, is_email
from stackwright.domain.errors import Problem
from stackwright.domain.spec import StackSpec
from stackwright.domain.work_tune import check_fine_tune

LEAST_LOSS_S = 540  # six minutes for the detachment, and time for the pod
LEAST_CLEARML_NODES = 3  # Guide 5.7.1
_MIRROR = re.compile(r"oci://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._/-]*)?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check_platform(spec: StackSpec) -> list[Problem]:
    """Return every problem of what stands on the cluster, as far as the site file alone can tell."""
    problems = [*_names(spec), *_charts(spec), *_storage(spec), *_gpus(spec), *_clearml(spec)]
    return [*problems, *_tenants(spec), *_backup(spec), *_spare(spec), *check_fine_tune(spec)]


def _names(spec: StackSpec) -> Iterator[Problem]:
    for path, text in (("ingress.domain", spec.ingress.domain), ("clearml.base_domain", spec.clearml.base_domain)):
        if not is_dns_name(text, least_labels=2):
            remedy = "Write a domain whose subdomains your name server resolves, without https:// or a leading dot."
            yield Problem(path, "this is not a DNS domain", remedy, "such as ai.example.com", text[:80])
    if spec.ingress.tls == "secret" and spec.ingress.certificate_block is None:
        remedy = "Name the block with the certificate and key for the platform's names."
        yield Problem("ingress.certificate_block", "tls: secret has no certificate", remedy, "a block name", "none")
    if spec.ingress.tls == "private-ca" and spec.ingress.ca_block is None:
        remedy = "Name the block with the CA's certificate and key."
        yield Problem("ingress.ca_block", "a private CA has no key pair", remedy, "a block name", "none")
    if not _NAMESPACE.fullmatch(spec.layers.suse_ai.namespace):
        what, seen = "Kubernetes would refuse this namespace", spec.layers.suse_ai.namespace[:80]
        yield Problem("layers.suse_ai.namespace", what, "Use a-z, 0-9 and `-`.", "a namespace's name", seen)


def _charts(spec: StackSpec) -> Iterator[Problem]:
    mirror = spec.charts.mirror
    if mirror is not None and not _MIRROR.fullmatch(mirror):
        remedy = "Write oci://host[:port]/path, without user."
        yield Problem("charts.mirror", "this is not an OCI registry's address", remedy, "oci://host[:port]/path")


def _storage(spec: StackSpec) -> Iterator[Problem]:
    layer, nodes = spec.layers.storage, len(spec.storage_nodes)
    if not layer.enabled:
        return
    if nodes < LEAST_STORAGE_NODES and not spec.rke2.allow_single_server:
        remedy = "Give the role `storage` to three nodes, or set layers.storage.enabled: false."
        what = "too few storage nodes to keep data available"
        yield Problem("layers.storage", what, remedy, f"{LEAST_STORAGE_NODES} or more", f"{nodes} storage node(s)")
    if layer.replicas > max(nodes, 1):
        remedy = "Lower it, or add storage nodes: replicas of a volume lie on different nodes."
        yield Problem(
            "layers.storage.replicas",
            "more replicas than storage nodes",
            remedy,
            f"at most {nodes}",
            str(layer.replicas),
        )
    if not layer.data_path.startswith("/"):
        yield Problem("layers.storage.data_path", "not an absolute path", "Write it from / on.", "/folder")


def _gpus(spec: StackSpec) -> Iterator[Problem]:
    layer = spec.layers.gpu_operator
    found = tuple(dict.fromkeys(node.gpu.vendor for node in spec.gpu_nodes if node.gpu))
    asked = "gpu_operator" in spec.layers.model_fields_set and "enabled" in layer.model_fields_set and layer.enabled
    if not found and asked:
        remedy = "Give nodes the role `gpu` with a section `gpu`, or remove the layer's `enabled: true`."
        yield Problem("layers.gpu_operator.enabled", "a GPU operator without GPU nodes", remedy, "GPU nodes", "none")
    if layer.enabled and layer.vendor != "auto" and found and found != (layer.vendor,):
        what = "the vendor is not the one of the site's GPU nodes"
        remedy = (
            "Set vendor: auto: one operator a vendor, and a single Node Feature Discovery for all, are then set up."
        )
        yield Problem("layers.gpu_operator.vendor", what, remedy, ", ".join(found), layer.vendor)
    if not layer.enabled and any(tenant.quota.gpus for tenant in spec.tenants):
        what = "tenants are promised GPUs, but without the operator no node offers any"
        remedy = "Enable layers.gpu_operator, or set the tenants' quota.gpus to 0."
        yield Problem("layers.gpu_operator.enabled", what, remedy, "true", "false")


def _clearml(spec: StackSpec) -> Iterator[Problem]:
    enabled = spec.layers.clearml.enabled
    if enabled and len(spec.nodes) < LEAST_CLEARML_NODES:
        what, seen = "too few nodes for the ClearML server", f"{len(spec.nodes)} node(s)"
        remedy = "Use three nodes or more with 8 CPUs, 32 GB and 500 GB each, or disable layers.clearml."
        yield Problem("layers.clearml", what, remedy, f"{LEAST_CLEARML_NODES} or more", seen)
    if spec.tenants and not enabled:
        remedy = "Enable layers.clearml, or remove the tenants."
        yield Problem("tenants", "tenants need the ClearML server", remedy, "layers.clearml.enabled: true", "false")


def _tenants(spec: StackSpec) -> Iterator[Problem]:
    total = sum(node.gpu.count for node in spec.nodes if node.gpu)
    largest = max((node.gpu.count for node in spec.nodes if node.gpu), default=0)
    for index, tenant in enumerate(spec.tenants):
        path = f"tenants[{index}]"
        if not is_email(tenant.admin_email):
            yield Problem(f"{path}.admin_email", "not an e-mail address", "Correct it.", "name@domain")
        if tenant.quota.gpus > total:
            what = "more GPUs than the site has"
            yield Problem(f"{path}.quota.gpus", what, "Lower it.", f"at most {total}", str(tenant.quota.gpus))
        if not tenant.queues:
            yield Problem(f"{path}.queues", "a tenant without a queue", "Name one.", "one or more", "none")
        for number, queue in enumerate(tenant.queues):
            most = min(largest, tenant.quota.gpus)
            if queue.gpus > most:
                what = "a job of this queue could never start"
                remedy = "Lower it to what one node offers and the tenant's quota allows, or raise quota.gpus."
                yield Problem(f"{path}.queues[{number}].gpus", what, remedy, f"at most {most}", str(queue.gpus))
        for number, name in enumerate(tenant.allowed_namespaces):
            if not _NAMESPACE.fullmatch(name):
                where = f"{path}.allowed_namespaces[{number}]"
                yield Problem(where, "not a namespace's name", "Correct it.", "a-z, 0-9 and `-`", name[:80])


def _backup(spec: StackSpec) -> Iterator[Problem]:
    backup = spec.backup
    if backup is None:
        return
    yield from check_backup(spec, backup)


def _spare(spec: StackSpec) -> Iterator[Problem]:
    """Yield why the node that a validation may stop is not one to be stopped."""
    path, name = "validation.spare_node", spec.validation.spare_node
    if name is None:
        return
    node = next((one for one in spec.nodes if one.name == name), None)
    if node is None or node.is_server or "storage" not in node.roles:
        seen = "not a node of this site" if node is None else f"{name}: {', '.join(node.roles)}"
        remedy = "Name an agent with the role `storage` and without work of anybody, or leave the key out."
        yield Problem(path, "this node is never stopped", remedy, "an agent with the role storage", seen)
    if not spec.layers.storage.enabled or spec.layers.storage.replicas < 2:
        remedy = "Enable layers.storage with two replicas or more, or leave the key out."
        yield Problem(path, "no volume would survive the node", remedy, "layers.storage with two replicas")
    limit_s = spec.validation.platform_timeout_s
    if spec.environment == "production" and limit_s < LEAST_LOSS_S:
        remedy = f"Set validation.platform_timeout_s to {LEAST_LOSS_S} or more."
        what = "Kubernetes takes six minutes to take a volume from a dead node"
        yield Problem(path, what, remedy, f"{LEAST_LOSS_S} or more", str(limit_s))
