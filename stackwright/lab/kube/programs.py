"""What the validation's workloads do in this stand-in, which runs no containers: files on volumes, GPUs, pulls.

Volumes hold real bytes, so that a sum that is read is the sum of what was written. What a GPU "computes" is said to be
simulated, in the pod's own log. Left out: Deployments are not held to one node by an exclusive volume, for the stand-in
charts leave their strategy out; only pods without a controller are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stackwright.domain.work_objects import PROGRAM_ENV, registry_of
from stackwright.lab.kube.scheduling import node_ready
from stackwright.lab.kube.values import dig, labels_of
from stackwright.lab.kube.volumes import SHARED

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
PODS, CLAIMS, VOLUMES = ("", "pods"), ("", "persistentvolumeclaims"), ("", "persistentvolumes")
GPU = "nvidia.com/gpu"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
DETACH_S = 360.0  # maxWaitForUnmountDuration of the attach-detach controller
SIMULATED = "[simulated: the lab has no GPU, nothing was computed]"


@dataclass(frozen=True)
class Said:
    """What a pod's containers have printed by now. `ended` is None while the program goes on, else its exit code."""

    logs: Mapping[str, str]
    ended: int | None


def run(state: KubeState, pod: Obj) -> Said | None:
    """Return what a known program has done by now; None for a pod that runs another."""
    container = pod["spec"]["containers"][0]
    values = {item["name"]: item.get("value", "") for item in container.get("env") or ()}
    if PROGRAM_ENV in values:
        return _on_volume(state, pod, container["name"], values)
    if GPU in dig(container, "resources", "limits", default={}) and "cuda-sample" in container["image"]:
        return _on_gpu(state, pod, container["name"])
    return None


# --- volumes ---------------------------------------------------------------------------------------------------------


def _on_volume(state: KubeState, pod: Obj, name: str, values: Mapping[str, str]) -> Said:
    files, program, own, other = _files(state, pod), values[PROGRAM_ENV], values["WORK_OWN"], values["WORK_OTHER"]
    lines = []
    if program in ("exchange", "keep"):
        data = files.setdefault(own, os.urandom(int(values["WORK_BYTES"])))
        lines.append(f"WROTE {own} {_described(data)}")
    if program == "exchange" and other not in files:
        return Said({name: _text(lines)}, None)
    if program in ("exchange", "read"):
        if other not in files or _is_lost(state, pod):
            return Said({name: _text([*lines, f"sh: /data/{other}: Input/output error"])}, 1)
        lines.append(f"READ {other} {_described(files[other])}")
    return Said({name: _text(lines)}, 0 if program == "exchange" else None)


def _described(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()} {len(data)}"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _files(state: KubeState, pod: Obj) -> dict[str, bytes]:
    """Return the files on the pod's first volume; those of volumes that are gone are forgotten."""
    for name in [name for name in state.volume_files if state.peek(VOLUMES, "", name) is None]:
        del state.volume_files[name]
        state.attached.pop(name, None)
    return state.volume_files.setdefault(next(_volumes(state, pod), ("", {}))[0], {})


def _volumes(state: KubeState, pod: Obj) -> Iterator[tuple[str, Obj]]:
    """Yield the name of each volume that a pod has claimed, with the claim."""
    for volume in pod["spec"].get("volumes") or ():
        claim = state.peek(
            CLAIMS, pod["metadata"]["namespace"], dig(volume, "persistentVolumeClaim", "claimName") or ""
        )
        if claim is not None and claim["spec"].get("volumeName"):
            yield claim["spec"]["volumeName"], claim


def _is_lost(state: KubeState, pod: Obj) -> bool:
    """Tell whether Longhorn keeps no healthy copy of the pod's volume. Volumes of other drivers are never lost."""
    name = next(_volumes(state, pod), ("", {}))[0]
    try:
        copies = [item for item in state.each("longhorn.io/Replica") if item["spec"].get("volumeName") == name]
    except LookupError:
        return False
    return bool(copies) and not any(
        item["spec"].get("healthyAt") and not item["spec"].get("failedAt") for item in copies
    )


