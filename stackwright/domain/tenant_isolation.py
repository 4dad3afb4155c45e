"""What proves that a tenant is apart from the rest of the cluster: what is tried, and what its outcome means. Pure.

What another tenant's key sees of ClearML is in validation.py. Trying is in tasks/isolation.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stackwright.domain.check import Outcome
from stackwright.domain.cluster import Obj
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers.clearml import NAMESPACE as SERVER_NAMESPACE
from stackwright.domain.layers.clearml import RELEASE as SERVER_RELEASE
from stackwright.domain.layers.shared import MANAGED_BY
from stackwright.domain.spec import StackSpec, Tenant
from stackwright.domain.tenant_objects import AGENT_RELEASE, PULL_SECRET, SERVER_PORTS, gpu_resource, memory_text

TARGETS_ENV = "PROBE_TARGETS"
PROBE_LABEL = "stackwright.io/probe"
PROBE_PREFIX = "stackwright-isolation-"
PROBE_LIFE_S = 180
"""A probe ends after so long, whatever holds it, and its Job goes by itself soon after: also when this run dies."""
ALLOWED_SPACES = ("kube-system", "default")  # DNS, the ingress controller and the API server: every tenant needs them
MOST = 6  # targets of one kind: enough to prove it, few enough to be quick
UNHEARD_PORT = 9  # a port on which nothing listens: a pod that is reached refuses, one that is cut off stays silent

Reached = Literal["open", "refused", "silent"]

# One connection each, all at once. `refused` comes from the target's own host, so the packet did arrive there.
PROBE = """
import concurrent.futures, json, os, socket
def look(target):
    try:
        socket.create_connection((target["host"], target["port"]), 4).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "silent"
targets = json.loads(os.environ["PROBE_TARGETS"])
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    print("PROBED " + json.dumps(list(pool.map(look, targets))))
"""


@dataclass(frozen=True)
class Target:
    """Something to connect to. `side`: the platform's API that must answer, another tenant, or the platform's own."""

    side: Literal["control", "tenant", "platform"]
    name: str
    host: str
    port: int


# --- what the checks mean for a new tenant ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Apart:
    """What the checks of one tenant say, as lines for people."""

    proved: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    """Checks for which there was nothing to try: no other tenant, no pod that may be started."""


def judge_apart(checks: Iterable[Evidence], *, network: bool) -> Apart:
    """Sort the checks of a tenant. Without `network` no pod was started, and what it would have shown is untried."""
    lines: dict[str, list[str]] = {"pass": [], "fail": [], "unknown": [], "skipped": []}
    for check in checks:
        stand_in = f" (stand-in: {check.stand_in})" if check.stand_in else ""
        lines[check.verdict].append(f"{check.title}: {check.seen}{stand_in}")
    if not network:
        lines["skipped"].append("What its pods reach: no pod may be started (validation.workload)")
    proved, failed, unread, untried = (tuple(found) for found in lines.values())
    return Apart(proved, failed, unread, untried)


# --- the network -----------------------------------------------------------------------------------------------------


def targets_of(
    tenant: Tenant, services: Iterable[Obj], pods: Iterable[Obj], endpoints: Iterable[Obj], tenants: Iterable[str]
) -> tuple[Target, ...]:
    """Choose what a pod of the tenant tries to reach. `tenants` are the namespaces of the other ones.

    Only what answers now is chosen: a Service without a ready pod would be silent to everybody.
    """
    others, open_spaces = set(tenants), {tenant.namespace, *ALLOWED_SPACES, *tenant.allowed_namespaces}
    answering = {_key(item) for item in endpoints if any(part.get("addresses") for part in item.get("subsets") or ())}
    found: list[Target] = []
    for service in services:
        if _key(service) in answering and service["spec"].get("clusterIP") not in (None, "", "None"):
            found += _of_service(service, others)
    for pod in pods:
        if _is_ready(pod) and not pod["spec"].get("hostNetwork"):
            found += _of_pod(pod, others)
    controls = [target for target in found if target.side == "control"]
    rest = [target for target in found if target.side != "control" and target.name.split("/")[0] not in open_spaces]
    sides: tuple[Literal["tenant", "platform"], ...] = ("tenant", "platform")
    return (*controls[:1], *(target for side in sides for target in _spread(rest, side)))


def _of_service(service: Obj, others: set[str]) -> list[Target]:
    (space, name), host = _key(service), service["spec"]["clusterIP"]
    ports = [int(port["port"]) for port in service["spec"].get("ports") or () if port.get("protocol", "TCP") == "TCP"]
    if space == SERVER_NAMESPACE:
        control = name == f"{SERVER_RELEASE}-apiserver"
        known = [Target("control", f"{space}/{name}", host, port) for port in ports if control and port == 8008]
        return known + [Target("platform", f"{space}/{name}", host, port) for port in ports if port not in SERVER_PORTS]
    side: Literal["tenant", "platform"] = "tenant" if space in others else "platform"
    return [Target(side, f"{space}/{name}", host, port) for port in ports]


def _of_pod(pod: Obj, others: set[str]) -> list[Target]:
    """A tenant's pods and the platform's databases are tried at their own addresses too, past any Service."""
    space, name = _key(pod)
    if space not in others and space != SERVER_NAMESPACE:
        return []
    side: Literal["tenant", "platform"] = "tenant" if space in others else "platform"
    return [Target(side, f"{space}/{name}", pod["status"]["podIP"], UNHEARD_PORT)]


def _spread(found: Sequence[Target], side: str) -> list[Target]:
    """Take some of each namespace in turn."""
    by_space: dict[str, list[Target]] = {}
    for target in found:
        if target.side == side:
            by_space.setdefault(target.name.split("/")[0], []).append(target)
    rounds = range(max(map(len, by_space.values()), default=0))
    return [chosen[turn] for turn in rounds for chosen in by_space.values() if turn < len(chosen)][:MOST]


def _key(obj: Obj) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _is_ready(pod: Obj) -> bool:
    status = pod.get("status") or {}
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or ())
    return ready and bool(status.get("podIP"))


def probe_job(tenant: Tenant, name: str, image: str, targets: Sequence[Target]) -> Obj:
    """Make the Job that tries the targets from inside the tenant's namespace, as one of its jobs would.

    It runs the agent's image, which is on the nodes already and has Python.
    """
    labels = {**MANAGED_BY, PROBE_LABEL: "isolation"}
    share = {"cpu": "100m", "memory": "128Mi"}
    container = {
        "name": "probe",
        "image": image,
        "command": ["python3", "-c", PROBE],
        "env": [{"name": TARGETS_ENV, "value": json.dumps([asdict(target) for target in targets])}],
        "resources": {"requests": share, "limits": share},
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "imagePullSecrets": [{"name": PULL_SECRET}],
        "containers": [container],
    }
    spec = {
        "backoffLimit": 0,
        "activeDeadlineSeconds": PROBE_LIFE_S,
        "ttlSecondsAfterFinished": PROBE_LIFE_S,
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    meta = {"name": name, "namespace": tenant.namespace, "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def read_probe(text: str, targets: Sequence[Target]) -> dict[Target, Reached] | None:
    """Return how each target was reached, from the probe's log; None where it has not said so."""
    for line in text.splitlines():
        if line.startswith("PROBED "):
            reached = json.loads(line.removeprefix("PROBED "))
            return dict(zip(targets, reached, strict=True))
    return None


