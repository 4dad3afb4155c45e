"""The rke2 program's commands that a running cluster answers: token, etcd-snapshot, certificate, secrets-encrypt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.rke2.snapshots import snapshot_command
from stackwright.lab.rke2.state import MEMBER_FILE, SERVER, ClusterState

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster


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
    answers = {
        "etcd-snapshot": snapshot_command,
        "token": _token,
        "certificate": _certificate,
        "secrets-encrypt": _encryption,
    }
    return answers[verb](cluster, machine, state, words)


def _state(cluster: Rke2Cluster, machine: Machine) -> ClusterState | None:
    held = machine.read(MEMBER_FILE)
    return cluster.clusters.get(json.loads(held)["cluster"]) if held else None


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
