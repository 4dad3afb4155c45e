"""A snapshot's way into the bundle store, against a plain upload of the same file. Prints one JSON line.

`python -m benchmarks.bundle [--mib 1024] [--runs 1]`. The store is a process of its own over TLS that sums up every
body and keeps none (discarding_store.py): moto, which the tests use, keeps all in memory and would be all that is
measured. Plain is boto3's `upload_fileobj` of the file as it lies on disk, with the library's own settings. Ours
reads the file, seals it with age, sends it in parts and has its length confirmed; the third figure has OpenSSH's
server and our client in front, as for a real bundle. Each upload is a process of its own; its peak memory is counted
above what it holds once everything is imported and connected. All of them share this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import boto3
from botocore.config import Config
from pydantic import SecretStr

from stackwright.clients.sealing import new_identity, recipient_of, sealed
from stackwright.clients.ssh import SshShells
from stackwright.clients.store import S3Store
from stackwright.domain.spec import BackupStore, Node, Ssh
from stackwright.lab.net import Authority
from stackwright.lab.secrets_made import ssh_key_pair
from stackwright.lab.server import free_port

MIB = 1 << 20
BLOCK, EVERY = 1 * MIB, 4 * MIB  # of random bytes among zeros: nothing on the way compresses
SSHD = "/usr/sbin/sshd"
WAYS = ("plain", "ours", "ours_ssh")
KEY = "AKIABENCH"
TARGET_RATIO, LIMIT_MIB = 0.7, 200.0


# --- one upload, in a process of its own ------------------------------------------------------------------------------


def upload(way: str, place: Mapping[str, Any]) -> dict[str, float]:
    """Upload the file once and return seconds and the peak of memory above its base."""
    with ExitStack() as stack:
        work = _work(way, place, stack)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        base = _status("VmRSS")
        started = time.perf_counter()
        sent = work()
        seconds = time.perf_counter() - started
        assert sent >= place["bytes"]
        return {"seconds": seconds, "peak_mib": (_status("VmHWM") - base) / 1024}


def _work(way: str, place: Mapping[str, Any], stack: ExitStack) -> Callable[[], int]:
    """Return what does the upload; all is connected that can be before."""
    file = Path(place["file"])
    if way == "plain":
        s3 = _plain(place)
        source = stack.enter_context(file.open("rb"))

        def plain() -> int:
            s3.upload_fileobj(source, place["bucket"], "plain")
            return int(s3.head_object(Bucket=place["bucket"], Key="plain")["ContentLength"])

        return plain
    settings = BackupStore(endpoint=place["url"], bucket=place["bucket"], ca_file=place["ca_file"])
    store = S3Store(settings, SecretStr(KEY), SecretStr("bench"), {})
    recipients = [recipient_of(new_identity())]
    if way == "ours":
        stream = stack.enter_context(file.open("rb"))
    else:
        ssh = Ssh(user="root", host_keys="accept-new")
        shells = SshShells(ssh, SecretStr(Path(place["ssh_key"]).read_text()), Path(place["ssh_key"]).parent / "known")
        node = Node(name="n1", address="127.0.0.1", port=place["ssh_port"], roles=("server",))
        stream = stack.enter_context(stack.enter_context(shells.open(node)).fetch(str(file)))
    store.list("")

    def ours() -> int:
        with sealed(stream, recipients) as ciphertext:
            return store.put(way, ciphertext)

    return ours


def _plain(place: Mapping[str, Any]) -> Any:
    return boto3.client(
        "s3", endpoint_url=place["url"], region_name="us-east-1", aws_access_key_id=KEY,
        aws_secret_access_key="bench", verify=place["ca_file"],  # noqa: S106  there is none
        config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip


def _status(field: str) -> int:
    """Return a field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


# --- the ground -------------------------------------------------------------------------------------------------------


