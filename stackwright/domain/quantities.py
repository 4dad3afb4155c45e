"""Kubernetes quantities (`500m`, `16`, `64Gi`) as exact numbers. Kubernetes: quantities."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {"": Decimal(1), "m": Decimal("0.001")}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)}
_UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)}
_SHAPE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([mkMGTPE]|[KMGTPE]i)?")


def quantity(text: object) -> Decimal:
    """Return a quantity's number in its base unit (cores, bytes, pieces). Raises ValueError for what is none."""
    found = _SHAPE.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    return Decimal(found[1]) * _UNITS[found[2] or ""]
