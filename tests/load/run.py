"""Ask for many tenants within a minute while the receiver and the worker are killed, and count what came of it.

`python -m tests.load.run [--tenants N]`: N onboardings through signed HTTP, 5 % of them sent twice, 5 % more with a bad
signature; receiver and worker are killed twice each. Prints what is wrong, and last
`TENANTS asked=N ready=N lost=0 doubled=0 leaked=0 p50_s=S p95_s=S`. Exit code 1 unless all is well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import signal
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from prefect.settings import PREFECT_API_URL, temporary_settings

from blocks.store import BlockSecrets
from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT, Rig
from stackwright.webhooks.keys import rotate
from tests.load.asking import CALLER, Ask, Portal, plan_asks
from tests.load.crew import Crew, Row
from tests.load.postgres import prefects_database
from tests.load.verify import Findings, check_all
from tests.saga.ground import deployed

WITHIN_S = 55.0
RECEIVER_KILLS = (0.3, 0.7)  # of the time of asking
WORKER_KILLS = (0.15, 0.5)  # of the tenants, when so many are done
PODS_EACH, PODS_A_NODE, BASE_WORKERS = 4, 100, 3
POLL_S = 1.0  # as a site's file says by default; the lab's own 0.2 s is for one run alone
LOOK_EVERY_S = 1.0
TELL_EVERY_S = 15.0
SEED = 20261126


def tell(line: str) -> None:
    """Print a line at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def layout_for(tenants: int) -> Layout:
    """Return a lab whose nodes have room for the pods of so many tenants."""
    nodes = math.ceil(tenants * PODS_EACH / PODS_A_NODE)
    return Layout(servers=1, workers=BASE_WORKERS, gpus=0, agents=nodes)


class Load:
    """One run of the load."""

    def __init__(self, rig: Rig, crew: Crew, tenants: int) -> None:
        self.rig, self.crew, self.tenants = rig, crew, tenants
        self.asks: list[Ask] = plan_asks(tenants, WITHIN_S, random.Random(SEED))  # noqa: S311 - the same load each time
        key_id, key = rotate(BlockSecrets(), f"webhook-{CALLER}")
        self.portal = Portal(crew.base, key_id, key.get_secret_value(), rig.folder / "answers.txt")

    async def carry_out(self) -> dict[str, Any]:
        """Ask, kill, wait for the end; return what the receiver shows of each tenant."""
        await asyncio.gather(self.portal.ask_all(self.asks), self._kill_receiver(), self._kill_worker(), self._watch())
        return await self.portal.views(sorted({ask.tenant for ask in self.asks}))

    async def _kill_receiver(self) -> None:
        started = time.monotonic()
        for share in RECEIVER_KILLS:
            await asyncio.sleep(max(0.0, started + share * WITHIN_S - time.monotonic()))
            await asyncio.to_thread(self.crew.kill, "receiver")
            tell(f"receiver killed and started again with {len(self.crew.rows())} requests kept")

    async def _kill_worker(self) -> None:
        """Kill the worker when enough is done and runs are at work."""
        for share in WORKER_KILLS:
            while True:
                rows = self.crew.rows()
                if len(_ended(rows)) >= self.tenants:
                    return tell("too late to kill the worker: all is done")
                at_work = [row for row in rows if row.run_state == "RUNNING"]
                if len(_ended(rows)) >= share * self.tenants and at_work:
                    break
                await asyncio.sleep(0.3)
            await asyncio.to_thread(self.crew.kill, "worker")
            tell(f"worker killed and started again with {len(_ended(rows))} tenants done, {len(at_work)} at work")

    async def _watch(self) -> None:
        """Wait until every accepted request has ended, and all tenants have been asked for."""
        limit = time.monotonic() + 600 + 12 * self.tenants
        told = 0.0
        while True:
            rows = self.crew.rows()
            if len(rows) >= self.tenants and len(_ended(rows)) == len(rows):
                return
            if time.monotonic() - told > TELL_EVERY_S:
                told = time.monotonic()
                running = sum(row.run_state == "RUNNING" for row in rows)
                tell(f"asked for {len(rows)}, at work {running}, done {len(_ended(rows))}")
            if time.monotonic() > limit:
                raise TimeoutError(f"not ended: {[row for row in rows if row.state != 'ended'][:5]}")
            await asyncio.sleep(LOOK_EVERY_S)


