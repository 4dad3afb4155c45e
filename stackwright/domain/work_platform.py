"""Checks by which the platform below ClearML proves itself by work: storage, registry, admission, GPUs, observability.

Pure: the catalogue, and what each check makes of what was seen; for volumes that is in work_storage.py. What a workload
is made of is in work_objects.py; the workloads are started by tasks/work_volumes.py, work_images.py and work_gpus.py.
Guide: 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stackwright.domain.check import GPUS, KUBERNETES, Check, Outcome, judge
from stackwright.domain.cluster import NodeStatus, Obj
from stackwright.domain.quantities import quantity
from stackwright.domain.spec import StackSpec
from stackwright.domain.work_objects import CUDA, GPU, PULL

STORAGE, SECURITY, OBSERVABILITY = "SUSE Storage", "SUSE Security", "SUSE Observability"
AHEAD_S = 120.0  # clocks differ a little; a sample further in the future is of a clock that is wrong

CHECKS: tuple[Check, ...] = (
    Check(
        "platform/shared-volume", "Two nodes share a volume", "5.4",
        "each of two pods on different nodes reads what the other wrote, with both at the volume, sums equal",
        "Look at the share-manager pod of the volume, and at NFS between the nodes.", STORAGE, works=True,
    ),
    Check(
        "platform/volume-loss", "A volume survives the loss of a copy", "5.4",
        "read on another node without the first node's copy, then rebuilt to healthy",
        "Look at the volume's replicas in SUSE Storage, and at its nodes' free space.", STORAGE, works=True,
    ),
    Check(
        "platform/node-loss", "A volume survives the death of its node", "5.4",
        "the node dead, the data read on another one; then the node back, and all volumes healthy",
        "Look at the node: it must be back, and not be cordoned; then at the volume's replicas in SUSE Storage.",
        STORAGE, works=True,
    ),
    Check(
        "platform/volumes", "All volumes have their copies", "5.4",
        "no volume faulted, none degraded without a rebuild that is going on",
        "Look at the volume in SUSE Storage's interface: which replica is missing, and why.", STORAGE,
    ),
    Check(
        "platform/image-pull", "A private image is pulled with the right login only", "5.7.1",
        "pulled with the site's login, refused with a wrong one",
        "Look at the pod's message. Where a wrong login is let in, the registry, or a mirror before it, asks nobody "
        "who they are: name another image in validation.pull_image, or close the registry.", KUBERNETES, works=True,
    ),
    Check(
        "platform/images", "The registries have the images that nodes pull", "5.6", "every image found",
        "Look at the registry or mirror and at its login; push the image that is missing.", KUBERNETES,
    ),
    Check(
        "platform/image-refused", "Admission control refuses a bad image", "5.5",
        "refused by SUSE Security's webhook, in protect mode",
        "Look at the deny rules of SUSE Security's admission control, and at what its webhook leaves out.", SECURITY,
    ),
    Check(
        "platform/privileged-refused", "A privileged pod is refused in the tenant's namespace", "5.8.2",
        "refused: violates PodSecurity",
        "Onboard the tenant again: the namespace's pod security level is then set.", KUBERNETES,
    ),
    Check(
        "platform/cuda", "A CUDA program computes on a GPU", "5.8.3", "the GPU listed, and `Test PASSED`",
        "Read the Job's log and events; look at the GPU operator's toolkit and validator pods on the node. Where the "
        "image cannot be pulled, mirror it or name it in validation.cuda_image.", GPUS, works=True,
    ),
    Check(
        "platform/observability", "Observability has fresh data of every node", "5.6",
        "data of every node, not older than validation.observability_fresh_s",
        "Look at the agent's pod on the node that is missing. Where no series is found at all, name a metric and label "
        "of your release in validation.observability_metric and observability_label.", OBSERVABILITY,
    ),
)  # fmt: skip


# --- images ----------------------------------------------------------------------------------------------------------

DENIED = re.compile(
    r"(?<![\d.])40[13](?![\d.:])|unauthori[sz]ed|denied|authenticat|authori[sz]ation|insufficient_scope", re.I
)


@dataclass(frozen=True)
class PullTried:
    """How the pull of an image with one login ended. `trouble` is the kubelet's message."""

    pulled: bool
    trouble: str
    seconds: float


