"""What a lab's products hold beside its machines' disks, kept in a file while the lab is down.

The machines' disks, etcd's members, the registry, the journal and the faults lie in the lab's folder anyway; objects of
the API, ClearML's data and what other products know by themselves live in memory. A lab that is stopped (or told to)
writes them down, one that is started reads them: a copy of a stopped lab's folder, put back, is the lab of then.
"""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.access import User
from stackwright.lab.kube.values import copy

if TYPE_CHECKING:
    from stackwright.lab.clearml.state import ClearmlState
    from stackwright.lab.kube import KubeState

log = logging.getLogger(__name__)

FILE = "products.pickle"
DEFINITIONS = ("apiextensions.k8s.io", "customresourcedefinitions")
NOT_KEPT = ("record", "clock")
RUNNING = "clearml/"  # what an operator has started itself: it starts it again
Memory = dict[str, Any]


def keep(folder: Path, kube: KubeState, clearml: ClearmlState, memory: Memory) -> None:
    """Write the products' data down (0600), in place of what was written before."""
    data = {
        "objects": dump_objects(kube),
        "tokens": dict(kube.tokens),
        "clearml": {name: value for name, value in vars(clearml).items() if name not in NOT_KEPT},
        "memory": {key: value for key, value in memory.items() if not key.startswith(RUNNING)},
    }
    spare = folder / f"{FILE}.new"
    spare.touch(mode=0o600)
    spare.write_bytes(pickle.dumps(data))
    spare.replace(folder / FILE)


def restore(folder: Path, kube: KubeState, clearml: ClearmlState) -> Memory:
    """Put back what `keep` wrote, before anything runs; return the products' memory. Nothing where nothing was kept."""
    path = folder / FILE
    if not path.exists():
        return {}
    data = pickle.loads(path.read_bytes())  # noqa: S301 - the lab's own file in the lab's own folder, mode 0600
    load_objects(kube, data["objects"])
    tokens: dict[str, User] = data["tokens"]
    kube.tokens.update(tokens)
    vars(clearml).update(data["clearml"])
    memory: Memory = data["memory"]
    return memory


def dump_objects(kube: KubeState) -> list[dict[str, Any]]:
    """Return copies of all objects of a cluster; the definitions of custom kinds first."""
    keys = sorted(kube.resources, key=lambda key: key != DEFINITIONS)
    return [copy(kept.obj) for key in keys for _, kept in kube.sorted_kept(key)]


def load_objects(kube: KubeState, objects: list[dict[str, Any]]) -> None:
    """Put objects as they are into a cluster that does not run yet: no defaults, no admission, their own uids."""
    for obj in objects:
        if obj["kind"] == "CustomResourceDefinition":
            kube.define(obj)
        resource = kube.resource_of(obj)
        meta = obj["metadata"]
        kube.commit(resource, obj, kube.kept(resource.key, str(meta.get("namespace", "")), str(meta["name"])))
