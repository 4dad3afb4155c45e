"""`rke2 server --cluster-reset`: a cluster of one member, from this server's data or from a snapshot file.

The order and the words are those of k3s pkg/cluster/managed.go, pkg/etcd/etcd.go and pkg/cli/server/server.go. The
identity comes out of the data with the token. In the foreground; etcd runs only for as long as it is looked into.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from stackwright.lab.host import etcdpod
from stackwright.lab.host.disk import HostDisk, say
from stackwright.lab.host.identity import BOOTSTRAP, TLS, unseal, write_identity
from stackwright.lab.host.pods import StaticPods
from stackwright.lab.host.server import node_name
from stackwright.lab.host.store import REGISTRY
from stackwright.lab.host.supervisor import PORT
from stackwright.lab.rke2.config import FatalError, as_list
from stackwright.lab.rke2.state import SERVER, ClusterState, parse_token
from stackwright.lab.rke2.versions import minor_of

FLAG = etcdpod.RESET_FLAG
DONE = (
    "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. "
    "Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes."
)
ALREADY = (
    "Managed etcd cluster membership was previously reset, please remove the cluster-reset flag and start rke2 "
    "normally. If you need to perform another cluster reset, you must first manually delete the {flag} file"
)
JOINS = "cannot perform cluster-reset while server URL is set - remove server from configuration before resetting"
PREPARING = "starting kubernetes: preparing server: "
CLIENT, PEER = "http://127.0.0.1:2399", "http://127.0.0.1:2400"
"""Where etcd listens while it is looked into; nobody else knows of it."""
START_S = 60.0


def wants_reset(words: Sequence[str]) -> bool:
    """Tell whether the command line asks for a reset."""
    return any(word == "--cluster-reset" or word == "--cluster-reset=true" for word in words)


def run(disk: HostDisk, version: str, config: dict[str, Any], words: Sequence[str]) -> None:
    """Reset the cluster. Raises FatalError."""
    flags = _flags(words)
    path, token = flags.get("cluster-reset-restore-path", ""), flags.get("token", "") or str(config.get("token") or "")
    if config.get("server"):
        raise FatalError(JOINS)
    with _supervisor_port():
        if not path and disk.path(FLAG).exists():
            raise FatalError(PREPARING + "start managed database: " + ALREADY.format(flag=FLAG))
        node = node_name(disk, config)
        StaticPods(disk, node).kill()  # since 1.25 pods that outlived their unit are ended first
        if path:
            with _snapshot(disk, path) as file:
                name = _restore(disk, node, file)
        elif etcdpod.has_data(disk):
            name = _new_name(disk, node)
        else:
            raise FatalError(PREPARING + "there is no etcd data to reset")
        disk.write(FLAG, "", 0o600)
        state = _look_into(disk, version, name, token, config)
        _take_identity(disk, state)
    say("info", DONE)


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Return the flags by name. Raises FatalError for one that a reset does not take."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        name, equals, value = rest.pop(0).removeprefix("--").partition("=")
        if name not in ("cluster-reset", "cluster-reset-restore-path", "token", "etcd-s3"):
            raise FatalError(f"flag provided but not defined: -{name}")
        if not equals and name not in ("cluster-reset", "etcd-s3"):
            value = rest.pop(0) if rest else ""
        found[name] = value or "true"
    return found


@contextlib.contextmanager
def _supervisor_port() -> Iterator[None]:
    """Hold the supervisor's port, as the real one does before it touches any data. Raises FatalError."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("0.0.0.0", PORT))
            listener.listen()
        except OSError as error:
            text = f"init cluster datastore and https: listen tcp :{PORT}: bind: address already in use"
            raise FatalError(PREPARING + text) from error
        yield