def judge_pull(image: str, right: PullTried, wrong: PullTried) -> Outcome:
    """Pass only where the right login is let in and the wrong one is refused for being wrong."""
    head = f"{PULL}: {image}"
    if wrong.pulled:
        return Outcome("fail", f"{head}: pulled with a wrong login too: nobody is asked who they are")
    if not right.pulled:
        return Outcome("fail", f"{head}: not pulled with the site's login: {right.trouble[:200]}")
    if not DENIED.search(wrong.trouble):
        return Outcome("unknown", f"{head}: pulled; the wrong login failed for another reason: {wrong.trouble[:200]}")
    refused = wrong.trouble.rpartition(": ")[2][:120]  # the last part is the registry's own word
    return Outcome("pass", f"{head}: pulled in {right.seconds:.1f} s; a wrong login refused: {refused}")


def judge_images(found: Mapping[str, tuple[int, str]]) -> Outcome:
    """`found` maps an image to its registry's status and digest or error; status 0 is a registry that was not heard."""
    if not found:
        return Outcome("skipped", "nodes pull no image whose name is known beforehand")
    bad = [f"{name}: {text or f'HTTP {status}'}" for name, (status, text) in found.items() if status not in (0, 200)]
    unheard = [f"{name}: {text}" for name, (status, text) in found.items() if status == 0]
    if bad:
        return Outcome("fail", "; ".join(bad))
    if unheard:
        return Outcome("unknown", "; ".join(unheard))
    return Outcome("pass", "; ".join(f"{name} {text[:19]}" for name, (_, text) in found.items()))


# --- admission -------------------------------------------------------------------------------------------------------


def image_to_refuse(rules: Iterable[Mapping[str, Any]]) -> str:
    """Make up an image that a deny rule refuses, from a rule with one criterion on images or registries; "" if none.

    Rules and criteria as SUSE Security's REST API lists them (NeuVector: controller/api/apis.go).
    """
    for rule in rules:
        criteria: list[Mapping[str, Any]] = list(rule.get("criteria") or ())
        if rule.get("rule_type") != "deny" or rule.get("disable") or rule.get("rule_mode") == "monitor":
            continue
        if len(criteria) != 1 or criteria[0].get("op") != "containsAny":
            continue
        value = str(criteria[0].get("value", "")).split(",")[0].strip().replace("*", "stackwright")
        if criteria[0].get("name") == "imageRegistry" and value:
            return f"{value.removeprefix('https://').strip('/')}/stackwright/refused:1"
        if criteria[0].get("name") == "image" and value:
            return value if ":" in value.rpartition("/")[2] else f"{value}:1"
    return ""


def judge_admission_state(state: Mapping[str, Any]) -> Outcome | None:
    """Return why nothing can be tried; None in protect mode."""
    if not state.get("enable"):
        return Outcome("skipped", "admission control is switched off: nothing is refused")
    mode = str(state.get("mode") or "")
    if mode == "monitor":
        return Outcome("skipped", "admission control is in monitor mode: it reports and refuses nothing")
    if mode != "protect":
        return Outcome("unknown", f"admission control is in mode {mode or 'none'}")
    return None


def judge_refused_image(image: str, refusal: str) -> Outcome:
    """`refusal` is the API server's message, empty where it let the pod in."""
    if not refusal:
        return Outcome("fail", f"{image} was let in (dry run)")
    known = "neuvector" in refusal and "denied the request" in refusal
    return Outcome("pass" if known else "unknown", f"{image}: {refusal[:240]}")


def judge_privileged(refusal: str) -> Outcome:
    """Another reason than pod security proves nothing of it."""
    if not refusal:
        return Outcome("fail", "a privileged pod was let in (dry run)")
    return Outcome("pass" if "violates PodSecurity" in refusal else "unknown", refusal[:240])


# --- GPUs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuPlace:
    """A model of GPU, and the node where one is free; no node where all are in use, with the users' names."""

    model: str
    node: str
    users: tuple[str, ...] = ()


