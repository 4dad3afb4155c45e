"""A small site on the lab with nothing but what tenants stand on: RKE2, certificates, storage and ClearML.

Where its layout has machines with GPUs, those and their operator as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stackwright.lab.layout import Layout
from stackwright.lab.rig import Rig
from stackwright.lab.server import PrefectServer
from stackwright.lab.sitefile import LAYERS

KEPT = ("cert_manager", "storage", "clearml")
LAYOUT = Layout(servers=1, workers=3, gpus=0)
FULL_LAYOUT = Layout(servers=1, workers=3, gpus=2)
SPEED = 60.0


def cut_down(document: dict[str, Any], poll_s: float = 0.1) -> dict[str, Any]:
    """Return the lab's site file without what tenants do not need."""
    document["tenants"] = []
    document["rke2"] |= {"allow_single_server": True, "poll_s": poll_s}
    document["validation"] = {"workload": True, "workload_timeout_s": 60}
    document.pop("backup", None)
    kept = (*KEPT, "gpu_operator") if any("gpu" in node for node in document["nodes"]) else KEPT
    for layer in LAYERS:
        on = layer in kept
        document["layers"][layer] = {**document["layers"].get(layer, {}), "enabled": on, "timeout_s": 60}
    document["layers"]["metallb"] = {"enabled": False}
    document["layers"]["storage"] |= {"replicas": 1}
    return document


@contextmanager
def deployed(folder: Path, layout: Layout = LAYOUT, poll_s: float = 0.1) -> Iterator[Rig]:
    """A lab whose small site was deployed, with a Prefect server of its own."""
    server = PrefectServer(folder / "prefect")
    server.launch()
    rig = Rig(folder, server, SPEED)
    try:
        server.wait()
        rig.set_up()
        rig.start_lab(layout=layout)
        path = rig.lab.sites / "lab.yaml"
        path.write_text(yaml.safe_dump(cut_down(yaml.safe_load(path.read_text()), poll_s), sort_keys=False))
        done = rig.run("apply", "lab", "--yes")
        assert done.code == 0, done.output[-4000:]
        yield rig
    finally:
        rig.close()
        server.stop()
