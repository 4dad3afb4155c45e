"""Discovery: which groups, versions and kinds are served, in the classic form and in the aggregated one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.kinds import Resource

if TYPE_CHECKING:
    from stackwright.lab.kube.store import Store

Obj = dict[str, Any]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# Group and kind of what a subresource speaks, where that is not its own kind.
SPOKEN = {
    "scale": ("autoscaling", "v1", "Scale"),
    "eviction": ("policy", "v1", "Eviction"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
    "binding": ("", "v1", "Binding"),
}
SUB_VERBS = {
    "status": ["get", "patch", "update"],
    "scale": ["get", "patch", "update"],
    "eviction": ["create"],
    "token": ["create"],
    "binding": ["create"],
    "log": ["get"],
    "finalize": ["update"],
    "approval": ["get", "patch", "update"],
    "proxy": ["create", "delete", "get", "patch", "update"],
    "ephemeralcontainers": ["get", "patch", "update"],
    "resize": ["get", "patch", "update"],
}


def groups(store: Store) -> dict[str, list[str]]:
    """Return the served versions of each group, preferred first; the core group is the empty one."""
    made: dict[str, list[str]] = {}
    for resource in store.resources.values():
        versions = made.setdefault(resource.group, [])
        versions += [version for version in resource.versions if version not in versions]
    return made


def serves(store: Store, group: str, version: str) -> bool:
    return any(item.group == group and version in item.versions for item in store.resources.values())


def api_versions(host: str) -> Obj:
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_list(store: Store) -> Obj:
    found = [group(store, name) for name in groups(store) if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [item for item in found if item]}


def group(store: Store, name: str) -> Obj | None:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in groups(store).get(name, ())]
    if not versions:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": versions[0]}


def resource_list(store: Store, name: str, version: str) -> Obj:
    """Return the classic list of one group version."""
    items: list[Obj] = []
    for resource in _of(store, name, version):
        entry: Obj = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short:
            entry["shortNames"] = list(resource.short)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        items.append(entry)
        for below in sorted(resource.subresources):
            spoken = SPOKEN.get(below)
            sub: Obj = {
                "name": f"{resource.plural}/{below}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": spoken[2] if spoken else resource.kind,
                "verbs": SUB_VERBS.get(below, ["get"]),
            }
            if spoken:
                sub |= {"group": spoken[0], "version": spoken[1]}
            items.append(sub)
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": items}


def aggregated(store: Store, *, core: bool) -> Obj:
    """Return everything at once, for /api (core) or /apis."""
    items = []
    for name, versions in groups(store).items():
        if (not name) != core:
            continue
        described = [_version(store, name, version) for version in versions]
        items.append({"metadata": {"name": name} if name else {"creationTimestamp": None}, "versions": described})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _version(store: Store, name: str, version: str) -> Obj:
    resources = []
    for resource in _of(store, name, version):
        kind = {"group": name, "version": version, "kind": resource.kind}
        entry: Obj = {
            "resource": resource.plural,
            "responseKind": kind,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "singularResource": resource.singular,
            "verbs": list(resource.verbs),
        }
        if resource.short:
            entry["shortNames"] = list(resource.short)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        below = [_subresource(item, kind) for item in sorted(resource.subresources)]
        if below:
            entry["subresources"] = below
        resources.append(entry)
    return {"version": version, "resources": resources, "freshness": "Current"}


def _subresource(name: str, kind: Obj) -> Obj:
    spoken = SPOKEN.get(name)
    response = {"group": spoken[0], "version": spoken[1], "kind": spoken[2]} if spoken else kind
    return {"subresource": name, "responseKind": response, "verbs": SUB_VERBS.get(name, ["get"])}


def _of(store: Store, name: str, version: str) -> list[Resource]:
    return [item for item in store.resources.values() if item.group == name and version in item.versions]


def version_info(git_version: str) -> Obj:
    """Return /version."""
    numbers = git_version.lstrip("v").split(".")
    return {
        "major": numbers[0],
        "minor": numbers[1],
        "emulationMajor": numbers[0],
        "emulationMinor": numbers[1],
        "minCompatibilityMajor": numbers[0],
        "minCompatibilityMinor": str(int(numbers[1]) - 1),
        "gitVersion": git_version,
        "gitCommit": "0" * 40,
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "go1.24.0",
        "compiler": "gc",
        "platform": "linux/amd64",
    }
