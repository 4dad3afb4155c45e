"""Checks by which ClearML proves itself by work: login, pipeline, quota, spill-over, application gateway, fine-tuning.

Pure; the workloads are started by tasks/work_clearml.py. Guide: 6.
"""

from __future__ import annotations

from stackwright.domain.check import Check

CHECKS: tuple[Check, ...] = ()