def make_file(path: Path, mib: int) -> int:
    """Make a file that is mostly a hole, with random blocks; return its length, which is no whole number of parts."""
    size = mib * MIB + 4096 + 32
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, mib * MIB, EVERY):
            file.seek(offset)
            file.write(os.urandom(BLOCK))
    return size


@contextmanager
def running_store(folder: Path) -> Iterator[dict[str, Any]]:
    """Run the discarding store over TLS."""
    authority = Authority("bench-ca")
    certificate, key = authority.issue("store", ["127.0.0.1"])
    for name, text in (("ca.pem", authority.certificate), ("store.pem", certificate), ("store.key", key)):
        (folder / name).write_text(text)
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.discarding_store", str(port)]
    with _process([*argv, str(folder / "store.pem"), str(folder / "store.key")], port):
        yield {"url": f"https://127.0.0.1:{port}", "ca_file": str(folder / "ca.pem"), "bucket": "bundles"}


@contextmanager
def running_sshd(folder: Path) -> Iterator[dict[str, Any]]:
    """Run OpenSSH's server; an empty answer where it cannot be had (not installed, or we are not root)."""
    if not Path(SSHD).exists() or os.geteuid() != 0:
        yield {}
        return
    for name in ("host_key", "login_key"):
        private, public = ssh_key_pair()
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(private)
        (folder / f"{name}.pub").write_text(public + "\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    port = free_port()
    options = {
        "HostKey": folder / "host_key", "AuthorizedKeysFile": folder / "login_key.pub", "StrictModes": "no",
        "PidFile": "none", "ListenAddress": "127.0.0.1", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    argv = [SSHD, "-D", "-e", "-f", "/dev/null", "-p", str(port)]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    with _process(argv, port):
        yield {"ssh_key": str(folder / "login_key"), "ssh_port": port}


@contextmanager
def _process(argv: list[str], port: int) -> Iterator[None]:
    """Run a server until the end; wait until it listens."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, f"{argv[0]} does not listen"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


# --- the figures ------------------------------------------------------------------------------------------------------


def measure(mib: int, runs: int) -> dict[str, Any]:
    """Return the figures of `runs` uploads each way, taken in turns."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-bundle-")))
        place = {"file": str(folder / "snapshot"), "bytes": make_file(folder / "snapshot", mib)}
        place |= stack.enter_context(running_store(folder)) | stack.enter_context(running_sshd(folder))
        ways = [way for way in WAYS if way != "ours_ssh" or "ssh_key" in place]
        for _ in range(runs):
            for way in ways:
                argv = [sys.executable, "-m", "benchmarks.bundle", "--way", way, "--place", json.dumps(place)]
                done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
                found[way].append(json.loads(done.stdout))
                _plain(place).delete_object(Bucket=place["bucket"], Key=way)
    return _figures(mib, found)


def _figures(mib: int, found: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    rates = {way: mib / mean(run["seconds"] for run in runs) for way, runs in found.items() if runs}
    peaks = {way: max(run["peak_mib"] for run in runs) for way, runs in found.items() if runs}
    ours = max(peak for way, peak in peaks.items() if way != "plain")
    return {
        "benchmark": "bundle", "mib": mib, "runs": len(found["plain"]), "store": "discarding stand-in over TLS",
        **{f"{way}_mib_s": round(rate, 1) for way, rate in rates.items()},
        "ratio": round(rates["ours"] / rates["plain"], 2),
        "ratio_ssh": round(rates["ours_ssh"] / rates["plain"], 2) if "ours_ssh" in rates else None,
        **{f"{way}_peak_mib": round(peak, 1) for way, peak in peaks.items()},
        "target_ratio": TARGET_RATIO, "limit_mib": LIMIT_MIB,
        "ok": rates["ours"] / rates["plain"] >= TARGET_RATIO and ours < LIMIT_MIB,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(upload(asked.way, asked.place)))
        return
    figures = measure(asked.mib, asked.runs)
    print(json.dumps(figures))
    sys.exit(0 if figures["ok"] else 1)


if __name__ == "__main__":
    main()
