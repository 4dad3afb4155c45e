"""The critical path that the upgrade's benchmark computes: tables, no lab."""

from __future__ import annotations

import math

from benchmarks.upgrade import critical_path

SERVERS = ("srv1", "srv2")


def group(target, started_s, seconds):
    return {"area": "upgrade", "target": target, "steps": 1, "started_s": started_s, "seconds": seconds, "ok": True}


def groups(agent_waves):
    """Two servers and agents: staged together, then the servers, then the given waves of (start, seconds) each."""
    found = [group("srv1", 0, 2), group("srv2", 0, 5), group("cluster", 5, 1), group("srv1", 6, 10)]
    found.append(group("srv2", 16, 11))
    names = iter(f"agt{n}" for n in range(1, 99))
    for wave in agent_waves:
        for start, seconds in wave:
            name = next(names)
            found += [group(name, 0, 3), group(name, start, seconds)]
    return found


def test_waves_count_by_their_slowest_node():
    """Staging by the slowest, servers by their sum, each batch by its slowest."""
    path = critical_path(groups([[(27, 4), (27, 6)], [(33, 5), (33.1, 2)]]), SERVERS, batch=2)
    assert (path.stage_s, path.snapshot_s, path.servers_s, path.agents_s, path.waves) == (5, 1, 21, 11, 2)
    assert math.isclose(path.seconds, 38)


def test_a_batch_too_many_is_not_excused():
    """Four agents in batches of four need one wave: that they went in two does not make the path longer."""
    path = critical_path(groups([[(27, 4), (27, 6)], [(33, 5), (33.1, 2)]]), SERVERS, batch=4)
    assert (path.agents_s, path.waves) == (6, 2)
