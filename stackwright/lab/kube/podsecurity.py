"""Pod Security Admission: the baseline and restricted standards and the texts of their refusals.

Source: the pages "Pod Security Standards" and "Pod Security Admission". Which level a cluster starts from is the lab's
choice (`state.psa_default`, `state.psa_exempt`): RKE2's CIS profile sets restricted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.errors import forbidden
from stackwright.lab.kube.values import dig, labels_of

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState
    from stackwright.lab.kube.writes import Change

Obj = dict[str, Any]
PREFIX = "pod-security.kubernetes.io/"
LEVELS = {"privileged": 0, "baseline": 1, "restricted": 2}
BASELINE_CAPABILITIES = {
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
}
FREE_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret", "image",
}  # fmt: skip


def check(state: KubeState, change: Change, pod: Obj) -> None:
    """Refuse a pod that its namespace's enforced level forbids."""
    level = level_of(state, change.namespace, "enforce")
    found = violations(pod["spec"], level)
    if found:
        version = labels_of(_space(state, change.namespace)).get(f"{PREFIX}enforce-version", "latest")
        raise forbidden("", "pods", change.name, f'violates PodSecurity "{level}:{version}": {", ".join(found)}')


def warnings(state: KubeState, change: Change, obj: Obj) -> list[str]:
    """Return the warning for a workload whose pods the namespace's warn level would refuse."""
    template = dig(obj, "spec", "template", "spec")
    if change.resource.crd or not isinstance(template, dict) or not template.get("containers"):
        return []
    level = level_of(state, change.namespace, "warn")
    found = violations(template, level)
    return [f'would violate PodSecurity "{level}:latest": {", ".join(found)}'] if found else []


def level_of(state: KubeState, namespace: str, mode: str) -> str:
    """Return a namespace's level for enforce, warn or audit."""
    if namespace in state.psa_exempt:
        return "privileged"
    level = labels_of(_space(state, namespace)).get(f"{PREFIX}{mode}", state.psa_default)
    return level if level in LEVELS else "restricted"


def _space(state: KubeState, namespace: str) -> Mapping[str, Any]:
    return state.peek(("", "namespaces"), "", namespace) or {"metadata": {}}


def violations(spec: Mapping[str, Any], level: str) -> list[str]:
    """Return what a pod spec has that the level forbids, as the refusal names it."""
    rank = LEVELS[level]
    found: list[str] = []
    if rank >= 1:
        found += _baseline(spec, level)
    if rank >= 2:
        found += _restricted(spec)
    return found


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        *(spec.get("initContainers") or ()),
        *(spec.get("containers") or ()),
        *(spec.get("ephemeralContainers") or ()),
    ]


def _named(names: list[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"container{'s' if len(names) > 1 else ''} {quoted}"


def _baseline(spec: Mapping[str, Any], level: str) -> list[str]:
    found = []
    spaces = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if spaces:
        found.append(f"host namespaces ({', '.join(f'{name}=true' for name in spaces)})")
    privileged = [c["name"] for c in _containers(spec) if dig(c, "securityContext", "privileged")]
    if privileged:
        found.append(f"privileged ({_named(privileged)} must not set securityContext.privileged=true)")
    if level == "baseline":
        for item in _containers(spec):
            added = set(dig(item, "securityContext", "capabilities", "add", default=())) - BASELINE_CAPABILITIES
            if added:
                shown = ", ".join(f'"{name}"' for name in sorted(added))
                found.append(f'non-default capabilities ({_named([item["name"]])} must not include {shown} in '
                             "securityContext.capabilities.add)")  # fmt: skip
    paths = [volume["name"] for volume in spec.get("volumes") or () if "hostPath" in volume]
    if paths:
        shown = ", ".join(f'"{name}"' for name in paths)
        found.append(f"hostPath volumes (volume{'s' if len(paths) > 1 else ''} {shown})")
    for item in _containers(spec):
        ports = [str(port["hostPort"]) for port in item.get("ports") or () if port.get("hostPort")]
        if ports:
            found.append(
                f"hostPort ({_named([item['name']])} uses hostPort{'s' if len(ports) > 1 else ''} {', '.join(ports)})"
            )
    return found


def _restricted(spec: Mapping[str, Any]) -> list[str]:
    found = []
    items = _containers(spec)
    pod = spec.get("securityContext") or {}

    def failing(test: Any) -> list[str]:
        return [item["name"] for item in items if test(item.get("securityContext") or {})]

    escalating = failing(lambda context: context.get("allowPrivilegeEscalation") is not False)
    if escalating:
        found.append(f"allowPrivilegeEscalation != false ({_named(escalating)} must set "
                     "securityContext.allowPrivilegeEscalation=false)")  # fmt: skip
    undropped = failing(lambda context: "ALL" not in (dig(context, "capabilities", "drop", default=())))
    adding = failing(lambda context: set(dig(context, "capabilities", "add", default=())) - {"NET_BIND_SERVICE"})
    if undropped or adding:
        parts = [f'{_named(undropped)} must set securityContext.capabilities.drop=["ALL"]'] if undropped else []
        parts += (
            [f"{_named(adding)} must not include forbidden capabilities in securityContext.capabilities.add"]
            if adding
            else []
        )
        found.append(f"unrestricted capabilities ({'; '.join(parts)})")
    odd = [volume["name"] for volume in spec.get("volumes") or () if not (set(volume) - {"name"}) <= FREE_VOLUMES]
    if odd:
        shown = ", ".join(f'"{name}"' for name in odd)
        found.append(f"restricted volume types (volumes {shown} use restricted volume types)")
    running = failing(lambda context: context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True)
    if running:
        found.append(f"runAsNonRoot != true (pod or {_named(running)} must set securityContext.runAsNonRoot=true)")
    if pod.get("runAsUser") == 0:
        found.append("runAsUser=0 (pod must not set runAsUser=0)")
    allowed = {"RuntimeDefault", "Localhost"}
    wide = failing(
        lambda context: (
            dig(context, "seccompProfile", "type", default=dig(pod, "seccompProfile", "type")) not in allowed
        )
    )
    if wide:
        found.append(f"seccompProfile (pod or {_named(wide)} must set securityContext.seccompProfile.type to "
                     '"RuntimeDefault" or "Localhost")')  # fmt: skip
    return found
