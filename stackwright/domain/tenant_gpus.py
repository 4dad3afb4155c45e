"""What a job of a queue takes of GPUs: whole ones, a fraction of one, or a MIG slice; and what its pod must say. Pure.

Fractions are ClearML's fractional GPU injector (CFGI), slices its dynamic MIG operator (CDMO).
Source: ClearML: fractional GPUs, CFGI and CDMO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from stackwright.domain.layers import gpu_operator
from stackwright.domain.spec import Queue, StackSpec, Tenant
from stackwright.domain.versions import parse_chart, v

NVIDIA = gpu_operator.RESOURCES["nvidia"]
FRACTION_LABEL = "clearml-injector/fraction"
SIXTEENTH = 0.0625
FRACTIONS = (SIXTEENTH, *(eighth / 8 for eighth in range(1, 8)))
LIMITS_UNTIL = v("1.3")  # the injector sets the limits itself since
SHARES = 8  # the device plugin offers each GPU so many times where fractions are in use
A30_SLICE_GB = 6
LABEL_FIELD, LIMITS_FIELD = "metadata|labels|{}", "resources|limits|{}"  # ClearML: agent chart, monitoredResources


def gpu_resource(spec: StackSpec) -> str:
    """Return the resource name of the site's GPUs; NVIDIA's where there are none or several kinds."""
    found = gpu_operator.vendors(spec)
    return gpu_operator.RESOURCES[found[0] if found else "nvidia"]


def on_gpus(queue: Queue) -> bool:
    """Tell whether the queue's jobs need a GPU or a part of one."""
    return bool(queue.gpus or queue.fraction or queue.mig)


def cost(queue: Queue) -> float:
    """Return what one job takes of the tenant's GPUs, in whole GPUs."""
    if queue.mig:
        return compute_slices(queue.mig) / slices_of_gpu(queue.mig)
    return queue.fraction or float(queue.gpus)


def compute_slices(profile: str) -> int:
    return int(profile.partition("g.")[0])


def slices_of_gpu(profile: str) -> int:
    """Return into how many slices such a GPU is cut: the A30 into 4, the others into 7. NVIDIA: MIG user guide."""
    count, _, memory = profile.removesuffix("gb").partition("g.")
    return 4 if int(memory) == A30_SLICE_GB * int(count) else 7


def mig_resource(profile: str) -> str:
    return f"nvidia.com/mig-{profile}"


def shared(tenant: Tenant) -> bool:
    """Tell whether the tenant's jobs share GPUs by fractions: then whole ones are asked for in the same way."""
    return any(queue.fraction for queue in tenant.queues)


def needs_limits(spec: StackSpec) -> bool:
    """Tell whether the site's injector is one before 1.3.0: jobs must then name their share as limits, too."""
    parsed = parse_chart(spec.clearml.injector_version) if spec.clearml.injector_version else None
    return parsed is not None and parsed < LIMITS_UNTIL


def fraction_text(amount: float) -> str:
    """Write a share as the injector's pages do: 0.0625, 0.125, 0.500, 2.000."""
    return f"{amount:.4f}" if amount == SIXTEENTH else f"{amount:.3f}"


def pod_needs(spec: StackSpec, tenant: Tenant, queue: Queue) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the labels and the limits that a job's pod needs for its GPUs."""
    if queue.mig:
        return {}, {mig_resource(queue.mig): 1}
    if not on_gpus(queue):
        return {}, {}
    if not shared(tenant):
        return {}, {gpu_resource(spec): queue.gpus}
    labels = {FRACTION_LABEL: fraction_text(cost(queue))}
    return labels, {NVIDIA: math.ceil(cost(queue) * SHARES)} if needs_limits(spec) else {}


def quota_entries(spec: StackSpec, tenant: Tenant) -> dict[str, str]:
    """Return the GPU part of the tenant's quota.

    Slices are counted as such: of each profile, as many as the tenant's GPUs hold. Where an injector before 1.3.0 cuts
    GPUs into shares, those are what is counted; a newer one names another resource for each GPU, which no quota can
    sum up: there the agent keeps the limit (monitoredResources).
    """
    whole = tenant.quota.gpus * (SHARES if shared(tenant) and needs_limits(spec) else 1)
    entries = {f"requests.{gpu_resource(spec)}": str(whole)}
    for profile in dict.fromkeys(queue.mig for queue in tenant.queues if queue.mig):
        count = tenant.quota.gpus * slices_of_gpu(profile) // compute_slices(profile)
        entries[f"requests.{mig_resource(profile)}"] = str(count)
    return entries


def monitored(spec: StackSpec, tenant: Tenant) -> Mapping[str, Any] | None:
    """Return how the agent counts GPUs before it starts a job; None where no single number says it.

    The agent reads one field of its pods: the injector's label, the limits of one MIG profile, or those of whole GPUs.
    """
    kinds = {queue.mig or "" for queue in tenant.queues if on_gpus(queue)}
    if shared(tenant) and not needs_limits(spec):
        return _counted(tenant.quota.gpus, LABEL_FIELD.format(FRACTION_LABEL))
    if shared(tenant):
        return {"maxResources": tenant.quota.gpus * SHARES}
    if len(kinds) > 1:
        return None
    if profile := "".join(kinds):
        most = int(quota_entries(spec, tenant)[f"requests.{mig_resource(profile)}"])
        return _counted(most, LIMITS_FIELD.format(mig_resource(profile)))
    resource = gpu_resource(spec)
    return (
        {"maxResources": tenant.quota.gpus}
        if resource == NVIDIA
        else _counted(tenant.quota.gpus, LIMITS_FIELD.format(resource))
    )


def _counted(most: int, field: str) -> dict[str, Any]:
    return {"maxResources": most, "maxResourcesFieldName": field, "minResourcesFieldName": field}
