"""A site for the tests of bundles: a real etcd of this machine, a real store by S3, the rest in memory and in a folder.

Scripts run by this machine's sh, with the server's folders moved to the test's own; `rke2 etcd-snapshot save` is the
real etcdctl. Whatever is planted as a secret holds the word `planted`.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.sealing import new_identity
from stackwright.clients.site import Site
from stackwright.domain.bundle_checks import ENCRYPTION_CONFIG
from stackwright.domain.errors import NodeUnreachableError
from stackwright.domain.shell import Section, StepOutcome
from stackwright.domain.snapshots import API_VERSION, FOLDER, KIND, TOKEN_HASH
from stackwright.domain.token_archive import token_hash
from stackwright.lab.net import Authority
from tests.domain.nodes_seen import make_spec
from tests.domain.real_etcd import RealEtcd
from tests.fakes.kube import FakeKube, conditions
from tests.fakes.shells import LocalShell
from tests.store_server import ACCESS, SECRET, StoreServer
from tests.tasks.layer_site import DictSecrets

TOKEN = f"K10{'ab' * 32}::server:planted-server-secret"
AGENT_TOKEN = f"K10{'ab' * 32}::node:planted-agent-secret"
REGISTRIES = "configs: {r: {auth: {password: planted-registry-password}}}\n"
ENCRYPTION = '{"kind": "EncryptionConfiguration", "secret": "planted-encryption-key"}'
PLANTED = "planted-content-of-a-secret"
TOPS = ("/etc/rancher", "/etc/default", "/var/lib/rancher")


class EtcdKube(FakeKube):
    """A cluster in memory whose ConfigMaps are also in the etcd, where snapshots are taken of them."""

    def __init__(self, etcd: RealEtcd, *objects) -> None:
        super().__init__(*objects)
        self._etcd = etcd

    def apply(self, obj, *, field_manager="stackwright", force=False):
        done = super().apply(obj, field_manager=field_manager, force=force)
        if obj["kind"] == "ConfigMap":
            meta = obj["metadata"]
            put(self._etcd, f"/registry/configmaps/{meta['namespace']}/{meta['name']}", json.dumps(obj))
        return done


def put(etcd: RealEtcd, key: str, value: str) -> None:
    """Write a key."""
    encode = lambda text: base64.b64encode(text.encode()).decode()  # noqa: E731 - two short words
    etcd.post("kv/put", json.dumps({"key": encode(key), "value": encode(value)}))


@dataclass
class Disk:
    """One server's files in the test's folder."""

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name.lstrip("/")

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)


@dataclass
class BundleShells:
    """The servers. `lies` lets the next save say that it worked and leave an empty file; `cut` ends fetches early."""

    site: BundleSite
    lies: bool = False
    stale: bool = False
    cut_at: int | None = None
    sent: list[str] = field(default_factory=list)
    saves: int = 0

    @contextmanager
    def open(self, node):
        yield _Shell(self, node.name, self.site.disks[node.name])


class _Shell(LocalShell):
    """One server. Scripts run here; the real etcd answers for the server's own, and takes its snapshots."""

    def __init__(self, owner: BundleShells, name: str, disk: Disk) -> None:
        disk.folder.mkdir(exist_ok=True)
        super().__init__(name, disk.folder)
        self.owner, self.disk = owner, disk

    def read(self, script, timeout_s=60.0):
        if "maintenance/status" in script:
            return {"etcd": Section(0, self.owner.site.etcd.ask())}
        found = super().read(script, timeout_s)
        return {name: Section(part.rc, part.out.replace(str(self.disk.folder), "")) for name, part in found.items()}

    def apply(self, batch, timeout_s=None):
        acts = {"save": self._save, "local": self._prune}
        [act] = {acts.get(command.id.rpartition("/")[2]) for command in batch.commands}
        self.owner.sent += [command.id for command in batch.commands]
        if act is None:
            return super().apply(batch, timeout_s)
        return [StepOutcome(command.id, 0, act()) for command in batch.commands]

    def _run(self, script):
        for top in TOPS:
            script = script.replace(top, f"{self.disk.folder}{top}")
        return super()._run(script)

    def _prune(self) -> str:
        for path in sorted(self.disk.path(FOLDER).glob("stackwright-backup-*"), reverse=True)[3:]:
            path.unlink()
        return ""

    def _save(self) -> str:
        site, owner = self.owner.site, self.owner
        owner.saves += 1
        name = f"stackwright-backup-{self.name}-{int(time.time()) + owner.saves}"
        path = self.disk.path(f"{FOLDER}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if owner.stale and owner.saves > 1:
            path.write_bytes(next(path.parent.glob("*")).read_bytes())
        elif owner.lies:
            path.write_bytes(b"")
        else:
            site.save(path)
        site.kube.put(record(self.name, name, path.stat().st_size))
        return f'level=info msg="Snapshot {name} saved."\n'

    @contextmanager
    def fetch(self, path):
        with self.disk.path(path).open("rb") as file:
            yield _Cut(file, self.owner.cut_at) if self.owner.cut_at is not None else file


class _Cut:
    """A stream whose link is lost after so many bytes."""

    def __init__(self, file, left: int) -> None:
        self._file, self._left = file, left

    def read(self, size=-1):
        if self._left <= 0:
            raise NodeUnreachableError("the node was lost", where="s1")
        data = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data


def record(node: str, name: str, size: int) -> dict:
    """Return the cluster's record of a snapshot."""
    made = int(name.rpartition("-")[2])
    return {
        "apiVersion": API_VERSION, "kind": KIND,
        "metadata": {"name": f"local-{name}", "annotations": {TOKEN_HASH: token_hash(TOKEN)}},
        "spec": {"snapshotName": name, "nodeName": node, "location": f"file://{FOLDER}/{name}"},
        "status": {
            "readyToUse": True, "size": str(size),
            "creationTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made)),
        },
    }  # fmt: skip


def server_node(name: str, *, voter: bool = True) -> dict:
    """Return a server's Node."""
    meta = {
        "name": name, "uid": f"uid-{name}",
        "labels": {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"},
        "annotations": {"rke2.io/encryption-config-hash": "start-0123"},
    }  # fmt: skip
    status = {
        "conditions": conditions(Ready=True, EtcdIsVoter=voter), "nodeInfo": {"kubeletVersion": "v1.34.10+rke2r1"},
        "addresses": [{"type": "InternalIP", "address": "192.0.2.11"}],
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": status}


class TurnedClock:
    """The machine's time, and what the test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def wait(self, seconds: float) -> None:
        self.ahead += seconds


class BundleSite:
    """Everything around a bundle: etcd, servers, cluster, stores, blocks."""

    def __init__(self, folder: Path, etcd: RealEtcd, first: StoreServer, second: StoreServer | None = None) -> None:
        self.etcd, self.first, self.second = etcd, first, second
        self.disks = {name: Disk(folder / name) for name in ("s1", "s2", "s3")}
        self.shells = BundleShells(self)
        system = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": "uid-cluster"}}
        self.kube = EtcdKube(etcd, system, *(server_node(name) for name in self.disks))
        self.identity = new_identity()
        blocks = {
            ("s3", "backup-store"): {"access_key": ACCESS, "secret_key": SECRET},
            ("s3", "backup-second"): {"access_key": ACCESS, "secret_key": SECRET},
            ("secret-text", "backup-key"): {"value": self.identity.get_secret_value()},
            ("secret-text", "rke2-token"): {"value": TOKEN},
        }
        backup = first.settings().model_dump()
        if second is not None:
            # moto keeps one set of buckets for all its servers in a process: another folder tells them apart.
            backup["second"] = second.settings(credentials_block="backup-second", folder="two").model_dump()
        self.clock, self.secrets = TurnedClock(), DictSecrets(blocks)
        self.site = Site(
            make_spec(backup=backup),
            self.secrets,
            self.shells,
            lambda: self.kube,
            None,
            None,
            folder / "work",
            self.clock,
        )
        self.node = self.site.spec.servers[0]
        self._set_up()

    def _set_up(self) -> None:
        certificate, key = Authority("server-ca").issue("kube-apiserver", ["127.0.0.1"])
        for disk in self.disks.values():
            disk.write("/etc/rancher/rke2/config.yaml", "tls-san: [k8s.example.com]\n")
            disk.write("/etc/rancher/rke2/registries.yaml", REGISTRIES)
            disk.write(ENCRYPTION_CONFIG, ENCRYPTION)
            disk.write("/var/lib/rancher/rke2/server/token", TOKEN + "\n")
            disk.write("/var/lib/rancher/rke2/server/agent-token", AGENT_TOKEN + "\n")
            disk.write("/var/lib/rancher/rke2/server/tls/serving-kube-apiserver.crt", certificate)
            disk.write("/var/lib/rancher/rke2/server/tls/serving-kube-apiserver.key", key)

    def save(self, path: Path) -> None:
        """Take a real snapshot."""
        tls = self.etcd.data / "server" / "tls" / "etcd"
        files = {"cacert": "server-ca.crt", "cert": "server-client.crt", "key": "server-client.key"}
        argv = ["etcdctl", f"--endpoints=https://127.0.0.1:{self.etcd.client}"]
        argv += [f"--{flag}={tls / name}" for flag, name in files.items()]
        env = {"ETCDCTL_API": "3", "PATH": os.environ["PATH"]}
        subprocess.run([*argv, "snapshot", "save", str(path)], check=True, capture_output=True, env=env)

    def block(self, kind: str, name: str, **fields: str) -> None:
        """Write a block."""
        self.secrets.write(kind, name, {key: SecretStr(value) for key, value in fields.items()})
