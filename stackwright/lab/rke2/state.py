"""What one RKE2 cluster is: identity, authorities, tokens and etcd members; kept in a file, as etcd keeps it.

Also the files that a server writes to its own disk. Who changes the state is cluster.py.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from base64 import b64encode
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackwright.lab.net import Authority

if TYPE_CHECKING:
    from stackwright.lab.rke2.disk import Disk

DATA = "/var/lib/rancher/rke2"
SERVER = f"{DATA}/server"
MEMBER_FILE = f"{SERVER}/db/etcd/member/member.json"
AUTHORITIES = ("server-ca", "client-ca", "request-header-ca", "etcd-ca", "etcd-peer-ca")
STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "cloud-controller-manager")


@dataclass
class Member:
    """One etcd member. A learner has no vote; `ready` says that it runs and may be promoted."""

    name: str
    id: str
    address: str
    voter: bool = False
    ready: bool = False


@dataclass
class ClusterState:
    """One cluster. `token` is the secret part of the server token; `born` is the release of its first server.

    `etcd` is what etcd calls the cluster's version: the smallest that any member ran when it was last raised.
    """

    id: str
    token: str
    agent_token: str
    authorities: dict[str, tuple[str, str]]
    critical: dict[str, str]
    members: dict[str, Member] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    encryption: dict[str, Any] = field(default_factory=dict)
    born: str = ""
    etcd: str = ""

    def authority(self, name: str) -> Authority:
        """Return one of the authorities (AUTHORITIES)."""
        return Authority.load(*self.authorities[name])

    @property
    def ca(self) -> str:
        """PEM of the authority that signs the API's and the supervisor's certificates."""
        return self.authorities["server-ca"][0]

    @property
    def ca_hash(self) -> str:
        """SHA-256 of what /cacerts answers, as it stands in full tokens."""
        return hashlib.sha256(self.ca.encode()).hexdigest()

    @property
    def full_token(self) -> str:
        """The token as the server writes it to its file."""
        return f"K10{self.ca_hash}::server:{self.token}"

    @property
    def voters(self) -> list[Member]:
        """The members with a vote."""
        return [member for member in self.members.values() if member.voter]

    def save(self, folder: Path) -> None:
        """Keep the state in folder/<id>.json (0600)."""
        folder.mkdir(parents=True, exist_ok=True)
        spare = folder / f"{self.id}.new"
        spare.touch(mode=0o600)
        spare.write_text(json.dumps(asdict(self)))
        spare.replace(folder / f"{self.id}.json")


def new_cluster(token: str, agent_token: str, critical: dict[str, str]) -> ClusterState:
    """Make a cluster with fresh authorities and no member."""
    made = {name: Authority(f"rke2-{name}@{secrets.randbelow(10**10)}") for name in AUTHORITIES}
    authorities = {name: (ca.certificate, ca.key) for name, ca in made.items()}
    return ClusterState(secrets.token_hex(8), token, agent_token or token, authorities, critical)


def load_clusters(folder: Path) -> dict[str, ClusterState]:
    """Load what `save` kept."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        fields = json.loads(path.read_text())
        fields["members"] = {name: Member(**member) for name, member in fields["members"].items()}
        fields["authorities"] = {name: (pair[0], pair[1]) for name, pair in fields["authorities"].items()}
        found[path.stem] = ClusterState(**fields)
    return found


def parse_token(token: str) -> tuple[str | None, str]:
    """Split a token into (CA hash or None, secret): `K10<hash>::server:<secret>` or a short one."""
    if token.startswith("K10") and "::" in token:
        hash_part, _, rest = token[3:].partition("::")
        return hash_part, rest.partition(":")[2] or rest
    return None, token


def write_tokens(machine: Disk, state: ClusterState) -> None:
    """Write the token files of a server, as each start does."""
    for name, text in (
        ("token", state.full_token),
        ("node-token", state.full_token),
        ("agent-token", f"K10{state.ca_hash}::node:{state.agent_token}"),
    ):
        machine.write(f"{SERVER}/{name}", text + "\n", 0o600)


def write_server_files(machine: Disk, state: ClusterState, member: Member) -> None:
    """Write what a server that is new in a cluster has on its disk: its member's data and its folders."""
    machine.write(f"{SERVER}/db/etcd/config", f"name: {member.name}-{member.id}\ndata-dir: {SERVER}/db/etcd\n", 0o600)
    machine.write(MEMBER_FILE, json.dumps({"cluster": state.id, "member": member.id}) + "\n", 0o600)
    machine.path(f"{SERVER}/db/snapshots").mkdir(parents=True, exist_ok=True)
    machine.path(f"{SERVER}/manifests").mkdir(parents=True, exist_ok=True)


def write_kubeconfig(machine: Disk, state: ClusterState, config: dict[str, object]) -> None:
    """Write /etc/rancher/rke2/rke2.yaml with the administrator's certificate as it lies on this server."""
    certificate, key = (machine.read(f"{SERVER}/tls/client-admin.{ending}") for ending in ("crt", "key"))
    if not certificate:
        certificate, key = state.authority("client-ca").issue("system:admin", organization="system:masters")

    def encode(text: str) -> str:
        return b64encode(text.encode()).decode()

    machine.write(
        "/etc/rancher/rke2/rke2.yaml",
        "apiVersion: v1\nclusters:\n- cluster:\n"
        f"    certificate-authority-data: {encode(state.ca)}\n    server: https://127.0.0.1:6443\n  name: default\n"
        "contexts:\n- context:\n    cluster: default\n    user: default\n  name: default\ncurrent-context: default\n"
        "kind: Config\npreferences: {}\nusers:\n- name: default\n  user:\n"
        f"    client-certificate-data: {encode(certificate)}\n    client-key-data: {encode(key)}\n",
        int(str(config.get("write-kubeconfig-mode") or "0600"), 8),
    )
