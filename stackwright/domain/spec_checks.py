"""Every rule that a site file must keep beyond its shape, and what is worth a note. The rules are in checks/.

Facts about machines are not looked at here: what needs them is in the plan.
"""

from __future__ import annotations

import re

from stackwright.domain.checks.cluster import check_cluster
from stackwright.domain.checks.networks import check_networks
from stackwright.domain.checks.nodes import check_nodes
from stackwright.domain.checks.platform import check_platform
from stackwright.domain.errors import Problem
from stackwright.domain.layers import check_layers, check_site_versions
from stackwright.domain.spec import StackSpec
from stackwright.domain.tenant_checks import check_tenant_names
from stackwright.domain.windows import check_maintenance

_SITE = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def check_spec(spec: StackSpec) -> list[Problem]:
    """Return every problem of a spec, each with its path in the site file; empty when it may be planned."""
    problems = [] if _SITE.fullmatch(spec.site) else [_site(spec)]
    problems += [*check_nodes(spec), *check_networks(spec), *check_cluster(spec), *check_platform(spec)]
    problems += [*check_layers(spec), *check_site_versions(spec), *check_tenant_names(spec)]
    problems += check_maintenance(spec.maintenance)
    return _without_twins(problems)


def note_spec(spec: StackSpec) -> tuple[str, ...]:
    """Return what an operator should know about a spec although it is allowed; for the notes of a plan."""
    notes = []
    registries = spec.rke2.registries
    if spec.charts.mirror and not registries.disable_default_endpoint:
        notes.append(
            "charts.mirror is set, but rke2.registries.disable_default_endpoint is false: a missing image would still"
            " be asked for at the public registries. In an air gap set it to true, so that it fails at once."
        )
    if spec.rke2.allow_single_server and len(spec.servers) == 1:
        notes.append("A single server: no quorum, no maintenance without an outage. For trials only (guide 5.2).")
    if spec.firewall.mode == "open-ports" and spec.rke2.cni == "canal":
        notes.append("firewall.mode open-ports: firewalld disturbs Canal (RKE2: known issues); prefer disabled.")
    if spec.firewall.mode == "unmanaged":
        notes.append("firewall.mode unmanaged: the ports of guide 5.1 are yours to open; they are only looked at.")
    unpinned = [node.name for node in spec.nodes if node.host_key is None]
    if unpinned and spec.ssh.host_keys == "pinned":
        notes.append(f"Without nodes[].host_key a node is reached only if its key is known already: {_some(unpinned)}.")
    diskless = [node.name for node in spec.storage_nodes if not any(disk.use == "storage" for disk in node.disks)]
    if diskless and spec.layers.storage.enabled:
        notes.append(f"Storage nodes without a disk of their own (guide 5.4: dedicated disks only): {_some(diskless)}.")
    if spec.backup is None:
        notes.append("No section `backup`: backups of Rancher and of volumes stay inside the cluster (guide 5.3, 5.4).")
    if not spec.time.servers:
        notes.append("No time.servers: chrony is left as it is and only checked.")
    if len(spec.servers) > 7:
        notes.append(f"{len(spec.servers)} servers: beyond seven, etcd becomes slower and bears little more.")
    return tuple(notes)


def _site(spec: StackSpec) -> Problem:
    remedy = "Use a-z, 0-9 and `-`: the site's file and its folders carry this name."
    return Problem("site", "not a site's name", remedy, "at most 40 of a-z, 0-9, `-`", spec.site[:80])


def _without_twins(problems: list[Problem]) -> list[Problem]:
    """Keep the first problem of the same place and words."""
    return list({(problem.where, problem.what): problem for problem in reversed(problems)}.values())[::-1]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
