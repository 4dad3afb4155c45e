"""The rke2 program's commands that a running cluster answers: token, etcd-snapshot, certificate, secrets-encrypt."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.rke2.state import MEMBER_FILE, SERVER, ClusterState

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster

SNAPSHOTS = f"{SERVER}/db/snapshots"


def rke2_command(cluster: Rke2Cluster, machine: Machine, call: Call) -> Answer:
    """Answer `rke2 COMMAND ...`; the first argument is the program's version."""
    words = list(call.args[1:])
    verb = words.pop(0) if words else ""
    if verb in ("server", "agent"):
        return Answer(1, err=f"the lab starts rke2 {verb} through its unit: systemctl start rke2-{verb}\n")
    state = _state(cluster, machine)
    if state is None or not machine.systemd.is_active("rke2-server.service"):
        return Answer(
            1, err='level=fatal msg="Error: Get \\"https://127.0.0.1:9345/cacerts\\": connect: connection refused"\n'
        )
    answers = {"etcd-snapshot": _snapshot, "token": _token, "certificate": _certificate, "secrets-encrypt": _encryption}
    return answers[verb](cluster, machine, state, words)


def _state(cluster: Rke2Cluster, machine: Machine) -> ClusterState | None:
    held = machine.read(MEMBER_FILE)
    return cluster.clusters.get(json.loads(held)["cluster"]) if held else None


def _snapshot(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    verb = words[0] if words and not words[0].startswith("-") else ""
    if verb == "save":
        name = next((word.partition("=")[2] for word in words if word.startswith("--name=")), None)
        if "--name" in words[:-1]:
            name = words[words.index("--name") + 1]
        member = state.members.get(machine.name)
        if member is not None and not member.voter:
            # The real one logs this on the server and still ends without an error.
            machine.systemd.log(
                "rke2", 'level=error msg="Unable to take snapshot: not supported for learner"', "rke2-server.service"
            )
            return Answer()
        file = f"{name or 'on-demand'}-{machine.name}-{int(time.time())}"
        content = json.dumps({"cluster": state.id, "members": sorted(state.members), "token": _short_hash(state.token)})
        machine.write(f"{SNAPSHOTS}/{file}", content + "\n", 0o600)
        machine.path(SNAPSHOTS).chmod(0o700)
        cluster.api_of(state).put(_record(machine, state, file, len(content) + 1))
        return Answer(0, f'time="now" level=info msg="Snapshot {file} saved."\n')
    if verb in ("ls", "list", "l"):
        rows = [_row(machine, path.name, path.stat().st_size) for path in sorted(machine.path(SNAPSHOTS).glob("*"))]
        if "json" in words:
            return Answer(0, json.dumps({"items": rows}) + "\n")
        return Answer(
            0,
            "Name Location Size Created\n"
            + "".join(f"{r['name']} {r['location']} {r['size']} {r['created']}\n" for r in rows),
        )
    return Answer(1, err=f"No help topic for '{verb}'\n")


def _row(machine: Machine, name: str, size: int) -> dict[str, Any]:
    return {"name": name, "location": f"file://{SNAPSHOTS}/{name}", "size": size, "created": name.rpartition("-")[2]}


def _record(machine: Machine, state: ClusterState, file: str, size: int) -> dict[str, Any]:
    return {
        "apiVersion": "k3s.cattle.io/v1",
        "kind": "ETCDSnapshotFile",
        "metadata": {
            "name": f"local-{file}-{_short_hash(file)[:6]}",
            "labels": {"etcd.rke2.cattle.io/snapshot-storage-node": machine.name},
            "annotations": {"etcd.rke2.cattle.io/snapshot-token-hash": _short_hash(state.token)},
        },
        "spec": {"snapshotName": file, "nodeName": machine.name, "location": f"file://{SNAPSHOTS}/{file}"},
        "status": {"readyToUse": True, "size": str(size)},
    }


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _token(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    if words[:1] == ["list"]:
        return Answer(0, "TOKEN  TTL  EXPIRES  USAGES  DESCRIPTION  EXTRA GROUPS\n")
    return Answer(1, err=f"No help topic for '{words[0] if words else ''}'\n")


def _certificate(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    if words[:1] != ["check"]:
        return Answer(1, err=f"No help topic for '{words[0] if words else ''}'\n")
    rows = [
        {"Filename": path.name, "Subject": path.stem, "Status": "OK", "ResidualTime": 364 * 86400}
        for path in sorted(machine.path(f"{SERVER}/tls").glob("*.crt"))
    ]
    if "json" in words:
        return Answer(0, json.dumps({"Certificates": rows}) + "\n")
    return Answer(0, "".join(f"{row['Filename']} {row['Subject']} {row['Status']}\n" for row in rows))


def _encryption(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    if words[:1] != ["status"]:
        return Answer(1, err=f"No help topic for '{words[0] if words else ''}'\n")
    if "json" in words:
        return Answer(
            0, json.dumps({"enabled": True, "stage": "start", "hashMatch": True, "activekey": "aescbckey"}) + "\n"
        )
    return Answer(
        0, "Encryption Status: Enabled\nCurrent Rotation Stage: start\nServer Encryption Hashes: All hashes match\n"
    )
