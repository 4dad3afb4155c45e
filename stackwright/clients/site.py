"""A site's connections, bundled: how to reach things, nothing open yet. Sockets open and close inside one task."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import SecretStr

from stackwright.clients.clearml import Clearml
from stackwright.clients.helm import HelmClient
from stackwright.clients.kube import KubeClient
from stackwright.clients.names import Names, SystemNames
from stackwright.clients.secrets import Secrets
from stackwright.clients.ssh import Shells
from stackwright.domain.errors import GateTimeoutError
from stackwright.domain.spec import StackSpec

T = TypeVar("T")


class Clock(Protocol):
    """Time as production and tests see it."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        ...

    def wait(self, seconds: float) -> None:
        """Let this thread rest between two looks."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        return time.time()

    def wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)


class LeaseHandle(Protocol):
    """The right to change the site, as its holder sees it."""

    number: int

    def check(self) -> None:
        """Raise FencedError when another run has taken over."""
        ...


@dataclass(frozen=True)
class Site:
    """Everything a task needs to reach one site. `kube` and `helm` work once the cluster answers.

    `kubeconfig` returns the text of the admin kubeconfig, rewritten for the controller, or None before the first server
    is up. `clearml(access_key, secret_key)` speaks as that identity.
    """

    spec: StackSpec
    secrets: Secrets
    shells: Shells
    kube: Callable[[], KubeClient]
    helm: Callable[[], HelmClient]
    clearml: Callable[[str, SecretStr], Clearml]
    workdir: Path
    clock: Clock = field(default_factory=SystemClock)
    resolve: Mapping[str, str] = field(default_factory=dict)
    names: Names = field(default_factory=SystemNames)


def wait_until(
    look: Callable[[], T | None],
    what: str,
    *,
    timeout_s: float,
    poll_s: float,
    clock: Clock,
    where: str,
    last: Callable[[], str] = lambda: "",
) -> T:
    """Look until something other than None is seen. Raises GateTimeoutError with what `last` says at the end."""
    deadline = clock.now() + timeout_s
    while True:
        seen = look()
        if seen is not None:
            return seen
        if clock.now() >= deadline:
            raise GateTimeoutError(
                f"{what} was not seen within {timeout_s:.0f} s", where=where, wanted=what, seen=last()
            )
        clock.wait(poll_s)
