"""What a workload of the validation is made of: its namespace, claim, Secrets and pods, and the lines that pods say.

Pure. Every workload lives in a namespace of its own, so that one deletion takes all of it away; the namespace says
which workload and version it is and how long it may live, so that a later run can remove what a dead one left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stackwright.domain.cluster import NodeStatus, Obj
from stackwright.domain.layers import gpu_operator
from stackwright.domain.layers.shared import MANAGED_BY, PSA
from stackwright.domain.spec import StackSpec
from stackwright.domain.tenant_objects import PULL_HOST

WORK_LABEL = "stackwright.io/work"
VERSION_LABEL = "stackwright.io/work-version"
LIFE_NOTE = "stackwright.io/work-life-s"
PROGRAM_ENV = "WORK_PROGRAM"
PREFIX = "stackwright-work-"
GPU = gpu_operator.RESOURCES["nvidia"]
CLAIM, SIZE, BYTES = "data", "256Mi", 4 << 20
BLOCKING = ("NoSchedule", "NoExecute")
NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
SHARE = {"cpu": "100m", "memory": "128Mi"}

# POSIX sh and coreutils. `exchange` ends only when the other pod, which has the volume open at the same time, answered.
PROGRAM = """
set -eu
say() { sum=$(sha256sum < "/data/$2"); size=$(wc -c < "/data/$2"); echo "$1 $2 ${sum%% *}" $size; }
put() { head -c "$WORK_BYTES" /dev/urandom > "/data/$1.part"; mv "/data/$1.part" "/data/$1"; sync; say WROTE "$1"; }
stay() { sleep "$WORK_STAY_S" > /dev/null 2>&1 & child=$!; wait "$child"; }
child=
trap '[ -z "$child" ] || kill "$child"; exit 0' TERM
case "$WORK_PROGRAM" in
exchange) put "$WORK_OWN"; until [ -s "/data/$WORK_OTHER" ]; do ls /data > /dev/null; sleep 1; done; say READ "$WORK_OTHER" ;;
keep) put "$WORK_OWN"; stay ;;
read) say READ "$WORK_OTHER"; stay ;;
esac
"""  # noqa: E501 - a program's lines


@dataclass(frozen=True)
class Work:
    """A workload. Its version goes up with every change of what it does: results of two versions are not the same."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


SHARED, LOSS, PULL, CUDA = Work("shared-volume", 1), Work("volume-loss", 1), Work("image-pull", 1), Work("cuda", 1)
DEATH = Work("node-loss", 1)


@dataclass(frozen=True)
class Sum:
    """A file as a pod saw it."""

    file: str
    sha256: str
    size: int


def read_sum(log: str, verb: str) -> Sum | None:
    """Return the file that a pod says to have written or read (WROTE, READ); None where it says nothing of it."""
    found = re.search(rf"^{verb} (\S+) ([0-9a-f]{{64}}) +(\d+)$", log, re.MULTILINE)
    return Sum(found[1], found[2], int(found[3])) if found else None


# --- where -----------------------------------------------------------------------------------------------------------


def work_nodes(spec: StackSpec, nodes: Iterable[NodeStatus]) -> list[str]:
    """Return the nodes on which any pod may run now, those with disks first, by name within each."""
    disks = {node.name for node in spec.storage_nodes}
    fit = [
        node.name
        for node in nodes
        if node.ready and node.schedulable and not any(taint.rpartition(":")[2] in BLOCKING for taint in node.taints)
    ]
    return sorted(fit, key=lambda name: (name not in disks, name))


def pinned(node: str) -> Obj:
    """Return the affinity of a pod that may run on one node only. The scheduler still places it."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


# --- objects ---------------------------------------------------------------------------------------------------------


def namespace_of(work: Work, run: str, life_s: float) -> Obj:
    """Make the namespace of one run of a workload. RKE2's CIS profile would say restricted."""
    labels = {**_labels(work), **{f"{PSA}{mode}": "baseline" for mode in ("enforce", "audit", "warn")}}
    meta = {"name": f"{PREFIX}{work.name}-{run}", "labels": labels, "annotations": {LIFE_NOTE: str(int(life_s))}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}


def _labels(work: Work) -> dict[str, str]:
    return {**MANAGED_BY, WORK_LABEL: work.name, VERSION_LABEL: str(work.version)}


def is_left_over(space: Obj, now: float) -> bool:
    """Tell whether a workload's namespace has outlived its time: its run is dead. `now` is the cluster's clock."""
    meta = space["metadata"]
    if WORK_LABEL not in (meta.get("labels") or {}) or meta.get("deletionTimestamp"):
        return False
    life = str((meta.get("annotations") or {}).get(LIFE_NOTE, ""))
    made = datetime.fromisoformat(meta["creationTimestamp"]).timestamp()
    return life.isdigit() and now - made > int(life)


def claim_of(space: str, storage_class: str, mode: str) -> Obj:
    spec = {"accessModes": [mode], "storageClassName": storage_class, "resources": {"requests": {"storage": SIZE}}}
    meta = {"name": CLAIM, "namespace": space, "labels": dict(MANAGED_BY)}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def pull_secret(space: str, name: str, config: str) -> Obj:
    """Make a Secret of a docker configuration."""
    meta = {"name": name, "namespace": space, "labels": dict(MANAGED_BY)}
    made = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": meta}
    return made | {"stringData": {".dockerconfigjson": config}}


