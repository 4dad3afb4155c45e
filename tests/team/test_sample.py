"""A sample of `make team-chaos`: one deploy through the team size with three kills."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.team.run import Strike, run_team
from tests.team.services import missing_programs

SAMPLE = [Strike("run", signal.SIGKILL), Strike("api", signal.SIGKILL), Strike("redis", signal.SIGKILL)]


@pytest.mark.slow
@pytest.mark.lab
def test_a_deploy_goes_on_by_itself_when_its_process_a_replica_and_redis_are_killed(tmp_path: Path) -> None:
    """Two runs complete, nothing is done twice, and the second one finds nothing to do."""
    if missing := missing_programs():
        pytest.skip(f"the team size: not installed: {', '.join(missing)}")
    tally = run_team(tmp_path, SAMPLE)
    assert (tally.survived, tally.injected, tally.doubled) == (3, 3, 0), tally.rounds
    assert tally.rounds[0]["starts"][0] >= 2  # the killed process's run was started again
