"""What a run of the backup has shown: evidence, and the table that a person reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

from stackwright.domain.backup import AREA, GUIDE
from stackwright.domain.bundle import Manifest, Proof
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.retention import Pruning
from stackwright.domain.spec import Backup

TREND = 7  # earlier bundles that the newest is compared with
SHRUNK, GROWN = 0.5, 2.0
HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass(frozen=True)
class BackupView:
    """The stores at a run's end. `bundles` are the first store's whole ones, newest first; `broken` maps others to why.

    `second` and `removed` map a store's place to what was seen and done there; `second_problem` is what failed.
    """

    at_s: float
    bundles: tuple[Manifest, ...]
    broken: Mapping[str, str] = field(default_factory=dict)
    made: Manifest | None = None
    has_second: bool = False
    second: tuple[str, ...] = ()
    second_problem: str = ""
    proven: tuple[Manifest, Proof] | None = None
    removed: Mapping[str, Pruning] = field(default_factory=dict)


def judge_backup(backup: Backup, view: BackupView) -> list[Evidence]:
    """Return the state of a site's backup as evidence."""
    judge = _Judge(backup, view)
    return [
        judge.age(), judge.verified(), judge.size(), judge.keys(), judge.second(), judge.proven(), judge.retention(),
        *judge.broken(),
    ]  # fmt: skip


