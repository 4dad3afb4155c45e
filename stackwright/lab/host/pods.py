"""Static pods as processes: they outlive RKE2's own process and are replaced only when their manifest changes.

The uid of a pod is the hash of its manifest, as with the real kubelet. What runs in each is said by its manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stackwright.lab.host.disk import HostDisk
from stackwright.lab.rke2.state import DATA, STATIC_PODS

MANIFESTS = f"{DATA}/agent/pod-manifests"
RUN = "/run/k3s/stand-in"
END_S = 10.0
LAUNCH = 'echo $$ >"$0" && exec "$@"'


def manifest(name: str, version: str, command: Sequence[str], files: str) -> dict[str, Any]:
    """Return a static pod's manifest. `files` is a hash of what its files hold: with them the pod changes too."""
    image = "hardened-etcd" if name == "etcd" else "hardened-kubernetes"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"component": name, "tier": "control-plane"}},
        "spec": {
            "containers": [
                {
                    "name": name,
                    "image": f"index.docker.io/rancher/{image}:{version.replace('+', '-')}",
                    "command": list(command),
                    "env": [{"name": "FILE_HASH", "value": files}],
                }
            ],
            "hostNetwork": True,
            "priorityClassName": "system-cluster-critical",
        },
    }


def hash_of(disk: HostDisk, paths: Sequence[str]) -> str:
    """Return one hash over the content of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.encode() + b"\0" + disk.read(path).encode() + b"\0")
    return digest.hexdigest()


class StaticPods:
    """The static pods of this host."""

    def __init__(self, disk: HostDisk, node: str) -> None:
        self._disk, self._node = disk, node

    def write(self, content: dict[str, Any]) -> None:
        """Write a manifest; nothing happens when it is there already."""
        path = f"{MANIFESTS}/{content['metadata']['name']}.yaml"
        text = yaml.safe_dump(content, sort_keys=False)
        if self._disk.read(path) != text:
            self._disk.write(path, text, 0o600)

    def uid(self, name: str) -> str:
        """Return the uid that the manifest gives a pod; empty without a manifest."""
        text = self._disk.read(f"{MANIFESTS}/{name}.yaml")
        return hashlib.md5(f"{self._node} {text}".encode(), usedforsecurity=False).hexdigest() if text else ""

    def content(self, name: str) -> dict[str, Any] | None:
        """Return a pod's manifest, or None."""
        text = self._disk.read(f"{MANIFESTS}/{name}.yaml")
        return dict(yaml.safe_load(text)) if text else None

    def reconcile(self, names: Sequence[str] = STATIC_PODS) -> list[str]:
        """Start what does not run, replace what has another manifest, end what has none; say what was done."""
        done = []
        for name in names:
            running, wanted = self._running(name), self.uid(name)
            if running and running[1] == wanted:
                continue
            if running:
                self._end(running[0])
                done.append(f"stopped {name}")
            if wanted:
                self._start(name, wanted)
                done.append(f"started {name}")
        return done

    def kill(self) -> None:
        """End all pods, as rke2-killall.sh does, and take their manifests away."""
        for name in STATIC_PODS:
            running = self._running(name)
            if running:
                self._end(running[0])
            self._disk.path(f"{MANIFESTS}/{name}.yaml").unlink(missing_ok=True)

    def started_at(self, name: str) -> str:
        """Return since when a pod's process runs; empty when it does not."""
        return str(self._record(name).get("started", "")) if self._running(name) else ""

    def _record(self, name: str) -> dict[str, Any]:
        text = self._disk.read(f"{RUN}/{name}.json")
        return dict(json.loads(text)) if text else {}

    def _running(self, name: str) -> tuple[int, str] | None:
        """Return (process, uid) of a running pod."""
        record = self._record(name)
        pid = int(record.get("pid", 0))
        if not pid or not record.get("birth") or birth_of(pid) != record["birth"]:
            return None
        return pid, str(record["uid"])

    def _start(self, name: str, uid: str) -> None:
        content = self.content(name) or {}
        command = content["spec"]["containers"][0]["command"]
        folder = self._disk.path(f"/var/log/pods/kube-system_{name}-{self._node}_{uid}/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        pid_file = self._disk.path(f"{RUN}/{name}.pid")
        pid_file.parent.mkdir(parents=True, exist_ok=True)
        pid_file.unlink(missing_ok=True)
        with (folder / "0.log").open("ab") as sink:
            # Forked off: systemd is its parent, so it is no child of a program that may end before it.
            subprocess.run(
                ["setsid", "--fork", "sh", "-c", LAUNCH, str(pid_file), *command],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, check=True,
                env={key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"},
            )  # fmt: skip
        pid = _wait_for_pid(pid_file)
        record = {"uid": uid, "pid": pid, "birth": birth_of(pid), "started": int(time.time())}
        self._disk.write(f"{RUN}/{name}.json", json.dumps(record))

    @staticmethod
    def _end(pid: int) -> None:
        birth, deadline = birth_of(pid), time.monotonic() + END_S
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            while birth_of(pid) == birth and time.monotonic() < deadline:
                time.sleep(0.02)
            if birth_of(pid) != birth:
                return
            deadline = time.monotonic() + END_S


def birth_of(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty for none and for one that has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if words[0] in ("Z", "X") else words[19]


def _wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        text = path.read_text().strip() if path.exists() else ""
        if text:
            return int(text)
        time.sleep(0.01)
    raise TimeoutError(f"no process wrote {path}")