def gpu_places(spec: StackSpec, nodes: Iterable[NodeStatus], pods: Iterable[Obj]) -> list[GpuPlace]:
    """Choose a node for each model of NVIDIA GPU of the site: the one with most of them free."""
    wanted = {node.name: node.gpu for node in spec.nodes if node.gpu and node.gpu.vendor == "nvidia"}
    held: dict[str, list[tuple[str, int]]] = {}
    for pod in pods:
        count = _asks(pod)
        if count and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            name = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
            held.setdefault(pod["spec"].get("nodeName", ""), []).append((name, count))
    models: dict[str, list[tuple[int, str]]] = {}
    for node in nodes:
        if (gpu := wanted.get(node.name)) is None or not (node.ready and node.schedulable):
            continue
        model = node.labels.get("nvidia.com/gpu.product") or gpu.model or "NVIDIA"
        free = int(node.allocatable.get(GPU, "0")) - sum(count for _, count in held.get(node.name, ()))
        models.setdefault(model, []).append((free, node.name))
    places = []
    for model, found in sorted(models.items()):
        free, name = max(found, key=lambda item: (item[0], item[1]))
        users = tuple(user for _, node_name in found for user, _ in held.get(node_name, ()))
        places.append(GpuPlace(model, name if free > 0 else "", users))
    return places


def _asks(pod: Obj) -> int:
    containers = pod["spec"].get("containers") or ()
    held = [(item.get("resources") or {}).get("limits") or {} for item in containers]
    return int(sum(quantity(limits.get(GPU, "0")) for limits in held))


def judge_cuda(place: GpuPlace, ended: str, device: str, output: str, seconds: float) -> Outcome:
    """`ended` is the pod's phase; `device` what nvidia-smi said, `output` what the CUDA program said."""
    gpu = next((line.strip() for line in device.splitlines() if re.match(r"GPU \d+:", line.strip())), "")
    passed = next((line.strip() for line in output.splitlines() if "Test PASSED" in line), "")
    last = (output.strip() or device.strip() or "no output").splitlines()[-1][:160]
    text = f"{CUDA} on {place.node}: {gpu or 'no GPU listed'}; {passed or last}; {seconds:.1f} s"
    return judge(ended == "Succeeded" and bool(gpu) and bool(passed), text)


# --- observability ---------------------------------------------------------------------------------------------------


def freshness_query(spec: StackSpec) -> str:
    """Return the query for the time of each node's last sample. MetricsQL: tlast_over_time."""
    want = spec.validation
    window = max(3600, 2 * want.observability_fresh_s)
    return f"max by ({want.observability_label}) (tlast_over_time({want.observability_metric}[{window}s]))"


def judge_freshness(spec: StackSpec, answer: Any, now: float) -> Outcome:
    """Judge the answer of a Prometheus API to that query. An agent may call its host <node>-<cluster>."""
    want = spec.validation
    if not isinstance(answer, Mapping) or answer.get("status") != "success":
        return Outcome("unknown", "the metrics store's answer cannot be read")
    seen: dict[str, float] = {}
    for series in (answer.get("data") or {}).get("result") or ():
        name = str((series.get("metric") or {}).get(want.observability_label, ""))
        try:
            seen[name.removesuffix(f"-{spec.site}")] = float(series["value"][1])
        except (KeyError, IndexError, TypeError, ValueError):
            return Outcome("unknown", f"the last sample's time of {name or 'a series'} cannot be read")
    ahead = [f"{name}: {at - now:.0f} s ahead" for name, at in sorted(seen.items()) if at - now > AHEAD_S]
    if ahead:
        return Outcome("unknown", f"the last samples' times cannot be believed: {'; '.join(ahead)}")
    if not seen:
        return Outcome("unknown", f"no series of {want.observability_metric} has a label {want.observability_label}")
    late = [f"{name}: {now - seen[name]:.0f} s ago" for name in _names(spec)
            if name in seen and now - seen[name] > want.observability_fresh_s]  # fmt: skip
    missing = [f"{name}: no data" for name in _names(spec) if name not in seen]
    if missing or late:
        return Outcome("fail", "; ".join((*missing, *late)))
    oldest = max(now - seen[name] for name in _names(spec))
    return Outcome("pass", f"{want.observability_metric} of {len(_names(spec))} nodes, the oldest {oldest:.0f} s ago")


def _names(spec: StackSpec) -> list[str]:
    return [node.name for node in spec.nodes]
