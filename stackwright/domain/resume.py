"""Which runs are started again when their process is gone. Pure: the watch over them is in stackwright/resume.py."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class ResumeRules:
    """Which flows go on by themselves, and where that ends. Declared in deployments/automations.yaml."""

    flows: tuple[str, ...]
    within_s: float
    most: int
    pending_s: float


@dataclass(frozen=True)
class LostRun:
    """A run as the server shows it. `since` is when it was last known to live; `starts` counts how often it has run.

    `by_worker` says that it was once scheduled for a worker: what a shell started is the shell's. `later` names a run
    of the same deployment and parameters that was asked for after it.
    """

    flow: str
    state: str
    since: float
    starts: int
    by_worker: bool
    later: str | None = None


class Fate(Enum):
    """What is done with a run."""

    RESUME = "resume"
    WAIT = "wait"
    LEAVE = "leave"


def decide_fate(run: LostRun, rules: ResumeRules, now: float) -> tuple[Fate, str]:
    """Return what is to be done with a crashed or pending run, and why."""
    age_s = now - run.since
    if run.flow not in rules.flows:
        return Fate.LEAVE, f"{run.flow} is not among the flows that go on by themselves"
    if not run.by_worker:
        return Fate.LEAVE, "it was started from a shell, which can start it again"
    if run.later:
        return Fate.LEAVE, f"{run.later} was asked for after it"
    if age_s > rules.within_s:
        return Fate.LEAVE, f"it was lost {age_s:.0f} s ago, more than {rules.within_s:.0f} s"
    if run.state == "PENDING":
        if age_s < rules.pending_s:
            return Fate.WAIT, "its worker may still start it"
        return Fate.RESUME, f"a worker took it {age_s:.0f} s ago and did not start it"
    if run.state != "CRASHED":
        return Fate.LEAVE, f"it is {run.state}"
    if run.starts >= rules.most:
        return Fate.LEAVE, f"its process was lost {run.starts} times, as often as it may be"
    return Fate.RESUME, "its process is gone"


def later_run(name: str, created: float, others: Collection[tuple[str, float, str]]) -> str | None:
    """Return the newest run asked for after this one, of (name, time, state), that was neither lost nor cancelled."""
    after = [one for one in others if one[0] != name and one[1] > created and one[2] not in ("CRASHED", "CANCELLED")]
    return max(after, key=lambda one: one[1])[0] if after else None
