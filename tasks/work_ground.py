"""The ground of one workload of the validation: a namespace of its own, made, used, and taken away again.

A run that dies leaves its namespace; each start removes those that have outlived their time. What workloads are made of
is in stackwright/domain/work_objects.py.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from stackwright.clients.kube import KubeClient
from stackwright.clients.site import Site, wait_until
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import Obj
from stackwright.domain.errors import ApiError, ApiUnavailableError, GateTimeoutError, NotFoundError, StackError
from stackwright.domain.work_objects import (
    WORK_LABEL,
    Work,
    is_left_over,
    namespace_of,
    pull_trouble,
    states_of,
)
from tasks.gates import last_warnings
from tasks.looking import unread

log = logging.getLogger(__name__)
T = TypeVar("T")

LIVES = 3  # times the deadline of one wait: a workload waits a few times
GONE_S = 120.0  # how long a run waits for its namespace to go; the next start removes one that stayed
POLL_S = 2.0
REFUSALS = (400, 403, 422)  # a create that the API server, or an admission plugin or webhook, says no to


class WorkFailedError(StackError):
    """A workload ran and failed."""

    remedy = "Read what was seen; the layer that the check names is at fault."


class WorkNotStartedError(StackError):
    """A workload's own image could not be pulled: nothing of the check was tried."""

    remedy = "Make the image reachable for the nodes: a mirror, a login, or another image in the site file."


@dataclass(frozen=True)
class Ground:
    """Where one workload runs, and how long a wait in it may take."""

    site: Site
    kube: KubeClient
    work: Work
    space: str
    lives: int = LIVES

    @property
    def limit_s(self) -> float:
        return float(self.site.spec.validation.platform_timeout_s)

    @property
    def life_s(self) -> float:
        return self.lives * self.limit_s

    def wait(self, look: Callable[[], T | None], what: str, last: Callable[[], str] = lambda: "") -> T:
        """Look until something is seen; the error at the deadline tells `last` and the newest warning events."""
        return wait_until(
            look, what, timeout_s=self.limit_s, poll_s=min(self.site.spec.rke2.poll_s, POLL_S), clock=self.site.clock,
            where=f"{self.work} in {self.space}", last=lambda: f"{last()}{self._warnings()}",
        )  # fmt: skip

    def _warnings(self) -> str:
        found = last_warnings(self.kube.list("v1", "Event", self.space, field_selector="type=Warning"))
        return f" | last warnings: {'; '.join(found)}" if found else ""

    def pod(self, name: str) -> Obj:
        """Return a pod. Raises WorkFailedError where it is gone: something else ended it."""
        found = self.kube.get("v1", "Pod", name, self.space)
        if found is None:
            raise WorkFailedError("the workload's pod is gone", where=f"pod {self.space}/{name}")
        return found

    def log_of(self, name: str, container: str = "") -> str:
        """Return what a pod has said; nothing while it has not started."""
        try:
            return self.kube.pod_logs(name, self.space, container=container)
        except ApiUnavailableError:
            raise
        except ApiError as error:
            if error.status == 400:  # Kubernetes: a container that waits to start has no log
                return ""
            raise

    def said(self, name: str, read: Callable[[str], T | None]) -> T | None:
        """Return what `read` finds in a pod's log, None while there is nothing. A pod that failed has failed."""
        pod = self.pod(name)
        trouble, phase = pull_trouble(pod), (pod.get("status") or {}).get("phase", "Pending")
        if trouble:
            raise WorkNotStartedError("an image cannot be pulled", where=f"pod {self.space}/{name}", seen=trouble)
        if phase == "Pending":
            return None
        found = read(self.log_of(name))
        if found is None and phase in ("Failed", "Succeeded"):
            last = (self.log_of(name).strip() or "no output").splitlines()[-1][:200]
            why = " ".join(filter(None, (phase, pod["status"].get("reason"), pod["status"].get("message"))))
            raise WorkFailedError("the pod ended without its result", where=f"pod {name}", seen=f"{why}: {last}")
        return found

    def state(self, *names: str) -> str:
        """Say in a few words how pods stand."""
        return "; ".join(_state(name, self.kube.get("v1", "Pod", name, self.space)) for name in names)

    def end(self, name: str) -> None:
        """Delete a pod and wait until it is gone."""
        self.kube.delete("v1", "Pod", name, self.space)
        self.wait(
            lambda: self.kube.get("v1", "Pod", name, self.space) is None or None, f"the end of pod {name}",
            lambda: self.state(name),
        )  # fmt: skip


