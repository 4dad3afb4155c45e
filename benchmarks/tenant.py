"""One tenant on an idle lab, from the signed request to ready: our own time beside the waits, and beside a bare script.

`python -m benchmarks.tenant [--times 3]`. Receiver, worker, Prefect server and lab share this machine. `own_s` is the
time beyond the waits that the stand-ins impose (agent and gateway listed, the first job done), which the bare script
has too: its waits are what is taken away. `ratio` is the whole time against the bare script's. Medians of all tenants.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import threading
import time
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.bare_tenant import onboard
from blocks.site import load_site
from blocks.store import BlockSecrets
from stackwright.domain.tenant_request import WantedTenant
from stackwright.lab.rig import ROOT, Rig
from stackwright.webhooks.keys import rotate
from tests.load.asking import CALLER, QUOTA, SITE, Ask, Portal
from tests.load.crew import Crew
from tests.saga.ground import deployed

GOAL_S = 3.0
LIMIT_S = 180.0


def through_us(crew: Crew, portal: Portal, name: str) -> float:
    """Ask for one tenant as a caller would; return the seconds from the request to its end."""
    ask = Ask(name, f"bench-key-{name}", 0.0)
    asyncio.run(portal.ask_all([ask]))
    deadline = time.monotonic() + LIMIT_S
    while True:
        (row,) = [row for row in crew.rows() if row.tenant == name]
        if row.ended_at is not None:
            if row.outcome != "completed":
                sys.exit(f"{name} ended as {row.outcome}: {row.message}")
            return row.ended_at - ask.first_sent
        if time.monotonic() > deadline:
            sys.exit(f"{name} did not end: {row}")
        threading.Event().wait(0.05)


def measure(rig: Rig, times: int) -> dict[str, Any]:
    """Bring tenants up in turn, ours and bare ones, after one of each that warms everything up."""
    crew = Crew(rig, 2 * times + 2, limit=2)
    os.environ["STACKWRIGHT_WEBHOOKS"] = str(crew.settings)
    key_id, key = rotate(BlockSecrets(), f"webhook-{CALLER}")
    portal = Portal(crew.base, key_id, key.get_secret_value(), rig.folder / "answers.txt")
    for who in ("receiver", "worker"):
        crew.start(who)
    ours, bare = [], []
    try:
        _, site = load_site(SITE)
        for number in range(times + 1):
            ours.append(through_us(crew, portal, f"ours{number}"))
            wanted = WantedTenant(name=f"bare{number}", admin_email=f"admin@bare{number}.example", quota=QUOTA)
            bare.append(onboard(site, wanted.to_tenant()))
    finally:
        crew.stop()
    whole = statistics.median(ours[1:])
    waits = statistics.median(one.waits_s for one in bare[1:])
    plain = statistics.median(one.whole_s for one in bare[1:])
    return {
        "benchmark": "tenant", "tenants": times, "ready_s": round(whole, 2), "waits_s": round(waits, 2),
        "own_s": round(whole - waits, 2), "goal_s": GOAL_S, "bare_s": round(plain, 2),
        "bare_own_s": round(plain - waits, 2), "ratio": round(whole / plain, 2), "speed": rig.speed,
        "load_average": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="tenants of each kind")
    options = parser.parse_args()
    folder = ROOT / "build" / "bench" / "tenant"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with deployed(folder) as rig, temporary_settings({PREFECT_API_URL: rig.server.url}):
        os.environ.update(rig.environment)
        print(json.dumps(measure(rig, options.times)))


if __name__ == "__main__":
    main()
