"""GPUs proved by work: a CUDA program on one free GPU of each model. A GPU that is in use is never waited for."""

from __future__ import annotations

from functools import partial

from stackwright.clients.site import Site
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import StackError
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import gpu_operator
from stackwright.domain.work_objects import CUDA, cuda_job, pull_trouble
from stackwright.domain.work_platform import GpuPlace, gpu_places, judge_cuda
from tasks.looking import look_at, unread
from tasks.work_ground import Ground, WorkNotStartedError, ground, tried

CHECK = "platform/cuda"
JOB = "cuda"


def compute(site: Site) -> list[Evidence]:
    """Compute on each model of GPU that the site has; one line that says so where there is none."""
    none = _no_gpus(site)
    if none:
        return [look_at(site, CHECK, lambda: Outcome("skipped", none))]
    try:
        kube = site.kube()
        places = gpu_places(site.spec, kube.nodes(), kube.list("v1", "Pod"))
    except StackError as error:
        blind = unread(error)
        return [look_at(site, CHECK, lambda: blind)]
    if not places:
        return [look_at(site, CHECK, lambda: Outcome("unknown", "no node with GPUs is ready"))]
    return [look_at(site, CHECK, partial(tried, partial(_compute, site, one)), target=one.model) for one in places]


def _no_gpus(site: Site) -> str:
    vendors = {node.gpu.vendor for node in site.spec.nodes if node.gpu}
    if not vendors:
        return "no GPU here"
    if not site.spec.layers.gpu_operator.enabled:
        return "layers.gpu_operator is disabled"
    return "" if "nvidia" in vendors else f"no CUDA on GPUs of {', '.join(sorted(vendors))}"


def _compute(site: Site, place: GpuPlace) -> Outcome:
    if not place.node:
        return Outcome("skipped", f"all GPUs are in use, by {', '.join(place.users[:5])}: nothing is taken from them")
    with ground(site, CUDA) as here:
        began = site.clock.now()
        runtime_class = gpu_operator.runtime_class(site.spec)
        here.kube.create(cuda_job(here.space, JOB, place.node, site.spec, runtime_class, here.life_s))
        pod = here.wait(partial(_ended, here), "the end of the CUDA job", lambda: _state(here))
        name = pod["metadata"]["name"]
        device, output = (here.log_of(name, container) for container in ("device", JOB))
        return judge_cuda(place, pod["status"]["phase"], device, output, site.clock.now() - began)


def _pods(here: Ground) -> list[Obj]:
    return here.kube.list("v1", "Pod", here.space, label_selector=f"job-name={JOB}")


def _ended(here: Ground) -> Obj | None:
    for pod in _pods(here):
        trouble = pull_trouble(pod)
        if trouble:
            raise WorkNotStartedError("the CUDA image cannot be pulled", where=here.space, seen=trouble)
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return pod
    return None


def _state(here: Ground) -> str:
    return here.state(*(pod["metadata"]["name"] for pod in _pods(here))) or "no pod"
