"""A restore that is killed with SIGKILL anywhere ends, started again, as one that nobody killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kill.restores import Restores, deeds, end_of, killed

PLACES = {
    "before the first fence is noted": "s1 mv *state/restore",
    "while another server's data is moved aside": "s2 mv -T *",
    "while the snapshot is sent": "s1 put *",
    "between snapshots moved away and cluster-reset": "s1 rm -rf *db-of-dead-reset",
    "in the reset": "s1 rke2 server --cluster-reset*",
    "between reset and its note": "s1 grep -qF *",
    "between reset and start": "s1 systemctl enable *",
    "at the start": "s1 systemctl --no-block start *",
    "before the restored cluster's old lease goes": "kube delete Lease/*",
    "between the rejoins": "s3 systemctl enable *",
    "before an agent's restart": "g1 systemctl enable *",
    "at an agent's restart": "w1 systemctl --no-block restart *",
    "while lost hosts are cleaned up": "kube delete *lost*",
    "between the blocks": "blocks write cluster-access/*",
    "at the close": "s1 mv *restore-done",
}
SAMPLE = {
    ("while another server's data is moved aside", "after"),
    ("between snapshots moved away and cluster-reset", "after"),
    ("in the reset", "alone"),
    ("between reset and start", "before"),
    ("between the rejoins", "before"),
    ("before an agent's restart", "after"),
    ("while lost hosts are cleaned up", "after"),
}
"""What every run of the tests kills; the others with `make test-long`."""
CASES = [
    pytest.param(PLACES[name], when, id=f"{when} {name}",
                 marks=[] if (name, when) in SAMPLE else [pytest.mark.slow])
    for name in PLACES for when in ("before", "after", "alone")
]  # fmt: skip


@pytest.fixture(scope="module")
def restores() -> Restores:
    return Restores()


@pytest.fixture(scope="module")
def whole(restores: Restores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict]]:
    """A folder for restores, and how one ended there that nobody killed."""
    place = tmp_path_factory.mktemp("restore") / "site"
    assert restores.run(place) == 0
    yield place, end_of(place)


def survives(restores: Restores, whole: tuple[Path, dict], at: str, when: str) -> None:
    """Kill a restore at a deed, start it again, and compare where it ends."""
    place, end = whole
    shutil.rmtree(place)
    assert killed(restores.run(place, at, when)), "nothing was killed"
    closed = (place / "s1/state/restore-done").exists()
    code = restores.run(place, number=2)
    assert code == 0 or (closed and not killed(code)), "what was closed is whole: a cluster that works is not restored"
    assert end_of(place) == end
    after = deeds(place)
    first = next(index for index, one in enumerate(after) if one.startswith("s1 systemctl --no-block start"))
    assert not [one for one in after[first:] if "--cluster-reset" in one], "what runs is not reset"
    for agent in ("w1", "g1"):
        assert any(one.startswith(f"{agent} systemctl --no-block restart") for one in after)


@pytest.mark.parametrize(("at", "when"), CASES)
def test_a_restore_killed_there_ends_as_any_other(restores, whole, at, when):
    survives(restores, whole, at, when)
