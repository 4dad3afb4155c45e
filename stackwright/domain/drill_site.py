"""The spare host's own site: production's spec reduced to one fenced server of the bundle's RKE2 release. Pure.

What production and its cluster need is left out rather than overridden: no layers, no tenants, no other nodes, no names
that lead to production, no blocks beside those that reach the host and install RKE2 there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from stackwright.domain.bundle import BundleError, BundleState, Manifest, file_content
from stackwright.domain.drill_fence import fence_targets
from stackwright.domain.errors import Problem, StackError
from stackwright.domain.kinds import Kind
from stackwright.domain.rke2_facts import CONFIG
from stackwright.domain.shell import STATE
from stackwright.domain.spec import Dns, Drill, Layers, Maintenance, Node, Proxy, Registries, Rke2, StackSpec, Taint

MARK = f"{STATE}/drill"
"""Marker on the spare host, from before the first change until all is wiped: this host holds a drill, nothing else."""
LABEL = {"stackwright.io/drill": "restored"}
TAINT = Taint(key="stackwright.io/drill", value="restored", effect="NoExecute")
"""Nothing of production's workload runs there: only what tolerates everything, as the network's own pods do."""
_FROM_BUNDLE = {
    "cni": "cni",
    "ingress-controller": "ingress_controller",
    "cluster-cidr": "cluster_cidr",
    "service-cidr": "service_cidr",
    "cluster-domain": "cluster_domain",
    "profile": "profile",
}
"""Keys of config.yaml that the restored cluster must have as it had them, by their names in the site file."""


def drill_of(spec: StackSpec) -> Drill:
    """Return the site's section `backup.drill`. Raises StackError where there is none."""
    if spec.backup is None or spec.backup.drill is None:
        remedy = "Name a spare host, apart from every cluster: backup.drill.host."
        raise StackError("the site has no spare host for drills", where="backup.drill", wanted="a host", remedy=remedy)
    return spec.backup.drill


def spare_host(spec: StackSpec) -> Node:
    """Return the spare host as the one server that it will be, with the drill's label and taint."""
    host = drill_of(spec).host
    wanted = {
        "roles": ("server",),
        "labels": {**host.labels, **LABEL},
        "taints": (*host.taints, TAINT),
        "disks": (),
        "gpu": None,
    }
    return host.model_copy(update=wanted)


def drill_spec(spec: StackSpec, manifest: Manifest, state: BundleState) -> StackSpec:
    """Return the spec of the spare host alone, as the server that the bundle is restored on.

    Release and networks are the bundle's, not the site file's: that may have moved on. Raises BundleError
    (file-missing) for a bundle without its config.yaml.
    """
    host = spare_host(spec)
    want = spec.rke2
    rke2 = {
        **_kept(manifest, state),
        **release_of(want, manifest.rke2_version),
        "registration_address": host.address,
        "tls_san": (host.address,),
        "node_cidrs": (),
        "registries": drill_registries(want),
        "proxy": Proxy() if want.artifacts.images else want.proxy,
        "kubelet_args": (),
        "token_block": "drill-token",
        "kubeconfig_block": "drill-access",
        "allow_single_server": True,
    }
    update: dict[str, Any] = {
        "site": f"{spec.site}-drill",
        "nodes": (host,),
        "removed": (),
        "rke2": want.model_copy(update=rke2),
        "dns": Dns(servers=spec.dns.servers, search=spec.dns.search, hosts=_needed_names(spec)),
        "layers": Layers(**{name: {"enabled": False} for name in Layers.model_fields}),
        "tenants": (),
        "backup": None,
        "maintenance": Maintenance(),
    }
    return spec.model_copy(update=update)


def release_of(want: Rke2, version: str) -> dict[str, object]:
    """Return the keys of `rke2` for another release: its version, and where its artifacts lie.

    A folder of artifacts that is named by its release has the others beside it; a URL has the release in its path.
    """
    artifacts, (before, slash, last) = want.artifacts, (want.artifacts.folder or "").rpartition("/")
    if last == want.version:
        artifacts = artifacts.model_copy(update={"folder": f"{before}{slash}{version}"})
    return {"version": version, "artifacts": artifacts}


def drill_registries(want: Rke2) -> Registries:
    """Return where the spare host may get images: from nowhere, where they come as archives with the release.

    Otherwise from the site's mirrors, as they are: RKE2 cannot start without its images.
    """
    if want.artifacts.images:
        return Registries(
            system_default_registry=want.registries.system_default_registry, disable_default_endpoint=True
        )
    return want.registries


