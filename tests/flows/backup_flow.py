"""The flow snapshot-etcd on a site of its own, in a process of its own: `python -m tests.flows.backup_flow FOLDER`.

A good run, one that finds the bundle fresh, one whose second store refuses, one whose first store does. It says in JSON
how each ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from flows import snapshot_etcd as module
from tasks.bundles import list_bundles, stores
from tests.domain.real_etcd import RealEtcd
from tests.store_server import Fault, running_store
from tests.tasks.bundle_site import PLANTED, BundleSite, put


def main(folder: Path) -> None:
    etcd = RealEtcd(folder)
    with etcd.running(), running_store(folder / "first") as first, running_store(folder / "second") as second:
        put(etcd, "/registry/secrets/default/planted", PLANTED)
        world = BundleSite(folder, etcd, first, second)
        module.load_site = lambda name: (world.site.spec, world.site)

        def run(**parameters: int) -> dict[str, Any]:
            state = asyncio.run(module.snapshot_etcd("north", return_state=True, **parameters))
            names = [one.id for one in list_bundles(stores(world.site)[0], "north")]
            return {"type": state.type.value, "message": state.message, "bundles": names, "saves": world.shells.saves}

        told = [run(), run()]
        second.fault = Fault("refused", "PUT")
        told.append(run(fresh_s=0))
        second.fault, first.fault = None, Fault("full", "PUT", "snapshot.age")
        told.append(run(fresh_s=0))
        sys.stdout.write("\n" + json.dumps({"runs": told, "identity": world.identity.get_secret_value()}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
