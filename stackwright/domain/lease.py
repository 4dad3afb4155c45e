"""The lease of a site: who may change it, under which fencing number, and when another may take over. Pure.

It lies as one line of JSON on the first server; taking it is a compare-and-swap by one script (tasks/lease.py).
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from stackwright.domain.errors import LeaseHeldError, StackError
from stackwright.domain.plan import Plan
from stackwright.domain.shell import STATE, file_section, put_file, read_script, run_section, value_section

LEASE = f"{STATE}/lease"
TTL_S = 300.0


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


@dataclass(frozen=True)
class LeaseState:
    """The lease as it lies on the first server. `number` only grows. Times are of that server's own clock.

    `plan` and `steps` (fingerprints) are of the plan that was begun and has not been finished.
    """

    number: int
    holder: Holder | None
    renewed_at: float
    ttl_s: float = TTL_S
    plan: str = ""
    steps: tuple[str, ...] = field(default=(), repr=False)

    @property
    def until(self) -> float:
        return self.renewed_at + self.ttl_s

    def to_json(self) -> str:
        """Return the line that is kept."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Takeover:
    """The lease to write, and why another's was taken over, empty where none was."""

    state: LeaseState
    reason: str = ""


def parse_lease(text: str | None, where: str = "") -> LeaseState | None:
    """Return the lease of a file's text; None where there is no file. Raises StackError for what is not a lease."""
    if text is None:
        return None
    try:
        data = json.loads(text)
        holder = Holder(**data.pop("holder")) if data.get("holder") else data.pop("holder", None)
        return LeaseState(holder=holder, **{**data, "steps": tuple(data["steps"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = f"Look at the file; if no run is alive, remove it. The next number is then taken from {STATE}/fence."
        raise StackError("the lease cannot be read", where=f"{where}:{LEASE}", seen=text[:80], remedy=remedy) from error


def decide_lease(
    seen: LeaseState | None, mine: Holder, now: float, *, holder_is_dead: bool, at_least: int = 0, ttl_s: float = TTL_S
) -> Takeover:
    """Return the lease to write for `mine`.

    `holder_is_dead` is the caller's proof that the present holder was a process of this very host and boot that is no
    more. `at_least` is the largest fencing number seen on any node. Raises LeaseHeldError while another holds it.
    """
    number = max(seen.number if seen else 0, at_least) + 1
    fresh = LeaseState(number, mine, now, ttl_s, seen.plan if seen else "", seen.steps if seen else ())
    if seen is None or seen.holder is None:
        return Takeover(fresh)
    holder = seen.holder
    if holder.same_run(mine):
        return Takeover(replace(fresh, number=max(seen.number, at_least)))
    if holder_is_dead:
        return Takeover(fresh, f"run {holder.run} (process {holder.pid} on {holder.host}) is dead")
    if now >= seen.until:
        return Takeover(fresh, f"run {holder.run} on {holder.host} has not renewed it since {_clock(seen.renewed_at)}")
    raise LeaseHeldError(
        f"run {holder.run} changes this site",
        where=holder.url or f"process {holder.pid} on {holder.host}",
        wanted="a free lease",
        seen=f"held until {_clock(seen.until)} unless renewed (number {seen.number})",
    )


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
    fence = value_section("fence", f"{STATE}/fence")
    return read_script(file_section("lease", LEASE) + fence + run_section("now", "date", "+%s.%N"))


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


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
