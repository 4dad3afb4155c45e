"""The rke2 program's commands: those that a running server answers, and `certificate`, which reads files alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.rke2.certificates import certificate_command
from stackwright.lab.rke2.encryption import encryption_command
from stackwright.lab.rke2.snapshots import snapshot_command
from stackwright.lab.rke2.state import MEMBER_FILE, ClusterState
from stackwright.lab.rke2.tokens import token_command

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster

COMMANDS = {"etcd-snapshot": snapshot_command, "token": token_command, "secrets-encrypt": encryption_command}


def rke2_command(cluster: Rke2Cluster, machine: Machine, call: Call) -> Answer:
    """Answer `rke2 COMMAND ...`; the first argument is the program's version."""
    version, *words = call.args
    verb = words.pop(0) if words else ""
    if verb in ("server", "agent"):
        return Answer(1, err=f"the lab starts rke2 {verb} through its unit: systemctl start rke2-{verb}\n")
    if verb == "certificate":
        return certificate_command(machine, version, words)
    if verb == "lab-certificates":
        cluster.age_certificates(machine.name, float(words[0]))
        return Answer()
    state = _state(cluster, machine)
    if state is None or not machine.systemd.is_active("rke2-server.service"):
        return Answer(
            1, err='level=fatal msg="Error: Get \\"https://127.0.0.1:9345/cacerts\\": connect: connection refused"\n'
        )
    return COMMANDS[verb](cluster, machine, state, words)


def cluster_of(cluster: Rke2Cluster, machine: Machine) -> ClusterState:
    """Return the cluster that a machine belongs to; an agent, which holds no data, belongs to the first."""
    return _state(cluster, machine) or next(iter(cluster.clusters.values()))


def _state(cluster: Rke2Cluster, machine: Machine) -> ClusterState | None:
    held = machine.read(MEMBER_FILE)
    return cluster.clusters.get(json.loads(held)["cluster"]) if held else None