def judge_network(side: str, reached: Mapping[Target, Reached]) -> Outcome:
    """Pass where every target stayed silent while the platform's own API answered the same pod.

    Without that control a pod with no network at all would pass.
    """
    control = [target for target in reached if target.side == "control"]
    tried = {target: how for target, how in reached.items() if target.side == side}
    if not tried:
        return Outcome("skipped", "nothing of that kind runs now")
    if not control or any(reached[target] != "open" for target in control):
        ways = ", ".join(f"{target.name}:{target.port} {reached[target]}" for target in control) or "not found"
        return Outcome("unknown", f"ClearML's API, which must answer, did not: {ways}; so silence proves nothing")
    through = [f"{target.name}:{target.port} ({how})" for target, how in tried.items() if how != "silent"]
    if through:
        return Outcome("fail", f"reached: {', '.join(through)}")
    return Outcome("pass", f"{len(tried)} target(s) silent, ClearML's API open")


# --- the quota -------------------------------------------------------------------------------------------------------


def beyond_quota(spec: StackSpec, tenant: Tenant) -> dict[str, Obj]:
    """Return pods, by what they ask too much of: each goes just beyond the tenant's whole quota. Never kept."""
    want = tenant.quota
    least = {"cpu": "100m", "memory": "128Mi"}
    over: dict[str, dict[str, str]] = {
        "cpu": {**least, "cpu": str(want.cpu + 1)},
        "memory": {**least, "memory": memory_text((want.memory_gib + 1) * 1024)},
    }
    if spec.gpu_nodes:
        over["gpus"] = {**least, gpu_resource(spec): str(want.gpus + 1)}
    return {what: _pod_asking(tenant, what, share) for what, share in over.items()}