def attach_problem(state: KubeState, pod: Obj) -> str:
    """Say why the pod's exclusive volume cannot be attached to its node, else attach it. Kubernetes: Multi-Attach.

    A volume that was last used on a node that is lost is taken from it only after six minutes, or at once where that
    node has the taint out-of-service. Source: "Non-graceful node shutdown"; kubernetes, attach_detach_controller.
    """
    if pod["metadata"].get("ownerReferences"):
        return ""
    node = pod["spec"].get("nodeName")
    for name, claim in _volumes(state, pod):
        if SHARED & set(claim["spec"].get("accessModes") or ()):
            continue
        for other in state.each(PODS, pod["metadata"]["namespace"]):
            holds = other["spec"].get("nodeName") not in ("", None, node) and dig(other, "status", "phase") == "Running"
            if holds and name in dict(_volumes(state, other)):
                user = other["metadata"]["name"]
                return f'Multi-Attach error for volume "{name}" Volume is already used by pod(s) {user}'
        if _is_held(state, name, node):
            text = "Volume is already exclusively attached to one node and can't be attached to another"
            return f'Multi-Attach error for volume "{name}" {text}'
        state.forget_clocks(f"detach/{name}")
        state.attached[name] = node
    return ""


def _is_held(state: KubeState, volume: str, node: str) -> bool:
    """Tell whether a volume is still attached to another node that is lost."""
    before = state.peek(("", "nodes"), "", state.attached.get(volume, ""))
    if before is None or before["metadata"]["name"] == node or node_ready(before):
        return False
    if any(taint["key"] == OUT_OF_SERVICE for taint in dig(before, "spec", "taints", default=())):
        return False
    return state.controllers_clock(("wait", f"detach/{volume}")) < DETACH_S


# --- GPUs ------------------------------------------------------------------------------------------------------------


def _on_gpu(state: KubeState, pod: Obj, name: str) -> Said:
    node = state.peek(("", "nodes"), "", pod["spec"].get("nodeName", "")) or {"metadata": {"name": ""}}
    model = labels_of(node).get("nvidia.com/gpu.product", "NVIDIA GPU")
    device = uuid.uuid5(uuid.NAMESPACE_DNS, f"gpu0.{node['metadata']['name']}")
    logs = {name: f"[Vector addition of 50000 elements]\nTest PASSED {SIMULATED}\nDone\n"}
    for item in pod["spec"].get("initContainers") or ():
        logs[item["name"]] = f"GPU 0: {model} (UUID: GPU-{device}) {SIMULATED}\n"
    return Said(logs, 0)


# --- pulls -----------------------------------------------------------------------------------------------------------


def pull_problem(state: KubeState, pod: Obj) -> str:
    """Say why a registry refuses the pod's own login; a pod without one pulls with that of the node's registries.yaml.

    Several logins for a registry are tried one after the other. Kubernetes: "Pull an Image from a Private Registry".
    """
    for container in [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]:
        host = registry_of(container["image"])
        known = state.image_logins.get(host)
        given = list(_logins(state, pod, host)) if known is not None else []
        if known is not None and given and not any(known.get(user) == password for user, password in given):
            path = container["image"].removeprefix(f"{host}/").rpartition(":")
            return (
                f'Failed to pull image "{container["image"]}": failed to pull and unpack image '
                f'"{container["image"]}": failed to resolve reference "{container["image"]}": unexpected status from '
                f"HEAD request to https://{host}/v2/{path[0]}/manifests/{path[2]}: 401 Unauthorized"
            )
    return ""


def _logins(state: KubeState, pod: Obj, host: str) -> Iterator[tuple[str, str]]:
    """Yield user and password for a registry from the pod's pull Secrets."""
    for reference in pod["spec"].get("imagePullSecrets") or ():
        secret = state.peek(("", "secrets"), pod["metadata"]["namespace"], reference.get("name") or "") or {}
        text = dig(secret, "data", ".dockerconfigjson", default="")
        try:
            auths = json.loads(base64.b64decode(text) or b"{}").get("auths") or {}
        except (ValueError, binascii.Error):
            continue
        for place, entry in auths.items():
            if place.removeprefix("https://").split("/")[0].removeprefix("index.") == host:
                yield entry.get("username", ""), entry.get("password", "")