@contextlib.contextmanager
def _snapshot(disk: HostDisk, path: str) -> Iterator[Path]:
    """Give the snapshot's file, unpacked where it is compressed. Raises FatalError."""
    file = disk.path(path)
    if file.is_dir():
        raise FatalError(PREPARING + f"etcd: snapshot path must be a file, not a directory: {path}")
    if not file.exists():
        raise FatalError(PREPARING + f"etcd: snapshot path does not exist: {path}")
    if file.suffix != ".zip":
        yield file
        return
    folder = disk.path(f"{SERVER}/db/unpacked-{secrets.token_hex(4)}")
    try:
        with zipfile.ZipFile(file) as archive:
            yield Path(archive.extract(archive.namelist()[0], folder))
    except (zipfile.BadZipFile, IndexError) as error:
        raise FatalError(PREPARING + f"zip: not a valid zip file: {path}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _restore(disk: HostDisk, node: str, file: Path) -> str:
    """Put the snapshot in the place of the data, which is moved away; return the member's name."""
    data = disk.path(etcdpod.FOLDER)
    if data.exists():
        old = data.with_name(f"etcd-old-{int(time.time())}")
        try:
            data.rename(old)
        except OSError as error:  # the last reset was in this very second: its old data lie there
            raise FatalError(PREPARING + f"rename {data} {old}: {error.strerror}") from error
        say("info", f"Pre-restore etcd database moved to {old}")
    data.parent.mkdir(parents=True, exist_ok=True)
    name, peer = f"{node}-{secrets.token_hex(4)}", f"https://{disk.spec.address}:2380"
    done = subprocess.run(
        ["etcdctl", "snapshot", "restore", str(file), f"--data-dir={data}", f"--name={name}",
         f"--initial-cluster={name}={peer}", f"--initial-advertise-peer-urls={peer}"],
        capture_output=True, text=True, check=False, timeout=600, env=_env(),
    )  # fmt: skip
    if done.returncode != 0:
        raise FatalError(PREPARING + f"start managed database: {done.stderr.strip().splitlines()[-1]}")
    return _name_it(disk, name)


def _new_name(disk: HostDisk, node: str) -> str:
    return _name_it(disk, f"{node}-{secrets.token_hex(4)}")


def _name_it(disk: HostDisk, name: str) -> str:
    """Note the member's name, and that it is the only one, where the server looks when it starts."""
    peer = f"https://{disk.spec.address}:2380"
    disk.write(etcdpod.NAME, name + "\n", 0o600)
    first = {"initial-cluster": f"{name}={peer}", "initial-cluster-state": "new"}
    disk.write(etcdpod.CONFIG, yaml.safe_dump(first, sort_keys=False), 0o600)
    disk.path(etcdpod.FOLDER).chmod(0o700)
    return name


def _look_into(disk: HostDisk, version: str, name: str, token: str, config: dict[str, Any]) -> ClusterState:
    """Run etcd as a cluster of one, and return the identity that its data hold. Raises FatalError."""
    peer = f"https://{disk.spec.address}:2380"
    extra = [f"--{str(text).removeprefix('--')}" for text in as_list(config.get("etcd-arg"))]
    argv = [
        "etcd", f"--data-dir={disk.path(etcdpod.FOLDER)}", f"--name={name}", "--force-new-cluster",
        f"--listen-client-urls={CLIENT}", f"--advertise-client-urls={CLIENT}", f"--listen-peer-urls={PEER}",
        f"--initial-cluster={name}={peer}", f"--initial-advertise-peer-urls={peer}", *extra,
    ]  # fmt: skip
    log = disk.path("/var/log/rke2-reset-etcd.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=_env())
        try:
            say("info", "Starting etcd for new cluster, cluster-reset=true")
            _wait_for(process, log)
            _correct_peer(peer)
            _check_release(version)
            say("info", "Reconciling bootstrap data between datastore and disk")
            return _identity_inside(disk, token)
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            _etcdctl("endpoint", "health")
            return
        except FatalError as error:
            if process.poll() is not None:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise FatalError(f"etcd ended: {last}") from error
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _correct_peer(peer: str) -> None:
    """Give the one member this server's address: forced into being, it goes by etcd's default one."""
    for row in json.loads(_etcdctl("member", "list"))["members"]:
        if row["peerURLs"] != [peer]:
            _etcdctl("member", "update", f"{int(row['ID']):x}", f"--peer-urls={peer}")


def _check_release(version: str) -> None:
    """Refuse data of a newer minor release. Real etcd does so by its own version; Debian's is always the same."""
    newest = max((minor_of(text) for text in _kubelet_versions()), default=0)
    if newest > minor_of(version):
        raise FatalError("invalid downgrade; server version is lower than determined cluster version")


def _kubelet_versions() -> list[str]:
    return [json.loads(text)["status"]["nodeInfo"]["kubeletVersion"] for _, text in _rows(f"{REGISTRY}-/nodes/")]


def _identity_inside(disk: HostDisk, token: str) -> ClusterState:
    """Return the identity that the token opens: the one given, else the one on disk. Raises FatalError."""
    word = parse_token(token or disk.read(f"{SERVER}/token").strip())[1]
    sealed = _rows(BOOTSTRAP)
    if not sealed:
        raise FatalError("the datastore holds no bootstrap data")
    last: FatalError | None = None
    for _, text in sealed:
        try:
            return unseal(text, word)
        except FatalError as error:
            last = error
    raise last or FatalError("the datastore holds no bootstrap data")


def _take_identity(disk: HostDisk, state: ClusterState) -> None:
    """Write the identity to the disk; what was there is kept beside it."""
    tls = disk.path(TLS)
    if tls.exists():
        spare = f"{TLS}-{int(time.time())}"
        say("info", f"Cluster reset: backing up certificates directory to {spare}")
        shutil.copytree(tls, disk.path(spare), dirs_exist_ok=True)
    say("warning", "Updating bootstrap data on disk from datastore")
    write_identity(disk, state)


def _rows(prefix: str) -> list[tuple[str, str]]:
    found = json.loads(_etcdctl("get", "--prefix", prefix)).get("kvs", ())
    return [(base64.b64decode(row["key"]).decode(), base64.b64decode(row["value"]).decode()) for row in found]


def _etcdctl(*words: str) -> str:
    argv = ["etcdctl", f"--endpoints={CLIENT}", "--write-out=json", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=_env())
    if done.returncode != 0:
        raise FatalError(f"failed to test data store connection: {done.stderr.strip()[-300:]}")
    return done.stdout


def _env() -> dict[str, str]:
    return {"ETCDCTL_API": "3", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
