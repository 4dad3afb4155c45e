"""Drills on the rung: every spoilt bundle is called by its reason, and no good one is called spoilt.

`python -m tests.drill.run [--bundles N] [--restored K]` makes N good bundles of a running cluster with real etcd. All
are judged as far as that needs no host, K of them by whole drills, and so are those spoilt ones that only a restore can
tell. Prints a line for each, and last `DRILL named=9/9 false_alarms=0/N restored=K rto_s=S`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from stackwright.clients.site import Site
from stackwright.domain.bundle import BundleError
from stackwright.domain.drill import Judgement
from tasks.bundles import backup_identity, open_bundle, stores
from tasks.drill import check_opened, drill
from tests.drill import spoil
from tests.drill.ground import SERVER, STORE, Ground, lay_ground
from tests.drill.spoil import Parts
from tests.rung import engine, image
from tests.rung.hosts import Hosts
from tests.rung.sites import NEXT, spec_of
from tests.store_server import running_store

Case = Callable[[Ground, Parts, str], Site]


def made_so(change: Callable[[Parts], Parts]) -> Case:
    """Return a case of a bundle that was made with a mistake."""
    return lambda ground, parts, folder: ground.spoilt(parts, folder, change)


def struck_by(strike: Callable[..., None]) -> Case:
    """Return a case of a bundle whose stored objects were struck later."""

    def case(ground: Ground, parts: Parts, folder: str) -> Site:
        site = ground.spoilt(parts, folder, lambda same: same)
        strike(stores(site)[0], parts)
        return site

    return case


def unreachable(ground: Ground, parts: Parts, folder: str) -> Site:
    """Return a site whose store does not answer: nobody listens at its port."""
    return ground.with_backup(endpoint=f"https://{STORE}:9", folder=folder)


CASES: dict[str, tuple[str, Case]] = {
    "truncated snapshot": ("truncated-snapshot", struck_by(spoil.cut_snapshot)),
    "flipped byte": ("flipped-byte", struck_by(spoil.flip_snapshot)),
    "missing token": ("missing-token", made_so(spoil.without_token)),
    "wrong token": ("wrong-token", made_so(spoil.with_other_token)),
    "wrong RKE2 version": ("wrong-version", made_so(spoil.of_release(NEXT))),
    "missing encryption key": ("missing-encryption-key", made_so(spoil.without_encryption_key)),
    "stale bundle": ("stale-bundle", made_so(spoil.older(30.0))),
    "wrong cluster": ("wrong-cluster", made_so(spoil.of_another_cluster)),
    "store unreachable": ("store-unreachable", unreachable),
}


def tell(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def alarm_of(site: Site, bundle: str) -> str:
    """Return what is said against a bundle without a host; empty when nothing is."""
    try:
        check_opened(site, open_bundle(stores(site)[0], site.spec.site, bundle, backup_identity(site)))
    except BundleError as error:
        return f"{error.reason}: {error}"
    return ""


def show(name: str, judged: Judgement) -> None:
    """Print how a drill ended."""
    end = "proven" if judged.passed else judged.reason
    tell(f"{name}: {end}, score {judged.score}, restored in {judged.rto_s:.1f} s, {judged.objects} objects")


def good_ones(ground: Ground, count: int, whole: int) -> tuple[int, list[float], Parts]:
    """Make and judge good bundles; return the number of false alarms, the times of restores, and the last bundle."""
    false, times, parts = 0, [], None
    for number in range(1, count + 1):
        ground.change()
        bundle = ground.bundle()
        alarm = alarm_of(ground.site, bundle)
        if number > count - whole and not alarm:
            judged = drill(ground.site)
            show(f"good {number}", judged)
            alarm = "" if judged.passed and judged.bundle == bundle else f"{judged.reason}: {judged.faults}"
            times.append(judged.rto_s)
        tell(f"good {number}: {alarm or 'no alarm'}")
        false += bool(alarm)
        parts = ground.parts(bundle)
    assert parts is not None, "one bundle at the least"
    return false, times, parts


def spoilt_ones(ground: Ground, parts: Parts) -> int:
    """Drill each spoilt bundle; return how many were called by their reason."""
    named = 0
    for name, (reason, case) in CASES.items():
        site = case(ground, parts, f"case-{reason}")
        judged = drill(site)
        show(name, judged)
        named += judged.reason == reason
        if judged.reason != reason:
            tell(f"{name}: NOT NAMED {reason}: {judged.faults}")
    return named


def prove(bundles: int, whole: int) -> bool:
    """Lay the ground, drill, print the result; tell whether all is as it should be."""
    with (
        engine.running(),
        tempfile.TemporaryDirectory(prefix="drill-") as name,
        running_store(Path(name) / "store", STORE) as store,
    ):
        hosts = Hosts(image.ensure_image(), Path(name) / "rung")
        try:
            ground = lay_ground(hosts, store, Path(name) / "work")
            spec_of(hosts, {SERVER: ["server"]}, NEXT)  # its artifacts too: then only the restored Node tells
            false, times, parts = good_ones(ground, bundles, whole)
            named = spoilt_ones(ground, parts)
        finally:
            hosts.stop()
    slowest = max(times, default=0.0)
    tell(f"DRILL named={named}/{len(CASES)} false_alarms={false}/{bundles} restored={len(times)} rto_s={slowest:.1f}")
    return named == len(CASES) and not false


def main(words: list[str] | None = None) -> int:
    """Run the proof."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill.run", description=__doc__)
    parser.add_argument("--bundles", type=int, default=20, help="good bundles to make and judge")
    parser.add_argument("--restored", type=int, default=3, help="how many of them are restored too")
    given = parser.parse_args(words)
    logging.disable(logging.WARNING)
    try:
        return 0 if prove(given.bundles, given.restored) else 1
    except engine.CannotRunError as error:
        tell(f"DRILL cannot run: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
