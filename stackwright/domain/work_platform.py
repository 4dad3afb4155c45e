"""Checks by which the platform below ClearML proves itself by work: storage, registry, admission, GPUs, observability.

Pure; the workloads are started by tasks/work_platform.py. Guide: 6.
"""

from __future__ import annotations

from stackwright.domain.check import Check

CHECKS: tuple[Check, ...] = ()
