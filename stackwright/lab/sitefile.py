"""The lab's site file: deployments/sites/lab.yaml with this lab's machines, network, CA file and host keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT

TEMPLATE = ROOT / "deployments" / "sites" / "lab.yaml"
TEMPLATE_PREFIX = "127.77.10"
TEMPLATE_CA = "build/lab/ca.pem"
LAYERS = (
    "cert_manager", "metallb", "rancher", "rancher_backup", "storage", "security", "registry", "observability",
    "gpu_operator", "suse_ai", "clearml",
)  # fmt: skip
Document = dict[str, Any]


def fill(layout: Layout, prefix: str, ca_file: str, addresses: Mapping[str, str], keys: Mapping[str, str]) -> str:
    """Return the site file of a lab on the network `prefix` (three bytes), with every node's host key pinned."""
    text = TEMPLATE.read_text(encoding="utf-8").replace(f"{TEMPLATE_PREFIX}.", f"{prefix}.")
    data = yaml.safe_load(text.replace(TEMPLATE_CA, ca_file))
    data["ssh"]["host_keys"] = "pinned"
    data["rke2"]["version"] = layout.releases[0]
    models = {node["name"]: node for node in data["nodes"]}
    data["nodes"] = [_node(name, models, addresses[name], keys[name]) for name in layout.site_names]
    if layout.bare:
        strip(data)
    return "# Written by the lab; the template is deployments/sites/lab.yaml.\n" + yaml.safe_dump(data, sort_keys=False)


def _node(name: str, models: Mapping[str, Document], address: str, key: str) -> Document:
    """Return a machine's entry: the template's own, or one like the first of its kind; agents are plain workers."""
    kind = re.sub(r"\d+$", "", name)
    plain = {"name": name, "address": address, "port": models["srv1"]["port"], "roles": ["worker"]}
    model = models.get(name) or models.get(f"{kind}1") or plain
    return {**model, "name": name, "address": address, "host_key": key}


def strip(data: Document) -> None:
    """Leave nodes and RKE2 alone in a site file: no layers, no tenants."""
    data["tenants"] = []
    data["validation"] = {"workload": False}
    data.pop("backup", None)
    for layer in LAYERS:
        data["layers"][layer] = {**data["layers"].get(layer, {}), "enabled": False}


def write(
    folder: Path, layout: Layout, prefix: str, ca_file: str, addresses: Mapping[str, str], keys: Mapping[str, str]
) -> Path:
    """Write the finished site file below the lab's folder and return its path; spares.json has the other machines."""
    path = folder / "sites" / "lab.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fill(layout, prefix, ca_file, addresses, keys), encoding="utf-8")
    port = yaml.safe_load(path.read_text(encoding="utf-8"))["nodes"][0]["port"]
    spares = [
        {"name": name, "address": addresses[name], "port": port, "host_key": keys[name]}
        for name in layout.names[len(layout.site_names) :]
    ]
    (folder / "spares.json").write_text(json.dumps(spares) + "\n", encoding="utf-8")
    return path


def names() -> tuple[str, ...]:
    """Return the host names that the lab's load balancer answers for."""
    data = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    return tuple(data["dns"]["hosts"])
