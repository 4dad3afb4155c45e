"""Each fault that the lab can inject: what the failed run says, that nothing later ran, and that a second start
completes.

One small cluster serves all; each test asks it for something more (a node, a package, a layer, a tenant) and breaks
that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stackwright.lab.rig import Rig
from stackwright.lab.server import PrefectServer
from tests.flows.ground import JOIN_LIMIT_S, Ended, Ground, told

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def slow(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Ended]]:
    """A fresh cluster whose first deploy met a worker that joins too slowly, with how that deploy ended."""
    rig = Rig(tmp_path_factory.mktemp("rig"), prefect_server, speed=60)
    ground = Ground(rig)
    try:
        rig.set_up()
        rig.start_lab()
        ground.begin()
        ground.enable("metallb")
        ground.lab.fault(kind="slow-join", match={"target": "^wrk2$"}, seconds=JOIN_LIMIT_S + 2)
        yield ground, ground.deploy()
    finally:
        ground.close()


@pytest.fixture(scope="module")
def ground(slow: tuple[Ground, Ended]) -> Ground:
    """The cluster, completed by a second start."""
    slow[0].mend()
    return slow[0]


def test_slow_join(slow: tuple[Ground, Ended]) -> None:
    """A worker that does not join in time stops the layers, not the other workers; started again, it is waited for."""
    ground, ended = slow
    told(
        ended.error,
        what=f"not seen within {JOIN_LIMIT_S} s",
        where="^wrk2$",
        wanted="the node Ready",
        seen="node: not in the cluster",
        remedy="start the flow again",
    )
    assert ended.sent("ssh", "wrk3", "rke2/wrk3/start")
    assert not ended.sent("kube", action="metallb")
    again = ground.mend()
    assert not again.sent("ssh", action="rke2/.*/start"), "who waits again must not start the unit again"
    assert again.sent("kube", "metallb")
    ground.nothing_left()
