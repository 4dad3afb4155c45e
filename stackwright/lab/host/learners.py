"""Learners become voters, or are removed when they make no progress. The server whose etcd leads sees to it.

Source: k3s pkg/etcd/etcd.go, learner management.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from stackwright.lab.host import etcdpod
from stackwright.lab.host.disk import HostDisk, say
from stackwright.lab.host.etcd import Etcd, EtcdError, EtcdMember


@dataclass
class Progress:
    """How far the learner that is looked at has come, and since when it stands there."""

    member: int = 0
    applied: int = 0
    since: float = 0.0


async def manage_learners(disk: HostDisk, etcd: Etcd) -> None:
    """Look again and again, until cancelled."""
    progress = Progress()
    while True:
        await asyncio.sleep(disk.spec.wait_s(disk.spec.learner_s))
        try:
            await asyncio.to_thread(_look, disk, etcd, progress)
        except EtcdError as error:
            say("error", f"Failed to check local etcd status for learner management: {error}")


def _look(disk: HostDisk, etcd: Etcd, progress: Progress) -> None:
    status = etcd.status(3.0)
    if status.id != status.leader:
        return
    for member in etcd.members():
        if member.learner:
            _track(disk, etcd, progress, member)
            return


def _track(disk: HostDisk, etcd: Etcd, progress: Progress, member: EtcdMember) -> None:
    try:
        etcd.promote(member.id)
    except EtcdError:
        pass  # not caught up yet, or not even started
    else:
        say("info", f"Promoted learner {member.name}")
        return
    now = time.monotonic()
    if progress.member != member.id:
        progress.member, progress.applied, progress.since = member.id, 0, now
    applied = _applied(disk, member)
    if applied > progress.applied:
        progress.applied, progress.since = applied, now
    if progress.since == now:
        return
    stalled = now - progress.since
    say("warning", f"Learner {member.name} stalled at RaftAppliedIndex={progress.applied} for {stalled:.1f}s")
    if stalled > disk.spec.stalled_s:
        etcd.remove(member.id)
        say("warning", f"Removed learner {member.name} from etcd cluster")


def _applied(disk: HostDisk, member: EtcdMember) -> int:
    """Return how far a learner has come by its own word; 0 when it does not answer."""
    if not member.client_url:
        return 0
    other = etcdpod.client(disk, member.client_url)
    try:
        return other.status(2.0).applied
    except EtcdError:
        return 0
    finally:
        other.close()
