"""Checks of file systems and disks: room, inodes, kinds, dedicated disks, etcd's disk. Guide: 5.2, 5.4, 5.7.1."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from stackwright.domain.check import Outcome
from stackwright.domain.node_facts import FactUnknownError
from stackwright.domain.preflight.hosts import (
    CLEARML_NODES,
    agents_for_clearml,
    clearml_site,
    disk_nodes,
    storage_nodes,
)
from stackwright.domain.preflight.model import (
    Check,
    bad,
    every_node,
    every_server,
    good,
    held,
    names,
    skipped,
    unknown,
)
from stackwright.domain.preflight.script import FSYNC_WRITES, PATHS
from stackwright.domain.preflight.seen import Case, Host
from stackwright.domain.spec import StackSpec

GIB_K = 1 << 20  # kibibytes
CLEARML_DISK_GB = 500
CLEARML_DISK_GIB = 440.0  # 500 GB less what file systems keep for themselves
LEAST_FREE_PCT = 15.0  # the kubelet begins to evict below. Kubernetes: node-pressure eviction
LONGHORN_FREE_PCT = 25.0  # SUSE Storage places no replica below
RANCHER_FREE_GIB = 20.0  # images of the platform on every host
MOST_FSYNC_MS = 10.0  # etcd documentation: hardware, disks
REMOTE = ("nfs", "cifs", "smb", "fuse", "ceph", "gluster", "afs")


@dataclass(frozen=True)
class Room:
    """One file system as df sees it, in KiB or inodes."""

    device: str
    total: int
    free: int

    @property
    def free_pct(self) -> float:
        return 100.0 * self.free / self.total if self.total else 100.0


def rooms(host: Host, what: str) -> dict[str, Room]:
    """Return path to file system."""
    found = {}
    for row in host.rows(what):
        if len(row) != 4 or not row[2].isdigit() or not row[3].isdigit():
            raise FactUnknownError("df is not understood", where=host.node.name, seen=f"`{' '.join(row)[:60]}`")
        found[row[0]] = Room(row[1], int(row[2]), int(row[3]))
    return found


def room_at(host: Host, path: str, what: str = "disks") -> Room:
    found = rooms(host, what)
    if path not in found:
        raise FactUnknownError("not measured", where=host.node.name, seen=f"{path} was not measured")
    return found[path]


def free(path: Callable[[StackSpec], str], least_pct: float, least_gib: float = 0.0) -> Callable[[Case, str], Outcome]:
    """Make a judge that wants room at a path: a share of it, and so many GiB while nothing is installed."""

    def judge(case: Case, subject: str) -> Outcome:
        host = case.host(subject)
        room = room_at(host, path(case.spec))
        gib = room.free / GIB_K
        installed = host.facts is not None and host.facts.rke2.has_data
        enough = room.free_pct >= least_pct and (gib >= least_gib or installed)
        return held(enough, f"{gib:.0f} GiB, {room.free_pct:.0f} %")

    return judge


def inodes(case: Case, subject: str) -> Outcome:
    found = {path: room for path, room in rooms(case.host(subject), "inodes").items() if room.total}
    if not found:
        return skipped("the file systems have no fixed number of inodes")
    low = [f"{path} {room.free_pct:.0f} %" for path, room in found.items() if room.free_pct < 10]
    return held(not low, names(low) or f"{min(room.free_pct for room in found.values()):.0f} %")


def capacity_gib(host: Host) -> float:
    """Return the size of all local file systems together, each device once."""
    devices = {room.device: room.total for room in rooms(host, "disks").values()}
    return sum(devices.values()) / GIB_K


def clearml_disks(case: Case, subject: str) -> Outcome:
    """Count the candidates with enough storage, own disks included: three must have it."""
    sizes: dict[str, float] = {}
    dark = []
    for node in agents_for_clearml(case.spec):
        host = case.host(node.name)
        if "disks" in host.sections:
            sizes[node.name] = capacity_gib(host)
        else:
            dark.append(node.name)
    fits = [name for name, gib in sizes.items() if gib >= CLEARML_DISK_GIB]
    if len(fits) >= CLEARML_NODES:
        return good(f"{len(fits)} hosts: {names(fits)}")
    if len(fits) + len(dark) >= CLEARML_NODES:
        return unknown(f"not read: {names(dark)}")
    small = [f"{name}: {gib:.0f} GiB" for name, gib in sizes.items() if name not in fits]
    return bad(f"{len(fits)} of {len(sizes)} candidates; too small: {names(small) or 'none'}")


def dedicated(case: Case, subject: str) -> Outcome:
    host = case.host(subject)
    root = room_at(host, "/").device
    shared = [disk.mount for disk in host.node.disks if room_at(host, disk.mount).device == root]
    return held(not shared, f"on the system's disk: {names(shared)}" if shared else "each on its own")


def file_system(case: Case, subject: str) -> Outcome:
    kinds = {row[0]: row[1] for row in case.host(subject).rows("file_systems") if len(row) == 2}
    if "/var/lib/rancher" not in kinds:
        raise FactUnknownError("not read", seen="the kind of /var/lib/rancher was not read")
    kind = kinds["/var/lib/rancher"]
    return held(not kind.startswith(REMOTE), kind)


def fsync_p99_ms(host: Host) -> float:
    """Return the time within which 99 of 100 writes are on the disk. Raises FactUnknownError for too few answers."""
    found = sorted(1000 * float(text) for text in re.findall(r"copied, ([\d.e-]+) s,", host.text("fsync")))
    if len(found) < FSYNC_WRITES * 9 // 10:
        raise FactUnknownError("too few writes", where=host.node.name, seen=f"{len(found)} of {FSYNC_WRITES} writes")
    return found[max(0, -(-99 * len(found) // 100) - 1)]


def fsync(case: Case, subject: str) -> Outcome:
    p99 = fsync_p99_ms(case.host(subject))
    return held(p99 <= MOST_FSYNC_MS, f"{p99:.2f} ms")


def data_path(spec: StackSpec) -> str:
    return spec.layers.storage.data_path


_ROOM = "Make room, or put a larger file system there."

CHECKS: tuple[Check, ...] = (
    Check("preflight/disk/rancher", "room for RKE2 and images", "5.2; RKE2: requirements",
          f"{RANCHER_FREE_GIB:g} GiB and {LEAST_FREE_PCT:g} % free in /var/lib/rancher", _ROOM,
          free(lambda spec: "/var/lib/rancher", LEAST_FREE_PCT, RANCHER_FREE_GIB)),
    Check("preflight/disk/kubelet", "room for pods", "5.2; Kubernetes: eviction",
          f"{LEAST_FREE_PCT:g} % free in /var/lib/kubelet", _ROOM,
          free(lambda spec: "/var/lib/kubelet", LEAST_FREE_PCT)),
    Check("preflight/disk/var", "room for logs and packages", "5.1", "10 % free in /var", _ROOM,
          free(lambda spec: "/var", 10.0, 5.0), must=False),
    Check("preflight/disk/root", "room on the system's disk", "5.1", "5 % free in /", _ROOM,
          free(lambda spec: "/", 5.0), must=False),
    Check("preflight/disk/longhorn", "room for volumes", "5.4; SUSE Storage: best practices",
          lambda spec: f"{LONGHORN_FREE_PCT:g} % free in {data_path(spec)}", _ROOM, free(data_path, LONGHORN_FREE_PCT),
          storage_nodes, "SUSE Storage is not installed", must=False),
    Check("preflight/disk/inodes", "inodes are left", "5.2", f"10 % in {', '.join(PATHS)}",
          "Remove heaps of small files, or make the file system anew with more inodes.", inodes, every_node),
    Check("preflight/disk/clearml", "storage of the ClearML servers", "5.7.1 step 1",
          f"{CLEARML_NODES} hosts with {CLEARML_DISK_GB} GB", "Add disks, or more hosts of that size.", clearml_disks,
          clearml_site, "ClearML is not installed"),
    Check("preflight/disk/dedicated", "volumes have disks of their own", "5.4; SUSE Storage: best practices",
          "another device than the system's", "Mount the disk of the site file there.", dedicated, disk_nodes,
          "no node has disks of its own"),
    Check("preflight/etcd/file-system", "etcd lies on a local disk", "5.2 Networking; etcd: hardware",
          "no network file system under /var/lib/rancher", "Put /var/lib/rancher on a local disk.", file_system,
          every_server),
    Check("preflight/etcd/fsync", "etcd's disk is quick", "5.2 Networking; etcd: hardware",
          f"99 of 100 synchronous writes within {MOST_FSYNC_MS:g} ms",
          "Give the servers local SSD or NVMe disks, and nothing else that writes on them.", fsync, every_server),
)  # fmt: skip
