"""The lab's site file: deployments/sites/lab.yaml with this lab's addresses, ports and paths filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from stackwright.lab.rig import ROOT

TEMPLATE = ROOT / "deployments" / "sites" / "lab.yaml"
NODE_NAMES = ("srv1", "srv2", "srv3", "wrk1", "wrk2", "wrk3", "gpu1", "gpu2")


def fill(places: Mapping[str, str], host_keys: Mapping[str, str]) -> str:
    """Return the site file with `<name>` exchanged for `places[name]` and every node's host key pinned.

    Raises KeyError for a place that is not given: the template and the lab must agree.
    """
    text = re.sub(r"<([a-z0-9]+)>", lambda found: places[found.group(1)], TEMPLATE.read_text(encoding="utf-8"))
    data = yaml.safe_load(text)
    for node in data["nodes"]:
        node["host_key"] = host_keys[node["name"]]
    return "# Written by the lab; the template is deployments/sites/lab.yaml.\n" + yaml.safe_dump(data, sort_keys=False)


def write(folder: Path, places: Mapping[str, str], host_keys: Mapping[str, str]) -> Path:
    """Write the finished site file below the lab's folder and return its path."""
    path = folder / "sites" / "lab.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fill(places, host_keys), encoding="utf-8")
    return path


def names() -> tuple[str, ...]:
    """Return the host names that the lab's load balancer answers for."""
    data = yaml.safe_load(re.sub(r'"<[a-z0-9]+>"', '""', TEMPLATE.read_text(encoding="utf-8")))
    return tuple(data["dns"]["hosts"])
