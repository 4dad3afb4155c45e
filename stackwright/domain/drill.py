"""A drill's judgement: the reason for which a bundle is not proven, its score, its proof, its evidence. Pure.

What is compared is in drill_compare.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from stackwright.domain.bundle import Manifest, Proof
from stackwright.domain.bundle_checks import Fault, in_order
from stackwright.domain.drill_compare import Part, Restored, compare
from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.spec import Backup, Drill

GUIDE = "5.3"
# What a score is made of: a bundle that opens, a cluster that comes up, what is in it, how fast, how fresh.
OPENED, RESTORED, RTO, AGE = 15, 20, 15, 10
PARTS: dict[Part, int] = {"counts": 20, "identity": 10, "content": 10}


@dataclass(frozen=True)
class Times:
    """When a drill began, when its restore began, and when verified content was there; None where it did not get there.

    Seconds since the epoch.
    """

    began_s: float
    restore_s: float | None = None
    verified_s: float | None = None

    @property
    def rto_s(self) -> float:
        """How long the restore took: from its first step until the content was verified; 0 where it was not."""
        if self.restore_s is None or self.verified_s is None:
            return 0.0
        return self.verified_s - self.restore_s


@dataclass(frozen=True)
class Subject:
    """The bundle that is drilled, as far as it was got to know. `bundle` is empty where none was found."""

    bundle: str = ""
    manifest: Manifest | None = None
    opened: bool = False
    """Its secret state was unsealed and its snapshot read to the end: all of it is in order."""


@dataclass(frozen=True)
class Judgement:
    """What a drill is worth. `parts` are the score's, by name, each with its share and how much of it was earned."""

    bundle: str
    reason: str
    rto_s: float
    rpo_s: float
    age_s: float
    objects: int
    parts: Mapping[str, tuple[int, int]]
    faults: tuple[Fault, ...] = ()
    evidence: tuple[Evidence, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        """The bundle is proven. Its restore may still have taken too long: see the evidence."""
        return not self.reason

    @property
    def score(self) -> int:
        return sum(earned for _, earned in self.parts.values())

    def proof(self, at_s: float) -> Proof:
        """Return what is kept in the store, without its tag."""
        at = iso(at_s)
        return Proof(
            self.bundle, at, self.passed, self.reason, round(self.rto_s, 1), round(self.rpo_s, 1), self.score,
            self.objects,
        )  # fmt: skip


def iso(at_s: float) -> str:
    """Return a time as it is written: ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")


def taken_s(manifest: Manifest) -> float:
    """Return when the snapshot was taken, in seconds since the epoch."""
    return datetime.fromisoformat(manifest.snapshot.taken_at).timestamp()


# --- judging ---------------------------------------------------------------------------------------------------------


def judge_drill(
    subject: Subject, backup: Backup, drill: Drill, times: Times, seen: Restored | None, faults: Iterable[Fault] = ()
) -> Judgement:
    """Return what a drill is worth.

    `faults` are what ended it before anything could be compared; `seen` is None then. The score is 0 to 100: OPENED for
    a bundle that opens, RESTORED for a cluster that answers, PARTS for what is in it, RTO and AGE for how fast and how
    fresh. Those two fall from the whole to nothing between the limit and twice the limit, and are earned by a proven
    bundle alone.
    """
    early, manifest = list(faults), subject.manifest
    found: dict[Part, list[Fault]] = compare(manifest, seen) if manifest and seen else {}
    ordered = in_order([*early, *(one for some in found.values() for one in some)])
    reason = ordered[0].reason if ordered else ("" if found else "restore-failed")
    age_s = times.began_s - manifest.created_s if manifest else 0.0
    parts: dict[str, tuple[int, int]] = {
        "opened": (OPENED, OPENED if found or subject.opened else 0),
        "restored": (RESTORED, RESTORED if found else 0),
        **{name: (whole, whole if name in found and not found[name] else 0) for name, whole in PARTS.items()},
        "rto": (RTO, 0 if reason else _share(RTO, times.rto_s, drill.rto_s)),
        "age": (AGE, 0 if reason else _share(AGE, age_s, backup.stale_after_h * 3600.0)),
    }
    rpo_s = times.began_s - taken_s(manifest) if manifest else 0.0
    objects = sum(seen.counts.values()) if seen else 0
    judged = Judgement(subject.bundle, reason, times.rto_s, rpo_s, age_s, objects, parts, tuple(ordered))
    return replace(judged, evidence=_evidence(judged, subject, drill, seen, iso(times.began_s)))


def _share(whole: int, value: float, limit: float) -> int:
    """Return the part of a score: all of it up to the limit, nothing at twice the limit."""
    over = max(0.0, value / limit - 1.0) if limit else 1.0
    return round(whole * max(0.0, 1.0 - over))


def _evidence(
    judged: Judgement, subject: Subject, drill: Drill, seen: Restored | None, at: str
) -> tuple[Evidence, ...]:
    def one(name: str, title: str, verdict: Verdict, wanted: str, value: str, remedy: str = "") -> Evidence:
        return Evidence(f"drill/{name}", title, verdict, wanted, value, GUIDE, at, judged.bundle, remedy=remedy)

    first = judged.faults[0].problem if judged.faults else None
    found = [
        one(
            "bundle", "The newest bundle is proven by restoring it", "pass" if judged.passed else "fail",
            "restored, and all that it says is in it", "proven" if judged.passed else f"{judged.reason}: {first}",
            first.remedy if first else "Look at the run's log for what ended the restore.",
        )
    ]  # fmt: skip
    manifest = subject.manifest
    if seen is None or manifest is None:
        return tuple(found)
    note = manifest.snapshot
    basis = f"as of revision {note.revision}" if seen.exact else "of what lives now, volatile kinds left out"
    wrong = [fault.problem for fault in judged.faults]
    found.append(
        one("content", "Every kind has its objects, and the known content is there", "fail" if wrong else "pass",
            f"{sum(note.counts.values())} objects of {len(note.counts)} kinds, {len(manifest.nodes)} Nodes by UID",
            f"{judged.objects} objects {basis}" + (f"; {len(wrong)} difference(s): {wrong[0]}" if wrong else ""))
    )  # fmt: skip
    in_time = judged.rto_s <= drill.rto_s
    found.append(
        one("rto", "The restore takes no longer than it may", "pass" if in_time else "fail", f"{drill.rto_s} s",
            f"{judged.rto_s:.1f} s", "Look at what takes its time, or set backup.drill.rto_s to what may be promised.")
    )  # fmt: skip
    return tuple(found)
