"""The volume check: a claim is made and bound, a pod writes to it and reads back; then everything is removed.

The pods run the storage manager's own image: it is on the nodes already, also without a network, and has a shell.
"""

from __future__ import annotations

from typing import Any

from stackwright.clients.kube import KubeClient
from stackwright.domain.cluster import image_of
from stackwright.domain.layers.gates import VolumeSmokeGate

MANAGER_DAEMON_SET = "longhorn-manager"
WORD = "stackwright"
SIZE = "256Mi"


def names(gate: VolumeSmokeGate) -> tuple[str, tuple[str, ...]]:
    """Return the claim's name and the pods': a shared volume is written by one pod and read by another."""
    short = "rwx" if gate.mode == "ReadWriteMany" else "rwo"
    pods = (f"stackwright-smoke-{short}-write", f"stackwright-smoke-{short}-read")
    return f"stackwright-smoke-{short}", pods if short == "rwx" else pods[:1]


def look_volume(kube: KubeClient, gate: VolumeSmokeGate) -> tuple[bool, str]:
    """Bring the check one step on, and say whether it is done and what was seen. Safe to call again after a crash."""
    claim, pods = names(gate)
    space = gate.namespace
    if kube.get("v1", "PersistentVolumeClaim", claim, space) is None:
        kube.create(_claim(claim, gate))
    bound = kube.rollout("PersistentVolumeClaim", claim, space)
    image = manager_image(kube, space)
    if image is None:
        return False, f"DaemonSet {MANAGER_DAEMON_SET} does not exist"
    for number, name in enumerate(pods):
        pod = kube.get("v1", "Pod", name, space)
        if pod is None:
            kube.create(_pod(name, claim, space, image, write=number == 0))
            return False, f"claim {bound.detail}, {name} started"
        phase = (pod.get("status") or {}).get("phase", "Pending")
        if phase == "Failed":
            kube.delete("v1", "Pod", name, space)  # a fresh one is made at the next look
        if phase != "Succeeded":
            return False, f"claim {bound.detail}, {name} {phase}"
    return bound.ready, f"claim {bound.detail}, {len(pods)} pod(s) wrote and read"


def remove_volume(kube: KubeClient, gate: VolumeSmokeGate) -> None:
    """Remove the check's pods and claim; nothing happens where there are none."""
    claim, pods = names(gate)
    for name in pods:
        kube.delete("v1", "Pod", name, gate.namespace)
    kube.delete("v1", "PersistentVolumeClaim", claim, gate.namespace)


def manager_image(kube: KubeClient, space: str) -> str | None:
    """Return the storage manager's image: it is on the nodes already, also without a network, and has a shell."""
    manager = kube.get("apps/v1", "DaemonSet", MANAGER_DAEMON_SET, space)
    return None if manager is None else image_of(manager)


def _claim(name: str, gate: VolumeSmokeGate) -> dict[str, Any]:
    spec = {
        "accessModes": [gate.mode],
        "storageClassName": gate.storage_class,
        "resources": {"requests": {"storage": SIZE}},
    }
    meta = {"name": name, "namespace": gate.namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def _pod(name: str, claim: str, space: str, image: str, *, write: bool) -> dict[str, Any]:
    read = f'test "$(cat /data/probe)" = {WORD}'
    script = f"echo {WORD} > /data/probe && sync && {read}" if write else read
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": space},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "probe",
                    "image": image,
                    "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
