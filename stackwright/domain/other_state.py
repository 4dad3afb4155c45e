"""What etcd's snapshots do not hold: Rancher's objects, volumes, security policies, blocks, Prefect's own database.

For each: how it is saved, how often, and how old the newest copy is. What nobody saves is said, not left out. None of
these copies contains another. Guide: 5.3, 5.4, 5.5, 5.7. Upstream: rancher-backup, Longhorn backups, NeuVector export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from stackwright.domain.evidence import Evidence, Verdict
from stackwright.domain.layers import clearml, rancher_backup, storage
from stackwright.domain.spec import StackSpec

Obj = Mapping[str, Any]
Export = Literal["blocks", "security", "prefect"]
DAY_S = 86400.0
LATE_S = 1.25 * DAY_S
"""A nightly copy is late when the newest one is older: a night was missed."""
KEPT = 14
"""So many exports of each kind stay in the store."""

NOT_SAVED: tuple[tuple[str, str, str], ...] = (
    ("registry", "SUSE Private Registry's database has no dump of its own",
     "its volumes' backups hold it as a crash would; artifacts can be pushed again from the mirror"),
    ("observability", "SUSE Observability's settings and history have no backup of their own",
     "use the chart's backup jobs where history matters"),
    ("suse_ai", "Milvus and Open WebUI are not quiesced before their volumes' backups",
     "their volumes' backups hold them as a crash would"),
    ("clearml", "ClearML's databases are not dumped: their volumes' backups hold them as a crash would",
     "stop the ClearML servers for a backup that must be consistent between MongoDB and Elasticsearch"),
)  # fmt: skip
"""By layer: what is left to the operator, and what there is instead."""


@dataclass(frozen=True)
class StateFacts:
    """What was seen. Objects are None where the cluster does not know their kind or lacks them.

    `exports` maps each export to the time of its newest copy in the store (seconds since the epoch); `local_prefect`
    is False where Prefect's database is not on this machine.
    """

    rancher: Obj | None = None
    target: Obj | None = None
    jobs: Mapping[str, Obj] = field(default_factory=dict)
    volumes: Sequence[Obj] = ()
    snapshots: Sequence[Obj] = ()
    systems: Sequence[Obj] = ()
    exports: Mapping[str, float] = field(default_factory=dict)
    local_prefect: bool = True


def ours(spec: StackSpec) -> tuple[Export, ...]:
    """Return what Stackwright exports itself; nothing without a store."""
    if spec.backup is None:
        return ()
    return ("blocks", "security", "prefect") if spec.layers.security.enabled else ("blocks", "prefect")


def judge_state(spec: StackSpec, facts: StateFacts, now_s: float, at: str) -> list[Evidence]:
    """Return one check for each kind of state, with the age of its newest copy, and what nobody saves."""
    judge = _Judge(spec, facts, now_s, at)
    found: list[Evidence] = []
    if spec.layers.rancher_backup.enabled:
        found.append(judge.rancher())
    if spec.layers.storage.enabled:
        found += judge.storage()
    if spec.backup is not None:
        found += judge.exports()
    return [*found, *judge.not_saved()]


class _Judge:
    """The facts and the time at hand."""

    def __init__(self, spec: StackSpec, facts: StateFacts, now_s: float, at: str) -> None:
        self.spec, self.facts, self.now_s, self.at = spec, facts, now_s, at

    def check(
        self, name: str, title: str, verdict: Verdict, wanted: str, seen: str, guide: str, *, must: bool = True,
        remedy: str = "",
    ) -> Evidence:  # fmt: skip
        return Evidence(f"backup/{name}", title, verdict, wanted, seen, guide, self.at, must=must, remedy=remedy)

    def aged(
        self, name: str, title: str, newest_s: float | None, since_s: float, guide: str, remedy: str, late_s: float
    ) -> Evidence:
        """Judge by the newest copy's age; where there is none yet, by how long one could have been made."""
        wanted = f"a copy not older than {late_s / 3600:.0f} h"
        if newest_s is not None:
            age_s = self.now_s - newest_s
            return self.check(name, title, "pass" if age_s <= late_s else "fail", wanted, f"{age_s / 3600:.1f} h old",
                              guide, remedy=remedy)  # fmt: skip
        waited_s = self.now_s - since_s
        if waited_s <= late_s:
            return self.check(name, title, "skipped", wanted, "none yet: the first is not due", guide)
        return self.check(name, title, "fail", wanted, f"none in {waited_s / 3600:.0f} h", guide, remedy=remedy)

    def rancher(self) -> Evidence:
        title, name = "Rancher's own objects", "rancher"
        obj = self.facts.rancher
        wanted = f"Backup {rancher_backup.SCHEDULED}, Ready"
        remedy = "Look at `kubectl describe backups.resources.cattle.io` and at the operator's log."
        if obj is None:
            return self.check(name, title, "fail", wanted, "no such object", "5.3", remedy="Run deploy-stack.")
        status = obj.get("status") or {}
        ready: Obj = next((one for one in status.get("conditions") or () if one.get("type") == "Ready"), {})
        if status.get("filename") and ready.get("status") != "True":
            return self.check(name, title, "fail", wanted, str(ready.get("message") or "not Ready")[:200], "5.3",
                              remedy=remedy)  # fmt: skip
        newest = _time(status.get("lastSnapshotTs")) if status.get("filename") else None
        return self.aged(name, title, newest, _made(obj), "5.3", remedy, LATE_S)

    def storage(self) -> Iterator[Evidence]:
        target_ok = ((self.facts.target or {}).get("status") or {}).get("available") is True
        if self.spec.backup is not None:
            yield self.check(
                "storage-target", "The volumes' store outside the cluster answers", "pass" if target_ok else "fail",
                "BackupTarget default: available", "available" if target_ok else "not available", "5.4",
                remedy="Look at the BackupTarget's conditions: address, key and CA come from `backup`.",
            )  # fmt: skip
        yield self._volumes("storage-snapshots", "Snapshots of all volumes", storage.SNAPSHOT_JOB, self._snapshots(),
                            LATE_S, lambda volume: True)  # fmt: skip
        if self.spec.backup is None:
            return
        backups = {str(one["metadata"]["name"]): _time((one.get("status") or {}).get("lastBackupAt"))
                   for one in self.facts.volumes}  # fmt: skip
        platform = clearml.NAMESPACE
        yield self._volumes("storage-volumes", "Backups of all volumes but ClearML's", storage.BACKUP_JOB, backups,
                            LATE_S, lambda volume: _namespace(volume) != platform)  # fmt: skip
        if self.spec.layers.clearml.enabled:
            title = "Backups of ClearML's databases and file server"
            yield self._volumes("clearml-volumes", title, storage.BACKUP_JOB, backups, LATE_S,
                                lambda volume: _namespace(volume) == platform)  # fmt: skip
        newest = max((_made(one) for one in self.facts.systems if _state(one) == "Ready"), default=None)
        job = self.facts.jobs.get(storage.SYSTEM_JOB)
        yield self.aged("storage-system", "Backup of the storage system's own objects", newest,
                        _made(job) if job else 0.0, "5.4", "Look at the SystemBackup objects.", LATE_S)  # fmt: skip

    def _snapshots(self) -> dict[str, float | None]:
        newest: dict[str, float | None] = {}
        for one in self.facts.snapshots:
            status = one.get("status") or {}
            made = _time(status.get("creationTime"))
            volume = str((one.get("spec") or {}).get("volume", ""))
            if status.get("readyToUse") and made is not None:
                newest[volume] = max(made, newest.get(volume) or 0.0)
        return newest

    def _volumes(
        self, name: str, title: str, job: str, newest: Mapping[str, float | None], late_s: float, which: Any
    ) -> Evidence:
        wanted = f"RecurringJob {job}; every volume's newest not older than {late_s / 3600:.0f} h"
        held = self.facts.jobs.get(job)
        if held is None:
            return self.check(name, title, "fail", wanted, "no such RecurringJob", "5.4", remedy="Run deploy-stack.")
        volumes = [one for one in self.facts.volumes if which(one)]
        late, due = [], 0
        for volume in volumes:
            found = newest.get(str(volume["metadata"]["name"]))
            since = max(_made(volume), _made(held))
            if found is None and self.now_s - since <= late_s:
                due += 1
            elif found is None or self.now_s - found > late_s:
                late.append(_claim(volume))
        if late:
            seen = f"{len(late)} of {len(volumes)} late or without: {', '.join(sorted(late)[:6])}"
            remedy = "Look at the volume's events: detached and faulted volumes are not saved; then at the job's pods."
            return self.check(name, title, "fail", wanted, seen, "5.4", remedy=remedy)
        if due == len(volumes):
            seen = "no volume" if not volumes else f"{due} volume(s), the first copies are not due"
            return self.check(name, title, "skipped", wanted, seen, "5.4")
        ages = [self.now_s - made for one in volumes if (made := newest.get(str(one["metadata"]["name"]))) is not None]
        seen = f"{len(volumes)} volume(s), oldest {max(ages) / 3600:.1f} h" + (f", {due} not due yet" if due else "")
        return self.check(name, title, "pass", wanted, seen, "5.4")

    def exports(self) -> Iterator[Evidence]:
        titles: dict[Export, tuple[str, str]] = {
            "blocks": ("The site's blocks (keys, passwords, tokens), sealed", "5.2"),
            "security": ("SUSE Security's configuration and policies, sealed", "5.5"),
            "prefect": ("Prefect's database, sealed", "5.2"),
        }
        for name in ours(self.spec):
            title, guide = titles[name]
            if name == "prefect" and not self.facts.local_prefect:
                seen = "the database is not on this machine: save it where it runs (pg_dump), with its encryption key"
                yield self.check(name, title, "skipped", "saved by its own operator", seen, guide, must=False)
                continue
            remedy = "Run back-up-state; its log says what went wrong."
            yield self.aged(name, title, self.facts.exports.get(name), 0.0, guide, remedy, LATE_S)

    def not_saved(self) -> Iterator[Evidence]:
        for layer, what, instead in NOT_SAVED:
            if getattr(self.spec.layers, layer).enabled:
                yield self.check(f"not-saved/{layer}", what, "skipped", "known to the operator", instead, "5.4",
                                 must=False)  # fmt: skip
        if self.spec.backup is None:
            what = "The site file has no section `backup`: nothing leaves the cluster"
            yield self.check("not-saved/outside", what, "fail", "a store outside the cluster", "none", "5.2",
                             remedy="Give the site file a section `backup`.")  # fmt: skip


def _time(text: object) -> float | None:
    return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp() if text else None


def _made(obj: Obj) -> float:
    return _time(obj["metadata"].get("creationTimestamp")) or 0.0


def _state(obj: Obj) -> str:
    return str((obj.get("status") or {}).get("state", ""))


def _namespace(volume: Obj) -> str:
    return str(((volume.get("status") or {}).get("kubernetesStatus") or {}).get("namespace", ""))


def _claim(volume: Obj) -> str:
    claim = (volume.get("status") or {}).get("kubernetesStatus") or {}
    name = claim.get("pvcName") or volume["metadata"]["name"]
    return f"{claim['namespace']}/{name}" if claim.get("namespace") else str(name)
