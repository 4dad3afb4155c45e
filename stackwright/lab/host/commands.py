"""`rke2`'s other commands: snapshots of the real etcd, certificates by their real dates, token, encryption status."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from cryptography import x509

from stackwright.lab.host import etcdpod
from stackwright.lab.host.disk import HostDisk, say
from stackwright.lab.host.etcd import EtcdError
from stackwright.lab.host.identity import TLS
from stackwright.lab.host.kubeapi import ApiError, KubeApi
from stackwright.lab.host.server import node_name
from stackwright.lab.rke2.config import read_config
from stackwright.lab.rke2.state import SERVER, parse_token

SNAPSHOTS = f"{SERVER}/db/snapshots"
RECORDS = "/apis/k3s.cattle.io/v1/etcdsnapshotfiles"
WARNED_BEFORE = datetime.timedelta(days=120)


def etcd_snapshot(disk: HostDisk, words: Sequence[str]) -> int:
    """`rke2 etcd-snapshot save|ls`."""
    verb = next((word for word in words if not word.startswith("-")), "")
    if verb == "save":
        return _save(disk, words)
    if verb in ("ls", "list", "l"):
        rows = [_row(path.name, path.stat().st_size) for path in sorted(disk.path(SNAPSHOTS).glob("*"))]
        if "json" in words:
            print_out(json.dumps({"items": rows}))
        else:
            print_out("Name Location Size Created")
            for row in rows:
                print_out(f"{row['name']} {row['location']} {row['size']} {row['created']}")
        return 0
    return _no_topic(verb)


def _save(disk: HostDisk, words: Sequence[str]) -> int:
    etcd = etcdpod.client(disk)
    try:
        if etcd.status(3.0).learner:
            say("warning", "Unable to take snapshot: not supported for learner")
            return 0
    except EtcdError as error:
        say("fatal", f"Error: failed to check etcd status for snapshot: {error}")
        return 1
    finally:
        etcd.close()
    node = node_name(disk, read_config(disk))
    name = f"{_option(words, 'name') or 'on-demand'}-{node}-{int(time.time())}"
    path = disk.path(f"{SNAPSHOTS}/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    done = _etcdctl(disk, "snapshot", "save", str(path))
    if done.returncode != 0:
        say("error", f"Failed to take etcd snapshot: {done.stderr.strip().splitlines()[-1:]}")
        return 1
    path.chmod(0o600)
    asyncio.run(_record(disk, node, name, path.stat().st_size))
    say("info", f"Snapshot {name} saved.")
    return 0


def _etcdctl(disk: HostDisk, *words: str) -> subprocess.CompletedProcess[str]:
    files = [f"--{flag}={disk.path(path)}" for flag, path in (("cacert", etcdpod.CA), ("cert", etcdpod.CERTIFICATE),
             ("key", etcdpod.KEY))]  # fmt: skip
    argv = ["etcdctl", f"--endpoints={etcdpod.LOCAL}", *files, *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env={
        "ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"})  # fmt: skip


async def _record(disk: HostDisk, node: str, name: str, size: int) -> None:
    """Keep the snapshot's record in the cluster."""
    api = KubeApi(disk.read(f"{TLS}/server-ca.crt"), str(disk.path(f"{TLS}/client-admin.crt")),
                  str(disk.path(f"{TLS}/client-admin.key")), lambda: ["127.0.0.1"])  # fmt: skip
    token = parse_token(disk.read(f"{SERVER}/token").strip())[1]
    body: dict[str, Any] = {
        "apiVersion": "k3s.cattle.io/v1",
        "kind": "ETCDSnapshotFile",
        "metadata": {
            "name": f"local-{name}-{_short_hash(name)[:6]}",
            "labels": {"etcd.rke2.cattle.io/snapshot-storage-node": node},
            "annotations": {"etcd.rke2.cattle.io/snapshot-token-hash": _short_hash(token)},
        },
        "spec": {"snapshotName": name, "nodeName": node, "location": f"file://{SNAPSHOTS}/{name}"},
        "status": {"readyToUse": True, "size": str(size)},
    }
    try:
        await api.call("POST", RECORDS, body)
    except ApiError as error:
        say("warning", f"failed to keep the snapshot's record: {error}")
    finally:
        await api.close()


def _row(name: str, size: int) -> dict[str, Any]:
    return {"name": name, "location": f"file://{SNAPSHOTS}/{name}", "size": size, "created": name.rpartition("-")[2]}


def certificate(disk: HostDisk, words: Sequence[str]) -> int:
    """`rke2 certificate check`: one row for each certificate in each file, leaf and authority."""
    if list(words[:1]) != ["check"]:
        return _no_topic(words[0] if words else "")
    rows = [row for path in sorted(disk.path(TLS).rglob("*.crt")) for row in _rows_of(path.name, path.read_bytes())]
    if _option(words, "output") == "json" or "json" in words:
        print_out(json.dumps({"Certificates": rows}))
        return 0
    for row in rows:
        print_out(f"{row['Filename']} {row['Subject']} {row['ExpiryTime']} {row['Status']}")
    return 0


def _rows_of(name: str, content: bytes) -> list[dict[str, Any]]:
    now = datetime.datetime.now(datetime.UTC)
    rows = []
    for found in x509.load_pem_x509_certificates(content):
        left = found.not_valid_after_utc - now
        status = "EXPIRED" if left.total_seconds() <= 0 else "WARNING" if left < WARNED_BEFORE else "OK"
        rows.append({
            "Filename": name, "Subject": found.subject.rfc4514_string(), "Issuer": found.issuer.rfc4514_string(),
            "ExpiryTime": found.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "ResidualTime": int(left.total_seconds()), "Status": status,
        })  # fmt: skip
    return rows


def token(disk: HostDisk, words: Sequence[str]) -> int:
    """`rke2 token list`: there are no bootstrap tokens here."""
    if list(words[:1]) != ["list"]:
        return _no_topic(words[0] if words else "")
    print_out("TOKEN  TTL  EXPIRES  USAGES  DESCRIPTION  EXTRA GROUPS")
    return 0


def secrets_encrypt(disk: HostDisk, words: Sequence[str]) -> int:
    """`rke2 secrets-encrypt status`: the stand-in's etcd is not encrypted, and it says so."""
    if list(words[:1]) != ["status"]:
        return _no_topic(words[0] if words else "")
    if "json" in words:
        print_out(json.dumps({"enabled": False, "stage": "start", "hashMatch": True, "activekey": ""}))
    else:
        print_out("Encryption Status: Disabled, no configuration file found")
    return 0


def print_out(text: str) -> None:
    """Print a command's answer."""
    sys.stdout.write(text + "\n")


def _option(words: Sequence[str], name: str) -> str:
    for index, word in enumerate(words):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}" and index + 1 < len(words):
            return words[index + 1]
    return ""


def _no_topic(verb: str) -> int:
    sys.stderr.write(f"No help topic for '{verb}'\n")
    return 1


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
