"""The whole site's plan: nodes, then RKE2, then layers, then tenants. Pure; each part's own rules live with the part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stackwright.domain.errors import PlanRefusedError, Problem
from stackwright.domain.evidence import Evidence
from stackwright.domain.plan import Plan, Step
from stackwright.domain.spec import StackSpec


@dataclass(frozen=True)
class StackFacts:
    """One look at a whole site. `at` is its time (ISO 8601, UTC)."""

    at: str
    nodes: Mapping[str, Any]
    rke2: Any
    layers: Any
    tenants: Mapping[str, Any] = field(default_factory=dict)
