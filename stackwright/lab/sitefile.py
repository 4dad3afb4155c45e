"""The lab's site file: deployments/sites/lab.yaml with this lab's network, CA file and host keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from stackwright.lab.rig import ROOT

TEMPLATE = ROOT / "deployments" / "sites" / "lab.yaml"
TEMPLATE_PREFIX = "127.77.10"
TEMPLATE_CA = "build/lab/ca.pem"
NODE_NAMES = ("srv1", "srv2", "srv3", "wrk1", "wrk2", "wrk3", "gpu1", "gpu2")


def fill(prefix: str, ca_file: str, host_keys: Mapping[str, str]) -> str:
    """Return the site file moved to the network `prefix` (three bytes), with every node's host key pinned."""
    text = TEMPLATE.read_text(encoding="utf-8").replace(f"{TEMPLATE_PREFIX}.", f"{prefix}.")
    data = yaml.safe_load(text.replace(TEMPLATE_CA, ca_file))
    data["ssh"]["host_keys"] = "pinned"
    for node in data["nodes"]:
        node["host_key"] = host_keys[node["name"]]
    return "# Written by the lab; the template is deployments/sites/lab.yaml.\n" + yaml.safe_dump(data, sort_keys=False)


def write(folder: Path, prefix: str, ca_file: str, host_keys: Mapping[str, str]) -> Path:
    """Write the finished site file below the lab's folder and return its path."""
    path = folder / "sites" / "lab.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fill(prefix, ca_file, host_keys), encoding="utf-8")
    return path


def names() -> tuple[str, ...]:
    """Return the host names that the lab's load balancer answers for."""
    data = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    return tuple(data["dns"]["hosts"])
