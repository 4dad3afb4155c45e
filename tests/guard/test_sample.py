"""A sample of the guard test: a server dies while another is about to be restarted. `make guard-test` has all."""

from __future__ import annotations

import pytest

from stackwright.lab.layout import Layout
from tests.guard.strikes import RELEASES, Field, Strike
from tests.kill.points import Point
from tests.kill.run import lane

SMALL = Layout(workers=0, gpus=0, agents=3, releases=RELEASES[:2], bare=True)
pytestmark = [pytest.mark.lab, pytest.mark.slow]  # minutes: `make test-long`


def test_a_server_that_dies_beside_an_upgrade_costs_no_quorum(tmp_path) -> None:
    """The run stops with a clear error before it takes a second member down; a second start completes."""
    strike = Strike("node-dead", Point("ssh", "srv1", "upgrade/srv1/install", "after"), "srv2")
    with lane(tmp_path) as one:
        assert Field(one, SMALL).strike(strike) == []
        healthy = [change.healthy for change in one.lab.members()]
    down = next(index for index, names in enumerate(healthy) if names == {"srv1", "srv3"})
    assert {"srv3"} not in healthy[down:], "srv1 was not taken down while srv2 was dead"
