"""`rke2`'s other commands: snapshots of the real etcd, certificates by their real dates, token, encryption status."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
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
from stackwright.lab.rke2.snapshots import SNAPSHOTS, option, record_name, snapshot_record
from stackwright.lab.rke2.state import SERVER, parse_token

RECORDS = "/apis/k3s.cattle.io/v1/etcdsnapshotfiles"
WARNED_BEFORE = datetime.timedelta(days=120)


def etcd_snapshot(disk: HostDisk, words: Sequence[str]) -> int:
    """`rke2 etcd-snapshot save|ls|delete|prune`: files of the real etcd, and the records that the cluster keeps."""
    verb, rest = (words[0] if words else ""), list(words[1:])
    node = node_name(disk, read_config(disk))
    if verb == "save":
        return _save(disk, node, option(rest, "--name", "on-demand"))
    names = sorted(path.name for path in disk.path(SNAPSHOTS).glob("*"))
    if verb in ("ls", "list", "l"):
        _list(disk, node, names, as_json="json" in rest or "--output=json" in rest)
        return 0
    if verb == "delete":
        return asyncio.run(_delete(disk, [word for word in rest if not word.startswith("-")]))
    if verb == "prune":
        prefix, keep = f"{option(rest, '--name', 'on-demand')}-{node}-", int(option(rest, "--snapshot-retention", "5"))
        old = sorted((name for name in names if name.startswith(prefix)), reverse=True)[keep:]
        return asyncio.run(_delete(disk, old)) if old else 0
    return _no_topic(verb)


def _save(disk: HostDisk, node: str, first: str) -> int:
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
    name = f"{first}-{node}-{int(time.time())}"
    path = disk.path(f"{SNAPSHOTS}/{name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    done = _etcdctl(disk, "snapshot", "save", str(path))
    if done.returncode != 0:
        say("error", f"Failed to take etcd snapshot: {done.stderr.strip().splitlines()[-1:]}")
        return 1
    path.chmod(0o600)
    asyncio.run(_keep_record(disk, snapshot_record(node, _token(disk), name, path.stat().st_size)))
    say("info", f"Snapshot {name} saved.")
    return 0


def _list(disk: HostDisk, node: str, names: Sequence[str], *, as_json: bool) -> None:
    sizes = {name: disk.path(f"{SNAPSHOTS}/{name}").stat().st_size for name in names}
    if as_json:
        items = [snapshot_record(node, _token(disk), name, size) for name, size in sizes.items()]
        print_out(json.dumps({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
        return
    print_out("Name Location Size Created")
    for name, size in sizes.items():
        print_out(f"{name} file://{SNAPSHOTS}/{name} {size} {name.rpartition('-')[2]}")


async def _delete(disk: HostDisk, names: Sequence[str]) -> int:
    if not names:
        say("fatal", "no snapshots given for removal")
        return 1
    api = _admin(disk)
    try:
        for name in names:
            path = disk.path(f"{SNAPSHOTS}/{name}")
            if not path.exists():
                say("info", f"Snapshot {name} not found locally")
                continue
            path.unlink()
            with contextlib.suppress(ApiError):  # there may be no record
                await api.call("DELETE", f"{RECORDS}/{record_name(name)}")
            say("info", f"Snapshot {name} deleted.")
    finally:
        await api.close()
    return 0


async def _keep_record(disk: HostDisk, record: dict[str, Any]) -> None:
    api = _admin(disk)
    try:
        await api.call("POST", RECORDS, record)
    except ApiError as error:
        say("warning", f"failed to keep the snapshot's record: {error}")
    finally:
        await api.close()


def _admin(disk: HostDisk) -> KubeApi:
    pair = [str(disk.path(f"{TLS}/client-admin.{end}")) for end in ("crt", "key")]
    return KubeApi(disk.read(f"{TLS}/server-ca.crt"), pair[0], pair[1], lambda: ["127.0.0.1"])


def _token(disk: HostDisk) -> str:
    return parse_token(disk.read(f"{SERVER}/token").strip())[1]


def _etcdctl(disk: HostDisk, *words: str) -> subprocess.CompletedProcess[str]:
    pairs = (("cacert", etcdpod.CA), ("cert", etcdpod.CERTIFICATE), ("key", etcdpod.KEY))
    files = [f"--{flag}={disk.path(path)}" for flag, path in pairs]
    argv = ["etcdctl", f"--endpoints={etcdpod.LOCAL}", *files, *words]
    env = {"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, env=env)


def certificate(disk: HostDisk, words: Sequence[str]) -> int:
    """`rke2 certificate check`: one row for each certificate in each file, leaf and authority."""
    if list(words[:1]) != ["check"]:
        return _no_topic(words[0] if words else "")
    rows = [row for path in sorted(disk.path(TLS).rglob("*.crt")) for row in _rows_of(path.name, path.read_bytes())]
    if "json" in words or option(list(words), "--output") == "json":
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


def _no_topic(verb: str) -> int:
    sys.stderr.write(f"No help topic for '{verb}'\n")
    return 1
