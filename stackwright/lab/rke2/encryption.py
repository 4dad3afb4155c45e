"""`rke2 secrets-encrypt` of the stand-in: keys, stages and the hash of each server's encryption configuration.

As in the real one, each server's Node carries `<stage>-<hash>`; one that was not restarted since a rotation still has
the old hash, and no rotation may start while they differ. Upstream: k3s pkg/server/handlers/secrets-encrypt.go.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stackwright.lab.machines.hand import Answer
from stackwright.lab.rke2.snapshots import option
from stackwright.lab.rke2.state import SERVER, ClusterState

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine
    from stackwright.lab.rke2.cluster import Rke2Cluster
    from stackwright.lab.rke2.objects import ClusterApi, Obj

CONFIG = f"{SERVER}/cred/encryption-config.json"
ANNOTATION = "rke2.io/encryption-config-hash"
START, ACTIVE, FINISHED = "start", "reencrypt_active", "reencrypt_finished"
REENCRYPT_S = 20.0


def first_encryption() -> dict[str, Any]:
    """Return a new cluster's encryption: one key, nothing rotated yet."""
    return {"stage": START, "keys": ["aescbckey"]}


def put_encryption(machine: Machine, state: ClusterState, node: Obj) -> None:
    """Write the cluster's encryption configuration to a server that starts, and its hash onto the server's Node."""
    text = _config(state.encryption["keys"])
    machine.write(CONFIG, text, 0o600)
    node["metadata"].setdefault("annotations", {})[ANNOTATION] = f"{state.encryption['stage']}-{_hash(text)}"


def encryption_command(cluster: Rke2Cluster, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    """Answer `rke2 secrets-encrypt status|rotate-keys`."""
    verb = words[0] if words else ""
    if verb == "status":
        return _status(cluster.api_of(state), machine, state, words[1:])
    if verb == "rotate-keys":
        return _rotate(cluster, machine, state)
    return Answer(1, err=f"No help topic for '{verb}'\n")


def _status(api: ClusterApi, machine: Machine, state: ClusterState, words: list[str]) -> Answer:
    stage = _annotation(api, machine.name).partition("-")[0]
    differs = _difference(api)
    kinds = [f"AES-CBC {name}" for name in _keys(machine)]
    if "json" in (option(words, "-o"), option(words, "--output")):
        # hashmatch and hasherror are left out when they are false or empty.
        answer = {"stage": stage, "activekey": kinds[0], "enable": True}
        answer |= {"hasherror": differs} if differs else {"hashmatch": True}
        answer |= {"inactivekeys": kinds[1:]} if kinds[1:] else {}
        return Answer(0, json.dumps(answer, indent="\t") + "\n")
    hashes = differs or "All hashes match"
    text = f"Encryption Status: Enabled\nCurrent Rotation Stage: {stage}\nServer Encryption Hashes: {hashes}\n"
    return Answer(0, text)


def _rotate(cluster: Rke2Cluster, machine: Machine, state: ClusterState) -> Answer:
    api = cluster.api_of(state)
    stage = _annotation(api, machine.name).partition("-")[0]
    refusal = _difference(api)
    if not refusal and stage not in (START, FINISHED):
        refusal = f"incorrect stage: {stage} found on node {machine.name}"
    if refusal:
        text = f"see server log for details: https://127.0.0.1:9345/v1-rke2/encrypt/config: 400 Bad Request: {refusal}"
        return Answer(1, err=f'level=fatal msg="Error: {text}"\n')
    _annotate(api, machine.name, f"{ACTIVE}-{_hash(machine.read(CONFIG))}")
    name = f"aescbckey-{datetime.now(UTC).isoformat(timespec='microseconds')}"
    machine.write(CONFIG, _config([name, *state.encryption["keys"]]), 0o600)
    asyncio.get_running_loop().call_later(REENCRYPT_S / cluster.speed, _finish, cluster, machine, state, name)
    return Answer(0, "keys rotated, reencryption started\n")


def _finish(cluster: Rke2Cluster, machine: Machine, state: ClusterState, name: str) -> None:
    """End the re-encryption, unless the server was stopped meanwhile: then it stays where it was."""
    if not machine.systemd.is_active("rke2-server.service"):
        return
    state.encryption = {"stage": FINISHED, "keys": [name]}
    cluster.save(state)
    text = _config(state.encryption["keys"])
    machine.write(CONFIG, text, 0o600)
    _annotate(cluster.api_of(state), machine.name, f"{FINISHED}-{_hash(text)}")


def _difference(api: ClusterApi) -> str:
    """Return the words for two servers whose configuration differs, or an empty text."""
    first: tuple[str, str] | None = None
    for node in sorted(api.objects("Node"), key=lambda one: str(one["metadata"]["name"])):
        held, name = (node["metadata"].get("annotations") or {}).get(ANNOTATION), node["metadata"]["name"]
        if held and first is None:
            first = (name, held)
        elif held and first is not None and held != first[1]:
            return f"hash does not match between {first[0]} and {name}"
    return ""


def _annotation(api: ClusterApi, node: str) -> str:
    found = api.get("Node", "", node) or {"metadata": {}}
    return str((found["metadata"].get("annotations") or {}).get(ANNOTATION, ""))


def _annotate(api: ClusterApi, node: str, value: str) -> None:
    found = api.get("Node", "", node)
    if found is not None:
        annotations = {**(found["metadata"].get("annotations") or {}), ANNOTATION: value}
        api.put({**found, "metadata": {**found["metadata"], "annotations": annotations}})


def _keys(machine: Machine) -> list[str]:
    """Return the names of the keys in a server's own file, the active one first."""
    held = json.loads(machine.read(CONFIG))
    return [key["name"] for key in held["resources"][0]["providers"][0]["aescbc"]["keys"]]


def _config(names: list[str]) -> str:
    providers = [{"aescbc": {"keys": [{"name": name} for name in names]}}, {"identity": {}}]
    resources = [{"resources": ["secrets"], "providers": providers}]
    return json.dumps({"kind": "EncryptionConfiguration", "resources": resources})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
