"""`rke2 etcd-snapshot` of the stand-in: save, ls, delete, prune, and the records that RKE2 keeps of the files.

A snapshot is a file as etcd's own: the API's objects, and the cluster's bootstrap data sealed by the server token.

A file `lab/snapshot-lies` below the machine's /run lets the next save say that it worked and leave an empty file, as a
disk does that lost it.
"""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stackwright.lab.machines.hand import Answer
from stackwright.lab.rke2.bootstrap import bootstrap_data, bootstrap_key
from stackwright.lab.rke2.etcd_writer import etcd_snapshot
from stackwright.lab.rke2.state import SERVER, ClusterState

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster
    from stackwright.lab.rke2.objects import Obj

SNAPSHOTS = f"{SERVER}/db/snapshots"
LIES = "/run/lab/snapshot-lies"
KIND = "ETCDSnapshotFile"
NODE_LABEL = "etcd.rke2.cattle.io/snapshot-storage-node"


def snapshot_kind() -> Obj:
    """Return the definition of the kind that records are of."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": "etcdsnapshotfiles", "singular": "etcdsnapshotfile"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "etcdsnapshotfiles.k3s.cattle.io"},
        "spec": {"group": "k3s.cattle.io", "scope": "Cluster", "names": names, "versions": [version]},
    }


def snapshot_command(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    """Answer `rke2 etcd-snapshot VERB ...`."""
    verb = words[0] if words and not words[0].startswith("-") else ""
    verbs = {"save": _save, "ls": _list, "list": _list, "l": _list, "delete": _delete, "prune": _prune}
    if verb not in verbs:
        return Answer(1, err=f"No help topic for '{verb}'\n")
    return verbs[verb](cluster, machine, state, words[1:])


def option(words: list[str], name: str, default: str = "") -> str:
    """Return the value of `--name VALUE` or `--name=VALUE`."""
    for index, word in enumerate(words):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name and index + 1 < len(words):
            return words[index + 1]
    return default


def _save(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    member = state.members.get(machine.name)
    if member is not None and not member.voter:
        # The real one logs this on the server and still ends without an error.
        machine.systemd.log(
            "rke2", 'level=warning msg="Unable to take snapshot: not supported for learner"', "rke2-server.service"
        )
        return Answer()
    file = f"{option(words, '--name', 'on-demand')}-{machine.name}-{int(time.time())}"
    api = cluster.api_of(state)
    content = etcd_snapshot([(bootstrap_key(state.token), bootstrap_data(state)), *api.stored()])
    lies = machine.path(LIES).exists()
    machine.path(LIES).unlink(missing_ok=True)
    machine.write(f"{SNAPSHOTS}/{file}", "", 0o600)
    machine.path(SNAPSHOTS).chmod(0o700)
    if not lies:
        machine.path(f"{SNAPSHOTS}/{file}").write_bytes(content)
    api.put(snapshot_record(machine.name, state.token, file, len(content)))
    return Answer(0, f'time="{_now()}" level=info msg="Snapshot {file} saved."\n')


def _list(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    rows = [_row(path.name, path.stat().st_size) for path in sorted(machine.path(SNAPSHOTS).glob("*"))]
    if "json" in words or "--output=json" in words:
        items = [snapshot_record(machine.name, state.token, row["name"], row["size"]) for row in rows]
        return Answer(0, json.dumps({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}) + "\n")
    lines = [f"{row['name']} {row['location']} {row['size']} {row['created']}\n" for row in rows]
    return Answer(0, "Name Location Size Created\n" + "".join(lines))


def _delete(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    said = [_remove(cluster, machine, state, name) for name in words if not name.startswith("-")]
    return Answer(0, "".join(said)) if said else Answer(1, err='level=fatal msg="no snapshots given for removal"\n')


def _prune(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    prefix = f"{option(words, '--name', 'on-demand')}-{machine.name}-"
    keep = int(option(words, "--snapshot-retention", "5"))
    names = sorted((path.name for path in machine.path(SNAPSHOTS).glob(f"{prefix}*")), reverse=True)
    return Answer(0, "".join(_remove(cluster, machine, state, name) for name in names[keep:]))


def _remove(cluster: Rke2Cluster, machine: Machine, state: ClusterState, name: str) -> str:
    path = machine.path(f"{SNAPSHOTS}/{name}")
    if not path.exists():
        return f'time="{_now()}" level=info msg="Snapshot {name} not found locally"\n'
    path.unlink()
    cluster.api_of(state).delete(KIND, "", record_name(name))
    return f'time="{_now()}" level=info msg="Snapshot {name} deleted."\n'


def _row(name: str, size: int) -> dict[str, Any]:
    return {"name": name, "location": f"file://{SNAPSHOTS}/{name}", "size": size, "created": name.rpartition("-")[2]}


def record_name(file: str) -> str:
    """Return the name of a local file's record."""
    return f"local-{file}-{short_hash(file)[:6]}"


def snapshot_record(node: str, token: str, file: str, size: int) -> Obj:
    """Return the cluster's record of a file on a node, taken while `token` was the server token."""
    seconds = int(file.rpartition("-")[2])
    return {
        "apiVersion": "k3s.cattle.io/v1",
        "kind": KIND,
        "metadata": {
            "name": record_name(file),
            "labels": {NODE_LABEL: node},
            "annotations": {"etcd.rke2.cattle.io/snapshot-token-hash": short_hash(token)},
        },
        "spec": {"snapshotName": file, "nodeName": node, "location": f"file://{SNAPSHOTS}/{file}"},
        "status": {
            "readyToUse": True,
            "size": str(size),
            "creationTime": datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    }


def short_hash(text: str) -> str:
    """Return what RKE2 names a token by: the first digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
