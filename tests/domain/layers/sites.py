"""Example sites for the tests of the layers: the lab's site file, and variants that take each layer's other paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from stackwright.domain.spec import StackSpec
from stackwright.domain.values import deep_merge

ROOT = Path(__file__).parents[3]
LAB = (ROOT / "deployments/sites/lab.yaml").read_text(encoding="utf-8")


def lab_document() -> dict[str, Any]:
    """Return the lab's site file as it stands."""
    document: dict[str, Any] = yaml.safe_load(LAB)
    return document


def lab(**over: Any) -> StackSpec:
    """Return the lab's spec with sections laid over it."""
    return StackSpec.model_validate(deep_merge(lab_document(), over))


def with_gpus(*vendors: str, **over: Any) -> StackSpec:
    """Return the lab's spec with its GPU nodes' vendors replaced: one vendor a GPU node, further nodes without GPUs."""
    document = deep_merge(lab_document(), over)
    left = list(vendors)
    for node in document["nodes"]:
        if "gpu" in node:
            if left:
                node["gpu"] = {"vendor": left.pop(0), "count": 2}
            else:
                node.pop("gpu")
                node["roles"] = ["worker"]
    return StackSpec.model_validate(document)


VENDOR_PLACES: dict[str, Any] = {
    "charts": {
        "mirror": None,
        "credentials": {"dp.apps.rancher.io": "appco", "registry.suse.com": "scc"},
        "ca_file": None,
    },
    "backup": None,
    "rke2": {"version": "v1.35.3+rke2r1", "ingress_controller": "ingress-nginx"},
    "ingress": {"tls": "secret", "certificate_block": "platform", "https_port": 443},
    "layers": {"suse_ai": {"ollama_gpus": 2, "models": ["gemma:2b"]}, "security": {"version": "2.11.2"}},
    "clearml": {"supervisor_mode": "supervisor"},
}

SITES: dict[str, StackSpec] = {
    "lab": lab(),
    "vendor-places": lab(**VENDOR_PLACES),
    "guide-gpu": lab(
        layers={"gpu_operator": {"version": "25.3.4", "driver": "operator"}, "suse_ai": {"ollama_gpus": 1}}
    ),
    "amd-intel": with_gpus("amd", "intel"),
    "intel": with_gpus("intel"),
}
EXAMPLE = ROOT / "deployments/sites/example-ha.yaml"
if EXAMPLE.exists():
    SITES["example-ha"] = StackSpec.model_validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
