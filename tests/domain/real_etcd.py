"""A real etcd process with mutual TLS in a test's folder, and the product's own script run against it."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from stackwright.domain.etcd import GATEWAY_PORTS, etcd_script
from stackwright.lab.net import Authority
from stackwright.lab.server import free_port

INSTALLED = shutil.which("etcd")


class RealEtcd:
    """One member. `data` is laid out as RKE2's data folder: server/tls/etcd and server/db/etcd."""

    def __init__(self, folder: Path, name: str = "s1-0badcafe") -> None:
        self.data = folder / "rke2"
        self.client, self.peer, self.metrics = free_port(), free_port(), free_port()
        tls = self.data / "server" / "tls" / "etcd"
        tls.mkdir(parents=True)
        authority = Authority("etcd-server-ca")
        server, client = authority.issue("etcd-server", ["127.0.0.1"]), authority.issue("etcd-client")
        for file, text in (
            ("server-ca.crt", authority.certificate),
            ("server.crt", server[0]),
            ("server.key", server[1]),
            ("server-client.crt", client[0]),
            ("server-client.key", client[1]),
        ):
            (tls / file).write_text(text)
        peer = f"http://127.0.0.1:{self.peer}"
        self._argv = [
            str(INSTALLED), "--name", name, "--data-dir", str(self.data / "server" / "db" / "etcd"),
            "--listen-client-urls", f"https://127.0.0.1:{self.client}",
            "--advertise-client-urls", f"https://127.0.0.1:{self.client}",
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"{name}={peer}", "--listen-metrics-urls", f"http://127.0.0.1:{self.metrics}",
            "--client-cert-auth", "--trusted-ca-file", str(tls / "server-ca.crt"),
            "--cert-file", str(tls / "server.crt"), "--key-file", str(tls / "server.key"),
        ]  # fmt: skip
        self._tls = tls
        self._log = folder / "etcd.log"

    @contextmanager
    def running(self):
        """Run it for as long as the block lasts."""
        with self._log.open("w") as log:
            process = subprocess.Popen(self._argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 60
            while "health true" not in self.ask():
                assert process.poll() is None and time.monotonic() < deadline, self._log.read_text()[-2000:]
            yield self
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()

    def ask(self, unit: str = "active") -> str:
        """Return what the product's script prints; this machine has no rke2-server, so its state is given."""
        script = f"u={unit}\n" + etcd_script(str(self.data), "127.0.0.1")
        script = script.replace(GATEWAY_PORTS, str(self.client)).replace(":2381/", f":{self.metrics}/")
        done = subprocess.run(["sh", "-c", f"(\n{script}\n)"], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def post(self, path: str, body: str) -> None:
        """Change something by the gateway, as etcdctl would."""
        pair = ["--cert", str(self._tls / "server-client.crt"), "--key", str(self._tls / "server-client.key")]
        url = f"https://127.0.0.1:{self.client}/v3/{path}"
        argv = ["curl", "--silent", "--fail", "--max-time", "10", "--cacert", str(self._tls / "server-ca.crt"), *pair]
        subprocess.run([*argv, "--data", body, url], check=True, capture_output=True)
