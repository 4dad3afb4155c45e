"""Rules of a site file's tenants: names, quotas, queues, ports. Refused is what ClearML or Kubernetes would refuse.

Shapes of e-mail addresses and what one node can offer are checked in checks/platform.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

from stackwright.domain.errors import Problem
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_gpus import cost
from stackwright.domain.tenant_parts import check_identities, check_parts

NAME_MIN = 3  # ClearML: system.create_company and queues.create refuse shorter names
NAMESPACE_MAX = 63
NAME_MAX = NAMESPACE_MAX - len("clearml-")
QUEUE_MAX = 63  # the agent writes a queue's name into a label of its pods
NODE_PORTS = (30000, 32767)
SYSTEM_PODS = 3  # agent, router and proxy of the tenant itself
LEAST_CPU, LEAST_MEMORY_GIB = 2, 4  # what those three and one small job need

RESERVED = frozenset({"default", "clearml", "supervisor", "apiserver", "stackwright", "enterprise", "system"})
# Kubernetes keeps `kube-` for itself; the others are prefixes of the platform's own namespaces.
RESERVED_PREFIXES = ("kube-", "kubernetes-", "cattle-", "longhorn-", "rke2-", "clearml-", "router-", "xn--")

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_QUEUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")
_REGEX_SIGNS = frozenset(".^$*+?{}[]\\|()")


def check_tenant_names(spec: StackSpec) -> list[Problem]:
    """Return every problem of the site's tenants that the site file alone shows, each with its path and remedy."""
    problems: list[Problem] = []
    for index, tenant in enumerate(spec.tenants):
        path = f"tenants[{index}]"
        problems += [*_name(f"{path}.name", tenant.name), *_queues(path, tenant), *_quota(path, tenant)]
        problems += [*_ports(spec, f"{path}.tcp_ports", tenant), *check_parts(spec, path, tenant)]
    problems += _twins((f"tenants[{i}].name", tenant.name) for i, tenant in enumerate(spec.tenants))
    problems += _twins((f"tenants[{i}].admin_email", tenant.admin_email) for i, tenant in enumerate(spec.tenants))
    return [*problems, *check_identities(spec), *_gpu_total(spec), *_overlaps(spec)]


def _name(path: str, name: str) -> Iterator[Problem]:
    remedy = f"Use {NAME_MIN} to {NAME_MAX} of a-z, 0-9 and `-`, beginning and ending with a letter or digit."
    wanted, seen = "a DNS label in lower case", ascii(name[:80])
    if _REGEX_SIGNS & set(name):
        what = "the name holds signs of a regular expression, by which ClearML would match other tenants"
        yield Problem(path, what, remedy, wanted, seen)
    elif not name.isascii() or not _LABEL.fullmatch(name):
        yield Problem(path, "Kubernetes would refuse this name for a namespace", remedy, wanted, seen)
    if len(name) < NAME_MIN:
        yield Problem(path, "ClearML refuses company names this short", remedy, f"{NAME_MIN} or more characters", seen)
    if len(name) > NAME_MAX:
        what = f"the namespace clearml-<name> would be longer than {NAMESPACE_MAX} characters"
        yield Problem(path, what, remedy, f"at most {NAME_MAX} characters", f"{len(name)} characters")
    if name in RESERVED or name.startswith(RESERVED_PREFIXES):
        what = "this name is reserved for the platform"
        yield Problem(path, what, "Choose another name.", "a name of the tenant's own", seen)


def _queues(path: str, tenant: Tenant) -> Iterator[Problem]:
    for number, queue in enumerate(tenant.queues):
        where, seen = f"{path}.queues[{number}].name", ascii(queue.name[:80])
        remedy = f"Use {NAME_MIN} to {QUEUE_MAX} letters and digits; `-` and `_` may stand between them."
        if len(queue.name) < NAME_MIN:
            yield Problem(where, "ClearML refuses queue names this short", remedy, f"{NAME_MIN} or more", seen)
        elif len(queue.name) > QUEUE_MAX or not queue.name.isascii() or not _QUEUE.fullmatch(queue.name):
            what = "this name cannot be a queue's: the agent uses it as a key of its values and a label of its pods"
            yield Problem(where, what, remedy, "letters, digits, `-` and `_`", seen)
    yield from _twins((f"{path}.queues[{n}].name", queue.name) for n, queue in enumerate(tenant.queues))


