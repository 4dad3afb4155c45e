"""Fine-tuning a language model on a GPU, as a proof: what it needs and what is missing, and what came of it. Pure.

The workload is stackwright/workloads/lora.py; it is sent by tasks/work_tune.py. Guide: 6.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackwright.domain.check import Outcome, judge
from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import Problem
from stackwright.domain.spec import FineTune, Queue, StackSpec, Tenant
from stackwright.domain.work_clearml import judge_metrics

CHECK = "workload/fine-tune-run"
MEMORY_LABEL = "nvidia.com/gpu.memory"
"""MiB of one GPU of a node. Source: NVIDIA GPU feature discovery."""
NEARLY = 0.9  # a card of 16 GiB tells a little less than that of itself
PLACE = re.compile(r"(https://[^\s/]+)?/\S+")


def check_fine_tune(spec: StackSpec) -> Iterable[Problem]:
    """Yield why the settings of the fine-tuning can never do."""
    want = spec.validation.fine_tune
    for name, text in (("model", want.model), ("data", want.data)) if want else ():
        if not PLACE.fullmatch(text):
            remedy = "Name a path in the image or on a volume of the agent's pods, or an https address in your network."
            path = f"validation.fine_tune.{name}"
            yield Problem(path, "a job could not find this", remedy, "/path or https://...", text[:80])


def tuning_queue(tenant: Tenant) -> Queue | None:
    """Return the tenant's first queue whose jobs get whole GPUs; None where it has none."""
    return next((queue for queue in tenant.queues if queue.gpus), None)


def fitting_nodes(want: FineTune, nodes: Iterable[NodeStatus]) -> list[NodeStatus]:
    """Return the nodes that say of themselves that one of their GPUs has enough memory."""
    need = NEARLY * want.gpu_memory_gib * 1024
    return [node for node in nodes if node.labels.get(MEMORY_LABEL, "").isdigit() and _memory(node) >= need]


def _memory(node: NodeStatus) -> int:
    return int(node.labels[MEMORY_LABEL])


def missing(spec: StackSpec, tenant: Tenant, served: Collection[str], nodes: Iterable[NodeStatus]) -> list[str]:
    """Return all that a fine-tune of this tenant still needs; empty where it can be run."""
    want, queue = spec.validation.fine_tune, tuning_queue(tenant)
    found = ["no GPU here"] if not any(node.gpu and node.gpu.vendor == "nvidia" for node in spec.nodes) else []
    if spec.environment == "lab":
        found.append("a lab's GPUs are simulated, and its jobs have no torch: a pass would prove nothing")
    if queue is None:
        found.append("no queue of the tenant gives its jobs whole GPUs")
    elif queue.name not in served:
        found.append(f"no worker serves queue {queue.name}")
    if want is None:
        found.append("validation.fine_tune is not set (image, model, data)")
    elif not fitting_nodes(want, nodes):
        found.append(f"no node with a GPU of {want.gpu_memory_gib} GiB (label {MEMORY_LABEL})")
    return found


def parameters(want: FineTune) -> dict[str, object]:
    """Return the job's settings, as the workload names them."""
    return {"model": want.model, "data": want.data, "steps": want.steps, "memory_gib": want.gpu_memory_gib}


@dataclass(frozen=True)
class TuneSeen:
    """A fine-tune that ended: what its task says, what it printed, and its numbers as the API gives them back."""

    task_id: str
    status: str
    seconds: float
    model: str
    printed: Mapping[str, Any]
    series: Mapping[str, Sequence[float]]
    last: str = ""


def judge_tune(seen: TuneSeen) -> Outcome:
    """Pass only where it completed on a GPU, the loss on the same texts fell, and the API has the same numbers."""
    head = f"task {seen.task_id} (lora {seen.printed.get('version', '?')}) {seen.status} after {seen.seconds:.0f} s"
    if seen.status != "completed":
        return Outcome("fail", f"{head}: {seen.last or 'no output'}"[:400])
    series, said = seen.printed.get("series"), seen.printed
    probe = series.get("probe/loss") if isinstance(series, Mapping) else None
    if not isinstance(series, Mapping) or not isinstance(probe, Sequence) or len(probe) != 2 or not said.get("gpu"):
        return Outcome("unknown", f"{head}; its own numbers are not in its log")
    text = (
        f"{head} on {said['gpu']}: {seen.model}, {said.get('learning', 0):,} of {said.get('parameters', 0):,} weights "
        f"learnt in {len(series.get('train/loss', ()))} steps, loss {probe[0]:.4g} -> {probe[1]:.4g} on the same "
        f"texts, {said.get('peak_gib', 0)} GiB at most, adapters of {said.get('adapter_bytes', 0):,} bytes"
    )
    read = judge_metrics(series, seen.series)
    if read.verdict != "pass":
        return Outcome(read.verdict, f"{text}; read back: {read.seen}")
    return judge(probe[1] < probe[0] and int(said.get("adapter_bytes", 0)) > 0, text)
