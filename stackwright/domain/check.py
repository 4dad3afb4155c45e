"""A check of the validation's catalogue, and what a look makes of it. The catalogue itself is in validation.py."""

from __future__ import annotations

from dataclasses import dataclass

from stackwright.domain.evidence import Verdict

# What a lab imitates: named in the evidence of each check that was made on it.
KUBERNETES, NETWORK, SERVER, AGENT, GATEWAY, GPUS = (
    "RKE2 and Kubernetes",
    "Cluster network (CNI)",
    "ClearML Enterprise server",
    "ClearML Enterprise agent",
    "ClearML application gateway",
    "GPU operator",
)


@dataclass(frozen=True)
class Check:
    """One check of the catalogue. `product` is what a lab imitates for it; `works` marks one that starts a workload."""

    id: str
    title: str
    guide: str
    wanted: str
    remedy: str
    product: str
    must: bool = True
    works: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a look made of a check: its verdict and the measured value; for unknown and skipped it is the reason."""

    verdict: Verdict
    seen: str


def judge(good: bool, seen: str) -> Outcome:
    """Pass or fail, by what was seen."""
    return Outcome("pass" if good else "fail", seen)