def _quota(path: str, tenant: Tenant) -> Iterator[Problem]:
    quota, most = tenant.quota, max((queue.max_pods for queue in tenant.queues), default=0)
    needs = math.ceil(max((cost(queue) * queue.max_pods for queue in tenant.queues), default=0))
    remedy = "Raise the quota, or lower the queue's max_pods."
    if needs > quota.gpus:
        what = "a full queue needs more GPUs than the quota allows"
        yield Problem(f"{path}.quota.gpus", what, remedy, f"{needs} or more", str(quota.gpus))
    if most + SYSTEM_PODS > quota.pods:
        what = f"a full queue and the tenant's own {SYSTEM_PODS} pods do not fit"
        yield Problem(f"{path}.quota.pods", what, remedy, f"{most + SYSTEM_PODS} or more", str(quota.pods))
    for field, seen, least in (("cpu", quota.cpu, LEAST_CPU), ("memory_gib", quota.memory_gib, LEAST_MEMORY_GIB)):
        if seen < least:
            what = "too little for the tenant's agent, gateway and one job"
            yield Problem(f"{path}.quota.{field}", what, "Raise it.", f"{least} or more", str(seen))


def _ports(spec: StackSpec, path: str, tenant: Tenant) -> Iterator[Problem]:
    ports = tenant.tcp_ports
    if ports is None:
        return
    seen = f"{ports.start}-{ports.end}"
    if ports.start > ports.end:
        yield Problem(path, "the range ends before it starts", "Exchange start and end.", "start <= end", seen)
    elif not spec.layers.metallb.enabled and not NODE_PORTS[0] <= ports.start <= ports.end <= NODE_PORTS[1]:
        what = "without MetalLB the sessions use node ports, and these are outside their range"
        remedy = "Choose ports of that range, or enable layers.metallb."
        yield Problem(path, what, remedy, f"{NODE_PORTS[0]}-{NODE_PORTS[1]}", seen)


def _gpu_total(spec: StackSpec) -> Iterator[Problem]:
    total = sum(node.gpu.count for node in spec.nodes if node.gpu)
    promised = sum(tenant.quota.gpus for tenant in spec.tenants)
    if promised > total and all(tenant.quota.gpus <= total for tenant in spec.tenants):
        remedy = "Lower some tenants' quota.gpus, or add GPU nodes: promised GPUs are never shared out twice."
        what = "the tenants together are promised more GPUs than the site has"
        yield Problem("tenants", what, remedy, f"at most {total}", str(promised))


def _overlaps(spec: StackSpec) -> Iterator[Problem]:
    ranges = [(i, tenant.tcp_ports) for i, tenant in enumerate(spec.tenants) if tenant.tcp_ports]
    for position, (index, ports) in enumerate(ranges):
        for other, before in ranges[:position]:
            if ports.start <= before.end and before.start <= ports.end:
                what = f"overlaps with tenants[{other}].tcp_ports"
                remedy = "Give each tenant ports of its own: firewalls and node ports know no tenants."
                wanted = f"none of {before.start}-{before.end}"
                yield Problem(f"tenants[{index}].tcp_ports", what, remedy, wanted, f"{ports.start}-{ports.end}")


def _twins(entries: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """ClearML compares names and addresses without regard to case: so does this."""
    first: dict[str, str] = {}
    for path, text in entries:
        before = first.setdefault(text.casefold(), path)
        if before != path:
            kind, wanted = ("address", "an address") if path.endswith("email") else ("name", "a name")
            yield Problem(path, f"the same {kind} as {before}", "Rename one.", f"{wanted} of its own", text[:80])
