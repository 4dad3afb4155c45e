"""Deploy on the lab through the team size while its processes are killed in turn, and count what survived.

`python -m tests.team.run [--kills N]`: rounds of a deploy on a new lab, and of a second one that has nothing to
change, both started on a work pool; nobody helps them. A round's kills survived when both runs completed, the lab ended
as after an undisturbed run, nothing was done twice and the second run changed nothing. Prints what is wrong, and last
`TEAM survived=K injected=K doubled=0`. Exit code 1 unless all is well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT, Rig
from tests.flows.server import on_server
from tests.kill.compare import differences, plain
from tests.team.doubled import counted, doubled
from tests.team.member import ancestors, process_of
from tests.team.services import Team, missing_programs

SMALL = Layout(workers=0, gpus=0, agents=3, bare=True)
SPEED = 30.0
RUN_LIMIT_S = 900.0
SETTLE_LIMIT_S = 40.0
PER_ROUND = 3
FINAL = ("COMPLETED", "FAILED", "CANCELLED")
LEFT_S = 60.0
"""A crashed run that nobody has started again for so long stays crashed."""
SHARES = (0.2, 0.6)  # of the undisturbed run's changes, when the deploy is struck


@dataclass(frozen=True)
class Strike:
    """What is killed, and how. `run` is the flow's own process, `worker` the one that has the run."""

    who: str
    signal: signal.Signals

    def __str__(self) -> str:
        return f"{self.who} {self.signal.name}"


STRIKES = (
    Strike("worker", signal.SIGTERM),
    Strike("api", signal.SIGKILL),
    Strike("redis", signal.SIGKILL),
    Strike("worker", signal.SIGKILL),
    Strike("postgres", signal.SIGINT),  # a fast shutdown: what a restart sends
    Strike("run", signal.SIGKILL),
    Strike("services", signal.SIGKILL),
    Strike("api", signal.SIGTERM),
    Strike("redis", signal.SIGTERM),
    Strike("postgres", signal.SIGQUIT),  # at once, with recovery at the start
)


@dataclass
class Ended:
    """How one run of the deployment ended: what it changed, what struck, and when its process was lost."""

    run: FlowRun
    changes: list[dict[str, Any]]
    struck: list[Strike] = field(default_factory=list)
    lost_at: list[float] = field(default_factory=list)

    @property
    def said(self) -> str:
        state = self.run.state
        return f"{state.name}: {state.message}" if state else "no state"


def has_ended(run: FlowRun) -> bool:
    """Tell whether a run stands still for good."""
    if run.state is None or not run.state.is_crashed():
        return run.state_type in FINAL
    return time.time() - run.state.timestamp.timestamp() > LEFT_S