def _ended(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.state == "ended"]


def seconds_of(asks: list[Ask], rows: list[Row]) -> list[float]:
    """Return how long each tenant took from its first request to its end, sorted."""
    first: dict[str, float] = {}
    for ask in asks:
        first[ask.tenant] = min(ask.first_sent, first.get(ask.tenant, ask.first_sent))
    return sorted(row.ended_at - first[row.tenant] for row in rows if row.ended_at is not None and row.tenant in first)


def summary(asks: list[Ask], rows: list[Row], findings: Findings) -> dict[str, Any]:
    """Return the figures of the last line."""
    asked = {ask.tenant for ask in asks if not ask.forged}
    times = seconds_of(asks, rows)
    cut = statistics.quantiles(times, n=20) if len(times) > 1 else [*times * 19]
    return {
        "asked": len(asked),
        "ready": len(asked) - len({line.split(":")[0] for line in findings.lost}),
        "lost": len({line.split(":")[0] for line in findings.lost}),
        "doubled": len({line.split(":")[0] for line in findings.doubled}),
        "leaked": len(findings.leaked),
        "p50_s": round(cut[9]) if cut else 0,
        "p95_s": round(cut[18]) if cut else 0,
    }


def main() -> None:
    """Run the load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--limit", type=int, default=8, help="runs at once in the worker")
    parser.add_argument("--sqlite", action="store_true", help="Prefect on SQLite although PostgreSQL is here")
    options = parser.parse_args()
    folder = ROOT / "build" / "load"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    with ExitStack() as stack:
        database = None if options.sqlite else stack.enter_context(prefects_database())
        tell(f"deploying a lab for {options.tenants} tenants; Prefect is on {'PostgreSQL' if database else 'SQLite'}")
        rig = stack.enter_context(deployed(folder, layout_for(options.tenants), POLL_S))
        stack.enter_context(temporary_settings({PREFECT_API_URL: rig.server.url}))
        os.environ.update(rig.environment)
        crew = Crew(rig, options.tenants, options.limit)
        os.environ["STACKWRIGHT_WEBHOOKS"] = str(crew.settings)
        try:
            load = Load(rig, crew, options.tenants)
            for who in ("receiver", "worker"):
                crew.start(who)
            tell(f"asking, {time.monotonic() - started:.0f} s after the start")
            views = asyncio.run(load.carry_out())
            tell("all have ended; looking at everything")
            if database is not None:
                database.dump(folder / "prefect" / "database.sql")
            findings = asyncio.run(check_all(rig, crew, load.asks, views, load.portal.key, load.portal.answers))
            rows = crew.rows()
        finally:
            codes = crew.stop()
    if codes not in ({"receiver": 0, "worker": 0}, {"receiver": -signal.SIGTERM, "worker": 0}):  # uvicorn passes it on
        findings.wrong.append(f"SIGTERM at the end: exit codes {codes}")
    for line in (*findings.lost, *findings.doubled, *findings.leaked, *findings.wrong):
        print(f"WRONG {line}")
    figures = summary(load.asks, rows, findings)
    attempts = max((row.attempt for row in rows), default=0)
    more = {"kills": crew.kills, "attempts": attempts, "seconds": round(time.monotonic() - started)}
    more |= {"cpu_s": {who: round(used, 1) for who, used in crew.cpu_s.items()}, "wrong": asdict(findings)}
    (folder / "result.json").write_text(json.dumps({**figures, **more}, indent=1) + "\n")
    print("TENANTS " + " ".join(f"{name}={value}" for name, value in figures.items()))
    good = figures["ready"] == figures["asked"] == options.tenants and not any(asdict(findings).values())
    sys.exit(0 if good and all(count == 2 for count in crew.kills.values()) else 1)


if __name__ == "__main__":
    main()