def _pod_asking(tenant: Tenant, what: str, share: Mapping[str, str]) -> Obj:
    container = {"name": "none", "image": "none", "resources": {"requests": dict(share), "limits": dict(share)}}
    meta = {"name": f"{PROBE_PREFIX}{what}", "namespace": tenant.namespace, "labels": dict(MANAGED_BY)}
    spec = {"restartPolicy": "Never", "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def judge_quota(refused: Mapping[str, str]) -> Outcome:
    """Judge the answers, by what was asked too much of: an empty text means that the pod would have been let in.

    Kubernetes gives a refusal by quota no reason of its own: only its text tells it from any other 403.
    """
    let_in = [what for what, text in refused.items() if not text]
    other = {what: text for what, text in refused.items() if text and "exceeded quota" not in text}
    if let_in:
        return Outcome("fail", f"let in beyond the quota of: {', '.join(let_in)}")
    if other:
        return Outcome("unknown", f"refused for another reason: {'; '.join(f'{k}: {v}' for k, v in other.items())}")
    return Outcome("pass", f"exceeded quota: {', '.join(refused)}")


# --- the agent's account ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """Something that an account might do. An empty namespace means in all of them, or to what has none."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} {f'in {self.namespace}' if self.namespace else 'cluster-wide'}"


INSIDE = (Act("get", "secrets"), Act("list", "pods"), Act("create", "pods"), Act("delete", "pods"))
CLUSTER_WIDE = (
    *INSIDE,
    Act("create", "namespaces"),
    Act("patch", "nodes"),
    Act("impersonate", "users"),
    Act("create", "clusterrolebindings", "rbac.authorization.k8s.io"),
)


def acts_outside(other_spaces: Iterable[str]) -> tuple[Act, ...]:
    """Return what a tenant's account must not be able to do: anything of weight outside its namespace."""
    inside = [Act(act.verb, act.resource, act.group, space) for space in sorted(set(other_spaces)) for act in INSIDE]
    return (*CLUSTER_WIDE, *inside)


def account_of(deployment: Obj | None) -> str:
    """Return the service account that the agent's pods run as."""
    pod = (((deployment or {}).get("spec") or {}).get("template") or {}).get("spec") or {}
    return str(pod.get("serviceAccountName") or "default")


def access_review(tenant: Tenant, account: str, act: Act) -> Obj:
    """Make the question to the API server whether an account may do something. Nothing is done or kept."""
    wanted = {"verb": act.verb, "group": act.group, "resource": act.resource}
    wanted |= {"namespace": act.namespace} if act.namespace else {}
    space = tenant.namespace
    user = f"system:serviceaccount:{space}:{account}"
    spec = {"user": user, "groups": groups_of(tenant), "resourceAttributes": wanted}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec}


def groups_of(tenant: Tenant) -> list[str]:
    """Return the groups that every service account of a tenant's namespace belongs to."""
    return ["system:serviceaccounts", f"system:serviceaccounts:{tenant.namespace}", "system:authenticated"]


def spaces_to_ask(tenant: Tenant, account: str, others: Iterable[str], bindings: Iterable[Obj]) -> tuple[str, ...]:
    """Choose the namespaces for which the account's rights are asked.

    The platform's own, every one with a RoleBinding that names the account or a group of its, and a few of the other
    tenants', the next ones by name: so each is asked for by some. To ask for all would be a question for each pair.
    """
    ring = sorted(others)
    after = [space for space in ring if space > tenant.namespace]
    few = [*after, *(space for space in ring if space < tenant.namespace)][:MOST]
    bound = {item["metadata"]["namespace"] for item in bindings if _binds(item, tenant, account)} - {tenant.namespace}
    return tuple(sorted({"kube-system", SERVER_NAMESPACE, *bound, *few}))


def _binds(binding: Obj, tenant: Tenant, account: str) -> bool:
    groups = groups_of(tenant)
    return any(
        (subject["kind"] == "Group" and subject["name"] in groups)
        or (
            subject["kind"] == "ServiceAccount"
            and (subject.get("namespace"), subject["name"]) == (tenant.namespace, account)
        )
        or (subject["kind"] == "User" and subject["name"] == f"system:serviceaccount:{tenant.namespace}:{account}")
        for subject in binding.get("subjects") or ()
    )


def judge_account(account: str, allowed: Mapping[Act, bool]) -> Outcome:
    may = [str(act) for act, good in allowed.items() if good]
    if may:
        return Outcome("fail", f"{account} may {', '.join(may)}")
    return Outcome("pass", f"{account}: none of {len(allowed)} acts is allowed")


def agent_deployment(deployments: Iterable[Obj]) -> Obj | None:
    """Return the agent's Deployment: the one that its Helm release made."""
    return next((item for item in deployments if release_of(item) == AGENT_RELEASE), None)


def release_of(item: Obj) -> str:
    """Return the Helm release that made an object; empty where none did. Helm: annotations of what it manages."""
    marks: Any = item["metadata"].get("annotations") or {}
    return str(marks.get("meta.helm.sh/release-name", ""))