def registry_of(image: str) -> str:
    """Return the host of an image's registry, as container runtimes read a name without one."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def login_block(spec: StackSpec, image: str) -> str:
    """Return the block with the login for an image: the one that is said, the registry's, or ClearML's token."""
    if spec.validation.pull_image and spec.validation.pull_block:
        return spec.validation.pull_block
    host = registry_of(image)
    if host == PULL_HOST and not spec.validation.pull_image:
        return spec.clearml.registry_block
    return spec.rke2.registries.credentials.get(host) or spec.charts.credentials.get(host, "")


def volume_pod(
    work: Work, space: str, name: str, node: str, image: str, program: str, life_s: float, *, own: str, other: str,
    pulls: list[dict[str, str]],
) -> Obj:  # fmt: skip
    """Make a pod that has the claim open on one node."""
    values = {
        PROGRAM_ENV: program, "WORK_OWN": own, "WORK_OTHER": other, "WORK_BYTES": str(BYTES),
        "WORK_STAY_S": str(int(life_s)),
    }  # fmt: skip
    container = {
        "name": "work",
        "image": image,
        "command": ["sh", "-c", PROGRAM],
        "env": [{"name": key, "value": value} for key, value in values.items()],
        "resources": {"requests": SHARE},
        "volumeMounts": [{"name": CLAIM, "mountPath": "/data"}],
    }
    more = {
        "affinity": pinned(node),
        "imagePullSecrets": pulls,
        "volumes": [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}],
        "terminationGracePeriodSeconds": 5,
    }
    return _pod(work, space, name, life_s, container, more)


def pull_pod(space: str, name: str, image: str, secret: str, life_s: float) -> Obj:
    """Make a pod whose image is asked for anew with one Secret; what the image does is of no matter."""
    share = {"cpu": "100m", "memory": "64Mi"}
    container = {
        "name": "work", "image": image, "imagePullPolicy": "Always", "command": ["sh", "-c", "exit 0"],
        "resources": {"requests": share, "limits": share},
    }  # fmt: skip
    return _pod(PULL, space, name, life_s, container, {"imagePullSecrets": [{"name": secret}]})


def cuda_job(space: str, name: str, node: str, spec: StackSpec, runtime_class: str, life_s: float) -> Obj:
    """Make the Job that lists its GPU and computes on it. The image's own program is run: no path is guessed."""
    resources = {"limits": {GPU: "1"}}
    image = spec.validation.cuda_image
    device = {"name": "device", "image": image, "command": ["nvidia-smi", "-L"], "resources": resources}
    taints = {taint.key for one in spec.nodes for taint in one.taints} | {GPU}
    more: dict[str, Any] = {
        "affinity": pinned(node),
        "initContainers": [device],
        "tolerations": [{"key": key, "operator": "Exists"} for key in sorted(taints)],
    }
    more |= {"runtimeClassName": runtime_class} if runtime_class else {}
    pod = _pod(CUDA, space, name, life_s, {"name": "cuda", "image": image, "resources": resources}, more)
    template = {"metadata": {"labels": _labels(CUDA)}, "spec": pod["spec"]}
    body = {
        "backoffLimit": 0,
        "activeDeadlineSeconds": int(life_s),
        "ttlSecondsAfterFinished": int(life_s),
        "template": template,
    }
    meta = {"name": name, "namespace": space, "labels": _labels(CUDA)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": body}


def privileged_pod(space: str) -> Obj:
    """Make a pod that no tenant may run: it would own its host."""
    share = {"cpu": "10m", "memory": "16Mi"}
    container = {
        "name": "work", "image": "stackwright/never-pulled:1", "securityContext": {"privileged": True},
        "resources": {"requests": share, "limits": share},
    }  # fmt: skip
    return _bare(space, "privileged", {"containers": [container], "hostPID": True})


def refused_pod(space: str, image: str) -> Obj:
    """Make a harmless pod with an image that admission control should refuse."""
    share = {"cpu": "10m", "memory": "16Mi"}
    container = {"name": "work", "image": image, "resources": {"requests": share, "limits": share}}
    return _bare(space, "refused-image", {"containers": [container]})


def _pod(work: Work, space: str, name: str, life_s: float, container: Obj, more: Mapping[str, Any]) -> Obj:
    spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(life_s),
        "automountServiceAccountToken": False,
        "containers": [container],
        **more,
    }
    meta = {"name": name, "namespace": space, "labels": _labels(work)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _bare(space: str, name: str, spec: Obj) -> Obj:
    meta = {"name": f"{PREFIX}{name}", "namespace": space, "labels": dict(MANAGED_BY)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"restartPolicy": "Never", **spec}}


# --- what a pod's status says ----------------------------------------------------------------------------------------


def states_of(pod: Obj) -> list[Obj]:
    """Return the states of a pod's containers, init containers first, each with one key: waiting, running, ..."""
    status = pod.get("status") or {}
    held = (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))
    return [item.get("state") or {} for item in held]


def pull_trouble(pod: Obj) -> str:
    """Return why an image of a pod could not be pulled; empty while nothing says so."""
    for state in states_of(pod):
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in NOT_PULLED:
            return f"{waiting['reason']}: {waiting.get('message', '')}".strip(": ")
    return ""


def is_pulled(pod: Obj) -> bool:
    """Tell whether a pod's image is on the node: it ran, ended, or failed later than that."""
    later = ("CreateContainerError", "RunContainerError", "CrashLoopBackOff", "StartError")
    return any(
        "running" in state or "terminated" in state or (state.get("waiting") or {}).get("reason") in later
        for state in states_of(pod)
    )