def allowed_blocks(spec: StackSpec) -> frozenset[tuple[Kind, str]]:
    """Return the site's own blocks that a drill may read: the SSH key, the registration code, logins for images."""
    found: set[tuple[Kind, str]] = {("ssh-key", spec.ssh.key_block)}
    if spec.registration.code_block:
        found.add(("registration", spec.registration.code_block))
    found |= {("registry", block) for block in drill_registries(spec.rke2).credentials.values()}
    return frozenset(found)


def check_drill_site(spec: StackSpec, addresses: Mapping[str, tuple[str, ...]]) -> list[Problem]:
    """Return what forbids any drill: a spare host that is no spare one, and sources that lie behind the fence.

    `addresses` are those of host names as the controller knows them.
    """
    return [*_not_spare(spec, addresses), *_needed_behind_fence(spec, addresses)]


def _not_spare(spec: StackSpec, addresses: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    host = drill_of(spec).host
    remedy = "Name a machine that is in no cluster: it is wiped before and after each drill."
    for node in (*spec.nodes, *spec.removed):
        if host.name == node.name or (host.address == node.address and host.port == node.port):
            yield Problem("backup.drill.host", f"is {node.name}, a node of the site", remedy, "a spare host", host.name)
    place = spec.rke2.registration_address
    if host.address in (place, *addresses.get(place, ())):
        yield Problem("backup.drill.host", "has the registration address", remedy, "a spare host", host.address)


def _needed_behind_fence(spec: StackSpec, addresses: Mapping[str, tuple[str, ...]]) -> Iterator[Problem]:
    fenced = {(target.host, target.port): target for target in fence_targets(spec, addresses)}
    for where, url in _sources(spec):
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        for one in (host, *addresses.get(host, ())):
            if (one, port) in fenced:
                remedy = "Give the spare host a source outside of production, such as rke2.artifacts.images."
                what = "the spare host needs it, and the fence must keep it away"
                yield Problem(where, what, remedy, "a source that is no part of production", str(fenced[one, port]))
                break


def _sources(spec: StackSpec) -> Iterator[tuple[str, str]]:
    """Yield what the spare host gets files from, with its place in the site file."""
    if spec.rke2.artifacts.source == "url" and spec.rke2.artifacts.url:
        yield "rke2.artifacts.url", spec.rke2.artifacts.url
    if spec.registration.url:
        yield "registration.url", spec.registration.url
    registries = drill_registries(spec.rke2)
    for endpoints in registries.mirrors.values():
        for endpoint in endpoints:
            yield "rke2.registries.mirrors", endpoint
    if registries.system_default_registry and not spec.rke2.artifacts.images:
        yield "rke2.registries.system_default_registry", f"https://{registries.system_default_registry}"
    for repository in spec.packages.repositories:
        yield "packages.repositories", repository.url


def _needed_names(spec: StackSpec) -> dict[str, str]:
    """Return the static names that the spare host needs; production's others lead nowhere there."""
    hosts = {urlsplit(url).hostname for _, url in _sources(spec)} | {*spec.time.servers}
    return {name: address for name, address in spec.dns.hosts.items() if name in hosts}


def _kept(manifest: Manifest, state: BundleState) -> dict[str, Any]:
    config = _read_config(state, manifest.id)
    found: dict[str, Any] = {"profile": "none"}
    found |= {ours: config[theirs] for theirs, ours in _FROM_BUNDLE.items() if theirs in config}
    for key, ours in (("disable", "disable"), ("etcd-arg", "etcd_args")):
        value = config.get(key, ())
        found[ours] = tuple(value) if isinstance(value, list) else (value,) if value else ()
    return found


def _read_config(state: BundleState, where: str) -> dict[str, Any]:
    """Return config.yaml and the files beside it as RKE2 merges them. Raises BundleError where there is none."""
    merged: dict[str, Any] = {}
    try:
        for path in sorted(path for path in state.files if path == CONFIG or path.startswith(f"{CONFIG}.d/")):
            merged |= yaml.safe_load(file_content(state, path) or b"") or {}
        if CONFIG in state.files and merged:
            return merged
    except (yaml.YAMLError, TypeError, ValueError):
        merged = {}  # what such an error says would quote the file
    remedy = "Use another bundle; without this file nobody knows the cluster's networks."
    seen = "no settings in it" if CONFIG in state.files else "no such file"
    problem = Problem(CONFIG, "the bundle does not hold the cluster's configuration", remedy, "settings", seen)
    raise BundleError("file-missing", "the bundle cannot be restored", [problem], where=where)