def _state(name: str, pod: Obj | None) -> str:
    if pod is None:
        return f"{name}: no pod"
    why = [
        f"{part.get('reason', '')} {part.get('message', '')}".strip()
        for state in states_of(pod)
        for part in (state.get("waiting") or {}, state.get("terminated") or {})
        if part
    ]
    conditions = (pod.get("status") or {}).get("conditions") or ()
    why += [item.get("message", "") for item in conditions
            if item["type"] == "PodScheduled" and item["status"] == "False"]  # fmt: skip
    where = pod["spec"].get("nodeName") or "no node"
    return f"{name} on {where}: {(pod.get('status') or {}).get('phase', 'Pending')} {', '.join(why)}".strip()


@contextmanager
def ground(site: Site, work: Work, lives: int = LIVES) -> Iterator[Ground]:
    """Make a workload's namespace after the left-over ones are gone, and take it away at the end, whatever happens.

    It may live for `lives` times the deadline of one wait.
    """
    kube = site.kube()
    remove_left_over(kube)
    life_s = lives * site.spec.validation.platform_timeout_s
    space = kube.create(namespace_of(work, secrets.token_hex(3), life_s))["metadata"]["name"]
    place = Ground(site, kube, work, space, lives)
    log.info("%s: works in namespace %s", work, space)
    try:
        # Pods are refused until the namespace has its account.
        place.wait(lambda: kube.get("v1", "ServiceAccount", "default", space), "the default service account")
        yield place
    finally:
        _take_away(place)


def _take_away(place: Ground) -> None:
    """Remove the namespace. What stands in the way is logged: it must not hide what the workload said."""
    try:
        place.kube.delete("v1", "Namespace", place.space)
        wait_until(
            lambda: place.kube.get("v1", "Namespace", place.space) is None or None, "the end of the namespace",
            timeout_s=GONE_S, poll_s=min(place.site.spec.rke2.poll_s, POLL_S), clock=place.site.clock,
            where=place.space,
        )  # fmt: skip
    except StackError as error:
        log.warning("%s: namespace %s is not gone, a later run removes it: %s", place.work, place.space, error)


def remove_left_over(kube: KubeClient) -> list[str]:
    """Remove the namespaces of workloads whose run is dead, and return their names. The cluster's clock decides."""
    _, now = kube.get_dated("v1", "Namespace", "default")
    old = [item["metadata"]["name"] for item in kube.list("v1", "Namespace", label_selector=WORK_LABEL)
           if is_left_over(item, now)]  # fmt: skip
    for name in old:
        log.info("namespace %s of a run that died is removed", name)
        kube.delete("v1", "Namespace", name)
    return old


def tried(work: Callable[[], Outcome]) -> Outcome:
    """Return a workload's outcome: one that failed or never ended fails, one that could not be tried is unknown."""
    try:
        return work()
    except (WorkFailedError, GateTimeoutError) as error:
        return Outcome("fail", unread(error).seen)
    except StackError as error:
        return unread(error)


def refusal_of(kube: KubeClient, pod: Obj, statuses: Collection[int] = REFUSALS) -> str:
    """Return the API server's words where it refuses a pod in a dry run; empty where it would let it in.

    Another answer than these statuses is no refusal, and is raised.
    """
    try:
        kube.create_dry_run(pod)
    except (ApiUnavailableError, NotFoundError):
        raise
    except ApiError as error:
        if error.status not in statuses:
            raise
        return error.seen or error.what
    return ""
