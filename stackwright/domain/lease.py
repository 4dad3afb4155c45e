"""The lease of a site: who may change it, under which fencing number, and when another may take over. Pure.

It lies in two places: as one line of JSON on the first server and, once there is one, in the cluster (lease_object.py).
The rules for both together: docs/decisions/007-lease-in-two-places.md. The wire is in tasks/lease_places.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from stackwright.domain.errors import FencedError, LeaseHeldError, StackError
from stackwright.domain.plan import Plan
from stackwright.domain.shell import STATE, file_section, put_file, read_script, run_section, value_section

LEASE = f"{STATE}/lease"
TTL_S = 300.0
ALONE_STEP = 1000
"""Numbers given on the cluster's word alone are multiples of this, all others are not: no two runs ever share one."""


class LeaseBrokenError(StackError):
    """One place keeps something that is no lease: unknown is not free."""


class NoLeasePlaceError(StackError):
    """Neither the first server nor the cluster answers: who may change the site is not known."""

    remedy = "Bring the first server's SSH or the Kubernetes API back, then run the flow again."
    transient = True


@dataclass(frozen=True)
class Holder:
    """One run of the controller. Host, boot, pid and the process's start together name one process for ever."""

    run: str
    host: str
    boot: str
    pid: int
    started: str
    url: str = ""

    def same_run(self, other: Holder) -> bool:
        """Tell whether both name one run in one process: two runs of one process are rivals all the same."""
        mine = (self.run, self.host, self.boot, self.pid, self.started)
        return mine == (other.run, other.host, other.boot, other.pid, other.started)

    def __str__(self) -> str:
        return f"run {self.run} (process {self.pid} on {self.host})"


@dataclass(frozen=True)
class LeaseState:
    """The lease as it lies in one place. `number` only grows. Times are of that place's own clock.

    `plan` and `steps` (fingerprints) are of the plan that was begun and has not been finished.
    """

    number: int
    holder: Holder | None
    renewed_at: float
    ttl_s: float = TTL_S
    plan: str = ""
    steps: tuple[str, ...] = field(default=(), repr=False)
    taken_at: float = 0.0

    @property
    def until(self) -> float:
        return self.renewed_at + self.ttl_s

    def to_json(self) -> str:
        """Return the line that is kept on the first server."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Copy:
    """What one place answered: its copy of the lease (None: looked, and none there), and its own clock."""

    place: str
    state: LeaseState | None
    now: float


@dataclass(frozen=True)
class Takeover:
    """The lease to write, its times still to be set to each place's; whose it was and why it was taken, if it was.

    `expired` says that the reason is time alone.
    """

    state: LeaseState
    before: LeaseState | None = None
    reason: str = ""
    expired: bool = False


def parse_lease(text: str | None, where: str = "") -> LeaseState | None:
    """Return the lease of a file's text; None where there is no file. Raises LeaseBrokenError for what is no lease."""
    if text is None:
        return None
    try:
        data = json.loads(text)
        holder = Holder(**data.pop("holder")) if data.get("holder") else data.pop("holder", None)
        state = LeaseState(holder=holder, **{**data, "steps": tuple(data["steps"])})
        return replace(state, number=int(state.number), renewed_at=float(state.renewed_at), ttl_s=float(state.ttl_s))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = "Look at the file; if no run is alive, remove it: the next number is taken from what the nodes know."
        raise LeaseBrokenError(
            "the lease cannot be read", where=f"{where}:{LEASE}", wanted="one line of JSON", seen=text[:80] or "empty",
            remedy=remedy,
        ) from error  # fmt: skip


def newest(copies: Iterable[Copy]) -> LeaseState | None:
    """Return the copy that was written last: numbers only grow, and a lease is given back after it was held.

    Of two equal ones the one that still knows its steps: the cluster has no room for those of a very large plan.
    """
    states = [copy.state for copy in copies if copy.state is not None]
    return max(states, key=lambda state: (state.number, state.holder is None, len(state.steps)), default=None)


def decide_lease(
    copies: Iterable[Copy],
    mine: Holder,
    *,
    is_dead: Callable[[Holder], bool],
    at_least: int = 0,
    cluster_alone: bool = False,
    ttl_s: float = TTL_S,
) -> Takeover:
    """Return the lease to write for `mine`: every copy that answered must be free, ours, or to be taken over.

    `is_dead` is the caller's proof that a holder was a process of this very host and boot that is no more. `at_least`
    is the largest fencing number seen on any node. Raises LeaseHeldError while another holds any copy.
    """
    copies = tuple(copies)
    last = newest(copies)
    reasons = {copy.place: _why_free(copy, last, mine, is_dead) for copy in copies}
    held = [copy for copy in copies if reasons[copy.place] is None]
    if held:
        raise held_error(held[0])
    largest = max([at_least, *(copy.state.number for copy in copies if copy.state)])
    number = next_number(largest, cluster_alone=cluster_alone)
    if last is None or last.holder is None:
        return Takeover(LeaseState(number, mine, 0.0, ttl_s, *_noted(last)))
    if last.holder.same_run(mine):
        number = last.number if last.number == largest else number
        return Takeover(LeaseState(number, mine, 0.0, ttl_s, *_noted(last), last.taken_at))
    why = next(reason for copy in copies if copy.state == last and (reason := reasons[copy.place]))
    return Takeover(LeaseState(number, mine, 0.0, ttl_s, *_noted(last)), last, why, expired=not is_dead(last.holder))


