"""Every requirement of guide 4.9 and 5.1 to 6, and what answers it. The rows are in guide/, by chapter."""

from __future__ import annotations

from stackwright.domain.guide.answers import Requirement
from stackwright.domain.guide.clearml import CLEARML
from stackwright.domain.guide.machines import MACHINES
from stackwright.domain.guide.platform import PLATFORM

REQUIREMENTS: tuple[Requirement, ...] = (*MACHINES, *PLATFORM, *CLEARML)