def tell(line: str) -> None:
    """Print a line at once."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


class Chaos:
    """A rig on the team, and the strikes in their order."""

    def __init__(self, rig: Rig, team: Team) -> None:
        self.rig, self.team = rig, team
        self._api: Iterator[str] = cycle(("api-1", "api-2"))

    def fresh(self) -> None:
        """Start a new lab with the blocks of a new site."""
        self.rig.start_lab(fresh=True, layout=SMALL)

    def deploy(self, strikes: list[Strike], marks: list[int]) -> Ended:
        """Ask for a deploy and strike when so many changes have been made; wait for its end by itself."""
        before = len(self.rig.lab.journal())
        made = on_server(self._ask)
        struck: list[Strike] = []
        lost: list[float] = []
        for strike, mark in zip(strikes, marks, strict=True):
            if not self._wait_for_mark(made.id, before + mark):
                tell(f"  too early an end for {strike}")
                break
            struck.append(strike)
            if self._strike(strike, made.id):
                lost.append(time.time())
            threading.Event().wait(1)
        run = self._wait_for_end(made.id)
        self.team.wait_whole()
        return Ended(run, self.rig.lab.journal(before), struck, lost)

    async def _ask(self, client: PrefectClient) -> FlowRun:
        deployment = await client.read_deployment_by_name("deploy-stack/deploy-stack")
        return await client.create_flow_run_from_deployment(
            deployment.id, parameters={"site": "lab", "unattended": True}
        )

    def _wait_for_mark(self, run: UUID, count: int) -> bool:
        """Wait until the run is at work and the journal so long; False when it ended first."""
        deadline = time.monotonic() + RUN_LIMIT_S
        while time.monotonic() < deadline:
            self.team.revive()
            found = self._read(run)
            if found.state_type == "RUNNING" and process_of(str(run)) and len(self.rig.lab.journal()) >= count:
                return True
            if has_ended(found):
                return False
            threading.Event().wait(0.3)
        raise AssertionError(f"the run does not get as far as {count} changes")

    def _wait_for_end(self, run: UUID) -> FlowRun:
        deadline = time.monotonic() + RUN_LIMIT_S
        while time.monotonic() < deadline:
            self.team.revive()
            found = self._read(run)
            if has_ended(found) and process_of(str(run)) is None:
                return found
            threading.Event().wait(1)
        return self._read(run)

    @staticmethod
    def _read(run: UUID) -> FlowRun:
        return on_server(lambda client: client.read_flow_run(run))

    def _strike(self, strike: Strike, run: UUID) -> bool:
        """Carry a strike out; tell whether it takes the run's process with it."""
        pid = process_of(str(run))
        tell(f"  {strike} after {len(self.rig.lab.journal())} changes")
        match strike.who:
            case "api":
                self.team.strike(next(self._api), strike.signal)
            case "worker":
                above = ancestors(pid) if pid else []
                found = [name for name in self.team.workers if self.team.members[name].pid in above]
                self.team.strike(found[0] if found else self.team.workers[0], strike.signal)
            case "run":
                if pid is not None:
                    # Prefect's own process above it, too, would only say that this one has ended.
                    os.kill(pid, strike.signal)
            case name:
                self.team.strike(name, strike.signal)
        return strike.who == "run" or (strike.who == "worker" and strike.signal == signal.SIGTERM)

    def end_state(self, want: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
        """Return the lab's state once it is as wanted, or has come to rest, and how it differs from what is wanted."""
        deadline = time.monotonic() + SETTLE_LIMIT_S
        before: dict[str, Any] = {}
        while True:
            now = plain(self.rig.lab.snapshot())
            found = differences(want, now) if want is not None else []
            if (want is None and now == before) or (want is not None and not found) or time.monotonic() > deadline:
                return now, found
            before = now
            threading.Event().wait(1)


@dataclass
class Tally:
    """What became of the strikes."""

    injected: int = 0
    survived: int = 0
    doubled: int = 0
    rounds: list[dict[str, Any]] = field(default_factory=list)


def carry_out_round(chaos: Chaos, strikes: list[Strike], want: Undisturbed, tally: Tally) -> list[Strike]:
    """One new lab: a deploy under all strikes but the last, and a second one under that; both are judged.

    Return those for which the runs were over too early.
    """
    chaos.fresh()
    *first, last = strikes
    count = len(want.changes)
    deploy = chaos.deploy(first, [int(share * count) for share in SHARES[: len(first)]])
    _, differ = chaos.end_state(want.end)
    again = chaos.deploy([last], [0])
    twice = doubled(counted(want.changes), deploy.changes, deploy.lost_at)
    second = [" ".join(key) for key in counted(again.changes)]
    wrong = [f"the {name} run ended as {one.said}" for name, one in (("first", deploy), ("second", again))
             if one.run.state_type != "COMPLETED"]  # fmt: skip
    wrong += [f"the lab ended otherwise: {line[:400]}" for line in differ[:5]]
    wrong += [f"the second run changed {line}" for line in second[:5]]
    wrong += [f"done twice: {line}" for line in twice[:10]]
    for line in wrong:
        tell(f"WRONG {line}")
    struck = [*deploy.struck, *again.struck]
    tally.injected += len(struck)
    tally.survived += 0 if wrong else len(struck)
    tally.doubled += len(twice)
    starts = [deploy.run.run_count, again.run.run_count]
    tally.rounds.append({"strikes": [str(one) for one in struck], "starts": starts, "wrong": wrong})
    tell(f"round ended: {', '.join(map(str, struck))}; starts of the runs {starts}; {'lost' if wrong else 'survived'}")
    return [*first[len(deploy.struck) :], *([] if again.struck else [last])]


@dataclass
class Undisturbed:
    """What a deploy does that nobody disturbs: its changes, and where the lab ends."""

    changes: list[dict[str, Any]]
    end: dict[str, Any] = field(repr=False)


def undisturbed(chaos: Chaos) -> Undisturbed:
    """Deploy in peace, through the same workers."""
    chaos.fresh()
    ended = chaos.deploy([], [])
    assert ended.run.state_type == "COMPLETED", ended.said
    return Undisturbed(ended.changes, chaos.end_state()[0])


def deal(kills: int, first: int = 0) -> list[Strike]:
    """Return so many strikes, in turn."""
    return list(islice(cycle(STRIKES), first, first + kills))


def run_team(folder: Path, strikes: list[Strike]) -> Tally:
    """Start everything, deploy in peace once, then carry out rounds until all strikes were made."""
    team, tally = Team(folder), Tally()
    try:
        tell("starting PostgreSQL, Redis, two API replicas, services, the balancer")
        team.start_servers()
        rig = Rig(folder, team, SPEED)  # type: ignore[arg-type]
        settings = {PREFECT_API_URL: team.url, PREFECT_API_AUTH_STRING: team.password}
        with temporary_settings(settings):  # type: ignore[arg-type]
            try:
                rig.set_up()
                team.start_workers(rig.environment)
                chaos = Chaos(rig, team)
                want = undisturbed(chaos)
                tell(f"undisturbed: {len(want.changes)} changes")
                todo = list(strikes)
                while todo and len(tally.rounds) < len(strikes):
                    missed = carry_out_round(chaos, todo[:PER_ROUND], want, tally)
                    todo = [*missed, *todo[PER_ROUND:]]
            finally:
                rig.close()
    finally:
        team.stop()
    return tally


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="which strike of the row is the first")
    options = parser.parse_args()
    if missing := missing_programs():
        print(f"TEAM cannot run: not installed: {', '.join(missing)} (apt-get install)")
        sys.exit(1)
    folder = ROOT / "build" / "team"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    tally = run_team(folder, deal(options.kills, options.first))
    seconds = round(time.monotonic() - started)
    (folder / "result.json").write_text(json.dumps({**vars(tally), "seconds": seconds}, indent=1) + "\n")
    print(f"TEAM survived={tally.survived} injected={tally.injected} doubled={tally.doubled}")
    sys.exit(0 if tally.survived == tally.injected == options.kills and not tally.doubled else 1)


if __name__ == "__main__":
    main()
