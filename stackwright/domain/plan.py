"""The plan: ordered steps with their effects, and the hash that binds an approval to them. A value: nothing acts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from stackwright.domain.errors import PlanMovedError


class Effect(IntEnum):
    """The worst that a step does, in rising order."""

    NONE = 0
    FILE = 1
    SERVICE_RESTART = 2
    ETCD_MEMBER_DOWN = 3
    DRAIN = 4
    REBOOT = 5
    DATA_AT_RISK = 6

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Step:
    """One change that the plan wants.

    `id` is `<area>/<target>/<what>`, unique in a plan and stable from run to run; `target` is a node, a layer, a tenant
    or `cluster`. `digest` sums up what would be done (content, versions, hashes of values; never a secret), so that a
    changed step is another step.
    """

    id: str
    target: str
    summary: str
    effect: Effect
    guide: str
    verify: str
    digest: str = ""

    @property
    def fingerprint(self) -> str:
        return digest_of(self.id, self.effect.label, self.digest)


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they are carried out; empty when the site is as the spec wants it."""

    site: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """Twelve hex digits over the site and all steps."""
        return digest_of(self.site, *(step.fingerprint for step in self.steps))[:12]

    @property
    def empty(self) -> bool:
        return not self.steps

    @property
    def worst(self) -> Effect:
        return max((step.effect for step in self.steps), default=Effect.NONE)

    def of(self, target: str, area: str | None = None) -> tuple[Step, ...]:
        """Return the steps of one target, of one area (`node`, `rke2`, `layer`, `tenant`) if given."""
        return tuple(
            step for step in self.steps if step.target == target and (area is None or step.id.startswith(f"{area}/"))
        )


def digest_of(*parts: str) -> str:
    """Return the SHA-256 (hex) of the parts; their borders count."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def check_hash(plan: Plan, approved: str | None, begun: Iterable[str] = (), begun_hash: str | None = None) -> None:
    """Refuse to apply a plan other than the approved one.

    A run that died half-way is continued under the hash it was begun with: `begun` holds the fingerprints of the
    steps of that plan, `begun_hash` its hash. What is left to do must then be among them.
    Raises PlanMovedError. `approved=None` means that no approval was asked for.
    """
    if approved is None or approved == plan.hash or plan.empty:
        return
    known = set(begun)
    if approved == begun_hash:
        strange = [step for step in plan.steps if step.fingerprint not in known]
        if not strange:
            return
        seen = f"{len(strange)} step(s) that were not in it, first {strange[0].id}"
    else:
        seen = f"plan {plan.hash} with {len(plan.steps)} step(s)"
    raise PlanMovedError(
        "the approved plan does not hold any more", where=plan.site, wanted=f"plan {approved}", seen=seen
    )


def check_steps_approved(steps: Iterable[Step], approved: Iterable[Step], where: str) -> None:
    """Refuse steps that a task found necessary on its second look but that the approved plan does not hold.

    Raises PlanMovedError with the first strange step.
    """
    known = {step.fingerprint for step in approved}
    for step in steps:
        if step.fingerprint not in known:
            raise PlanMovedError(
                f"step {step.id} is needed now but was not in the plan",
                where=where,
                wanted=f"only the {len(known)} planned step(s)",
                seen=step.summary,
            )