class _Judge:
    def __init__(self, backup: Backup, view: BackupView) -> None:
        self._want, self._view = backup, view
        self._newest = view.bundles[0] if view.bundles else None
        self._at = datetime.fromtimestamp(view.at_s, UTC).isoformat(timespec="seconds")

    def _line(
        self, name: str, title: str, verdict: Verdict, wanted: str, seen: str, remedy: str = "", *, must: bool = True
    ) -> Evidence:
        remedy = "" if verdict == "pass" else remedy
        return Evidence(f"{AREA}/{name}", title, verdict, wanted, seen, GUIDE, self._at, must=must, remedy=remedy)

    def age(self) -> Evidence:
        wanted, remedy = f"{self._want.stale_after_h} h or less", "Read why the last runs made none; run it again."
        if self._newest is None:
            return self._line("age", "The newest bundle's age", "fail", wanted, "no bundle", remedy)
        hours = (self._view.at_s - self._newest.created_s) / HOUR_S
        verdict: Verdict = "pass" if hours <= self._want.stale_after_h else "fail"
        return self._line(
            "age", "The newest bundle's age", verdict, wanted, f"{hours:.1f} h: {self._newest.id}", remedy
        )

    def verified(self) -> Evidence:
        made, title = self._view.made, "The bundle of this run was read back and opened"
        wanted = "lengths and sums, the known ConfigMap, keys counted"
        if made is None:
            return self._line("verified", title, "skipped", wanted, "this run made none: the newest is fresh enough")
        seen = (
            f"{made.id}: {made.snapshot.keys} live keys at revision {made.snapshot.revision}, from {made.snapshot.node}"
        )
        return self._line("verified", title, "pass", wanted, seen)

    def size(self) -> Evidence:
        earlier = [one.bytes for one in self._view.bundles[1 : TREND + 1]]
        return self._trend(
            "size", "The newest bundle's size", [self._newest.bytes] if self._newest else [], earlier, 1e6
        )

    def keys(self) -> Evidence:
        earlier = [one.snapshot.keys for one in self._view.bundles[1 : TREND + 1]]
        newest = [self._newest.snapshot.keys] if self._newest else []
        return self._trend("keys", "Live keys in the newest bundle", newest, earlier, 1)

    def _trend(self, name: str, title: str, newest: list[int], earlier: list[int], unit: float) -> Evidence:
        """Compare with the median of the earlier ones: half of it, or twice, is worth a look; no backup has failed."""
        wanted = f"between {SHRUNK:g} and {GROWN:g} times the median of the last {TREND}"
        remedy = "Look what was deleted from the cluster, or what writes so much into it, before older bundles go."
        if not newest:
            return self._line(name, title, "unknown", wanted, "no bundle", remedy, must=False)
        told = f"{newest[0] / unit:.1f} MB" if unit > 1 else str(newest[0])
        usual = median(earlier) if earlier else 0
        if not usual:
            return self._line(name, title, "pass", wanted, f"{told}; nothing earlier to compare with", must=False)
        ratio = newest[0] / usual
        verdict: Verdict = "pass" if SHRUNK <= ratio <= GROWN else "fail"
        return self._line(name, title, verdict, wanted, f"{told}, {ratio:.2f} times the median", remedy, must=False)

    def second(self) -> Evidence:
        view, title, wanted = self._view, "Every bundle that stays is in the second store too", "equal sums there"
        if not view.has_second:
            why = "the site file names no second store"
            return self._line("second", title, "skipped", wanted, why, "Add backup.second.", must=False)
        missing = [one.id for one in view.bundles if one.id not in view.second]
        remedy = "Mend what is said; the next run copies what is missing."
        if view.second_problem:
            return self._line("second", title, "fail", wanted, view.second_problem, remedy)
        if missing:
            return self._line("second", title, "fail", wanted, f"missing: {', '.join(missing[:5])}", remedy)
        return self._line("second", title, "pass", wanted, f"{len(view.second)} bundle(s)")

    def proven(self) -> Evidence:
        title = "A bundle was restored and compared lately"
        drill, found = self._want.drill, self._view.proven
        wanted = f"a proof of {drill.proven_days} days or less" if drill else "a drill"
        remedy = "Run drill-restore; a backup that was never restored is a hope."
        seen = "no bundle is proven"
        if found is not None:
            manifest, proof = found
            days = (self._view.at_s - datetime.fromisoformat(proof.at).timestamp()) / DAY_S
            seen = f"{manifest.id}, {days:.1f} days ago, in {proof.rto_s:.0f} s"
            if drill is None or days <= drill.proven_days:
                return self._line("proven", title, "pass", wanted, seen, must=False)
        return self._line("proven", title, "fail", wanted, seen, remedy, must=False)

    def retention(self) -> Evidence:
        done = [
            f"{where}: removed {', '.join(one.remove) or 'none'}; unfinished swept: {', '.join(one.sweep) or 'none'}"
            for where, one in self._view.removed.items()
        ]
        want = self._want.retention
        wanted = f"last {want.last}, daily {want.daily}, weekly {want.weekly}, monthly {want.monthly}"
        seen = "; ".join([f"{len(self._view.bundles)} bundle(s) kept", *done])
        return self._line("retention", "What stays in the store", "pass", wanted, seen)

    def broken(self) -> list[Evidence]:
        remedy = (
            "It is kept for a look and goes with the bundles of its time; ask the store's operator what changed it."
        )
        return [
            self._line(f"broken/{name}", "A bundle that cannot be relied on", "fail", "whole", why, remedy, must=False)
            for name, why in self._view.broken.items()
        ]


def backup_rows(view: BackupView) -> list[list[str]]:
    """Return the table of a site's bundles, newest first, as a person reads it."""
    proven = view.proven[0].id if view.proven else ""
    rows = [
        [
            one.id, "newest proven" if one.id == proven else "", f"{(view.at_s - one.created_s) / HOUR_S:.1f}",
            f"{one.bytes / 1e6:.1f}", str(one.snapshot.keys),
            "yes" if one.id in view.second else "no" if view.has_second else "-",
            one.rke2_version, one.snapshot.node, str(one.snapshot.revision),
        ]
        for one in view.bundles
    ]  # fmt: skip
    return [*rows, *([name, f"BROKEN: {why}", *[""] * 7] for name, why in view.broken.items())]


COLUMNS = ("bundle", "proof", "age (h)", "MB", "keys", "second store", "RKE2", "from", "revision")
"""What matters most comes first: the UI cuts a wide table."""