def _noted(last: LeaseState | None) -> tuple[str, tuple[str, ...]]:
    """Return the plan that was begun and not finished: its approval outlives its run."""
    return (last.plan, last.steps) if last else ("", ())


def _why_free(copy: Copy, last: LeaseState | None, mine: Holder, is_dead: Callable[[Holder], bool]) -> str | None:
    """Return why this copy may be overwritten, empty where nobody held it; None while another holds it."""
    state = copy.state
    if state is None or state.holder is None or state.holder.same_run(mine):
        return ""
    if last is not None and last.number == state.number and last.holder is None:
        return ""  # given back in the other place, when this one did not answer
    if is_dead(state.holder):
        return f"{state.holder} is dead"
    if copy.now >= state.until:
        return f"{state.holder} has not renewed it since {clock(state.renewed_at)}"
    return None


def next_number(largest: int, *, cluster_alone: bool) -> int:
    """Return the next fencing number. Who sees only the cluster and who sees the server never give the same one."""
    number = largest + 1
    if cluster_alone:
        return -(-number // ALONE_STEP) * ALONE_STEP
    return number if number % ALONE_STEP else number + 1


def held_error(copy: Copy, why: str = "") -> LeaseHeldError:
    """Return the refusal that says whose the lease is: run, link, host, and until when."""
    state = copy.state
    holder = state.holder if state else None
    if state is None or holder is None:
        raise ValueError("nobody holds this copy")
    since = f" since {clock(state.taken_at)}" if state.taken_at else ""
    error = LeaseHeldError(
        f"run {holder.run} changes this site",
        where=holder.url or f"process {holder.pid} on {holder.host}",
        wanted="a free lease",
        seen=f"number {state.number} held{since} by process {holder.pid} on {holder.host}, "
        f"until {clock(state.until)} unless renewed (clock and copy of {copy.place}){why}",
    )
    error.run = holder.run
    return error


def confirm(copies: Iterable[Copy], mine: LeaseState, where: str, *, known: bool = False) -> None:
    """Raise FencedError unless one place says that the lease is still ours, and none that it is another's.

    A copy with a smaller number was not reached when ours was taken, or was restored from a backup: it is brought up
    at the next renewal. `known` says that another place has just said that it is ours.
    """
    ours = known
    seen: LeaseState | None = None
    for copy in copies:
        seen = copy.state or seen
        if copy.state is None or copy.state.number < mine.number:
            continue
        if not is_ours(copy.state, mine):
            raise _fenced(mine, copy.state, where)
        ours = True
    if not ours:
        raise _fenced(mine, seen, where)


def is_ours(seen: LeaseState | None, mine: LeaseState) -> bool:
    """Tell whether a copy is of our own taking."""
    if seen is None or seen.holder is None or mine.holder is None:
        return False
    return seen.number == mine.number and seen.holder.same_run(mine.holder)


def _fenced(mine: LeaseState, seen: LeaseState | None, where: str) -> FencedError:
    whose = f"{seen.holder.run} ({seen.holder.url or seen.holder.host})" if seen and seen.holder else "nobody"
    return FencedError(
        "another run has taken over", where=where, wanted=f"number {mine.number}",
        seen=f"number {seen.number if seen else 'none'}, held by {whose}",
    )  # fmt: skip


def begun(state: LeaseState, plan: Plan) -> LeaseState:
    """Return the lease with a plan noted as begun. The steps of an unfinished plan with the same hash are kept."""
    return replace(state, plan=plan.hash, steps=tuple(step.fingerprint for step in plan.steps))


def continued(state: LeaseState, plan: Plan) -> LeaseState:
    """Return the lease for going on with the plan it was begun with: what is left must be part of it."""
    known = set(state.steps)
    if state.plan and all(step.fingerprint in known for step in plan.steps):
        return state
    return begun(state, plan)


def released(state: LeaseState, *, finished: bool) -> LeaseState:
    """Return the lease given back. A plan that is not finished stays noted, so that its approval still holds."""
    if finished:
        return replace(state, holder=None, plan="", steps=())
    return replace(state, holder=None)


def lease_script() -> str:
    """Return the script that reads the lease, the node's fencing number and its clock."""
    return read_script(file_section("lease", LEASE) + fence_section() + run_section("now", "date", "+%s.%N"))


def fence_section() -> str:
    """Return the line that reads the largest fencing number that a node has seen, under `fence`."""
    return value_section("fence", f"{STATE}/fence")


def swap_script(seen: str | None, state: LeaseState) -> str:
    """Return a step's lines that write the lease only if it still is what was seen; exit code 9 if it is not.

    The batch that carries it holds the node's lock, so nobody else can write in between.
    """
    if seen is None:
        check = f"if [ -e {LEASE} ]; then exit 9; fi\n"
    else:
        data = base64.b64encode(seen.encode()).decode()
        check = f'if [ "$(base64 -w 0 {LEASE})" != {data} ]; then exit 9; fi\n'
    return f"{check}{put_file(LEASE, state.to_json(), 0o600)}sync {LEASE}\n"


def clock(seconds: float) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
