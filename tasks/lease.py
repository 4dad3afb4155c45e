"""Holding a site's lease: taken before the first change, renewed while the run lives, given back at its end.

The rules are in stackwright/domain/lease.py; here are the process's identity, the wire and the renewing thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from prefect.context import FlowRunContext

from stackwright.clients.site import LeaseHandle, Site
from stackwright.clients.ssh import NodeShell, StepFailedError
from stackwright.domain.errors import FencedError, LeaseHeldError, StackError
from stackwright.domain.lease import (
    Holder,
    LeaseState,
    continued,
    decide_lease,
    lease_script,
    parse_lease,
    released,
    swap_script,
)
from stackwright.domain.plan import Plan, check_hash
from stackwright.domain.shell import Batch, Command
from stackwright.domain.spec import Node
from tasks.common import in_thread

log = logging.getLogger(__name__)

MOVED = 9  # exit code of a swap that found another content
CHECK_EVERY_S = 5.0
SWAP_TRIES = 5


def this_process(run: str, url: str = "") -> Holder:
    """Return who this process is. Host and process namespace tell containers of one machine apart."""
    space = Path("/proc/self/ns/pid").readlink()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Holder(run, f"{socket.gethostname()} {space}", boot, os.getpid(), _started(os.getpid()) or "", url)


def is_dead(holder: Holder, me: Holder) -> bool:
    """Tell whether the holder was a process of this very host and boot that is no more. False when unknown."""
    if (holder.host, holder.boot) != (me.host, me.boot):
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is another user's process: compare when it was started
    return _started(holder.pid) != holder.started


def _started(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state == "Z" else fields[18]  # a zombie runs no more


class Lease:
    """The lease in its holder's hand. May be used from several threads."""

    def __init__(self, site: Site, holder: Holder, *, check_every_s: float = CHECK_EVERY_S) -> None:
        self._site, self._holder = site, holder
        self._every_s = check_every_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._checked = float("-inf")
        self._state: LeaseState | None = None
        self._thread: threading.Thread | None = None
        self.number = 0

    def take(self, plan: Plan, plan_hash: str | None = None, at_least: int = 0) -> None:
        """Take the lease, with the plan noted as begun.

        Raises LeaseHeldError while another run holds it, PlanMovedError when the approved plan does not hold any more.
        """
        with self._lock, self._site.shells.open(self._server) as shell:
            for _ in range(SWAP_TRIES):
                text, fence, now = self._read(shell)
                seen = parse_lease(text, self._server.name)
                dead = seen is not None and seen.holder is not None and is_dead(seen.holder, self._holder)
                taken = decide_lease(seen, self._holder, now, holder_is_dead=dead, at_least=max(at_least, fence))
                check_hash(plan, plan_hash, seen.steps if seen else (), seen.plan if seen else None)
                if self._swap(shell, text, continued(taken.state, plan), "take"):
                    if taken.reason:
                        log.warning("lease taken over as number %d: %s", self.number, taken.reason)
                    self._checked = self._site.clock.now()
                    return
        raise LeaseHeldError("other runs take the lease at this moment", where=self._server.name)

    def check(self) -> None:
        """Raise FencedError when another run has taken over. Looks at the first server at most every few seconds."""
        with self._lock:
            if self._state is None:
                raise FencedError("the lease is not held", where=self._site.spec.site)
            if self._site.clock.now() - self._checked < self._every_s:
                return
            with self._site.shells.open(self._server) as shell:
                self._need(parse_lease(self._read(shell)[0], self._server.name))
            self._checked = self._site.clock.now()

    def renew(self) -> None:
        """Write that this run still lives. Raises FencedError when another run has taken over."""
        with self._lock, self._site.shells.open(self._server) as shell:
            for _ in range(SWAP_TRIES):
                text, _, now = self._read(shell)
                if self._swap(shell, text, replace(self._need(parse_lease(text)), renewed_at=now), "renew"):
                    return

    def release(self, *, finished: bool) -> None:
        """Give the lease back. A plan that is not finished stays noted, so that its approval still holds."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock, self._site.shells.open(self._server) as shell:
            for _ in range(SWAP_TRIES):
                text, _, _ = self._read(shell)
                state = self._need(parse_lease(text))
                if self._swap(shell, text, released(state, finished=finished), "release"):
                    self._state = None
                    return

    def keep(self) -> None:
        """Start renewing, in a thread of its own, until `release`."""
        self._thread = threading.Thread(target=self._renew_on, name="lease", daemon=True)
        self._thread.start()

    def _renew_on(self) -> None:
        every_s = self._state.ttl_s / 3 if self._state else 1.0
        while not self._ended.wait(every_s):
            try:
                self.renew()
            except FencedError as error:
                log.error("%s", error)
                return  # the next check, and every node, stops this run
            except StackError as error:
                log.warning("the lease could not be renewed yet: %s", error)

    @property
    def _server(self) -> Node:
        return self._site.spec.servers[0]

    def _read(self, shell: NodeShell) -> tuple[str | None, int, float]:
        seen = shell.read(lease_script())
        lease, fence = seen["lease"], seen["fence"]
        if lease.rc and not lease.absent:
            raise StackError("the lease could not be read", where=self._server.name, seen=f"exit code {lease.rc}")
        return (None if lease.absent else lease.out), int(fence.out.strip() or 0), float(seen["now"].out)

    def _swap(self, shell: NodeShell, text: str | None, state: LeaseState, what: str) -> bool:
        command = Command(f"lease/{self._site.spec.site}/{what}", str(state.number), swap_script(text, state))
        try:
            shell.apply(Batch((command,), state.number, f"lease-{state.number}"))
        except StepFailedError as error:
            if error.outcome.rc == MOVED:
                return False
            raise
        self._state, self.number = state, state.number
        return True

    def _need(self, seen: LeaseState | None) -> LeaseState:
        """Return the lease that was seen if it is still ours. Raises FencedError."""
        mine = self._state
        if seen is None or mine is None or seen.holder is None or not seen.holder.same_run(self._holder):
            whose = seen.holder.run if seen and seen.holder else "nobody"
            raise FencedError(
                "another run has taken over", where=self._site.spec.site, wanted=f"number {self.number}",
                seen=f"number {seen.number if seen else 'none'}, held by {whose}",
            )  # fmt: skip
        return seen


class NoLease:
    """What is held for a plan without steps: nothing, so nothing may be changed."""

    number = 0

    def check(self) -> None:
        """Refuse."""
        raise FencedError("the plan had no steps, so no lease was taken", remedy="Plan again, then apply that plan.")


@asynccontextmanager
async def hold_lease(
    site: Site, plan: Plan, plan_hash: str | None = None, at_least: int = 0
) -> AsyncIterator[LeaseHandle]:
    """Hold the site's lease for as long as the context lasts; for a plan without steps take none.

    `at_least` is the largest fencing number seen on any node, in case the first server was replaced.
    Raises LeaseHeldError, PlanMovedError.
    """
    if plan.empty:
        yield NoLease()
        return
    lease = Lease(site, this_process(*this_run()))
    await in_thread(lease.take, plan, plan_hash, at_least)
    lease.keep()
    finished = False
    try:
        yield lease
        finished = True
    finally:
        # Shielded: a cancelled run must still give the lease back.
        await asyncio.shield(in_thread(_give_back, lease, finished))


def _give_back(lease: Lease, finished: bool) -> None:
    try:
        lease.release(finished=finished)
    except StackError as error:
        # The run's own outcome counts; the lease frees itself when its time is over, or when this process is gone.
        log.warning("the lease could not be given back: %s", error)


def this_run() -> tuple[str, str]:
    """Return this run's name with its id, and the place where it can be looked at."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None:
        return f"process-{os.getpid()}", ""
    base = os.environ.get("PREFECT_UI_URL", "").rstrip("/")
    return f"{run.name}-{str(run.id)[:8]}", f"{base}/runs/flow-run/{run.id}" if base else ""
