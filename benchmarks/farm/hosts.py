"""The benchmark's hosts: real OpenSSH servers on loopback addresses, each in a root of its own. Needs to be root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from stackwright.domain.node_facts import UNITS

HERE = Path(__file__).parent
PORT = 2222
STUBS = ("systemctl", "rpm", "chronyc", "modprobe", "modinfo", "swapoff", "hostnamectl", "ip", "sysctl")
RUNNING = {"chronyd.service", "firewalld.service", "multipathd.service", "multipathd.socket", "NetworkManager.service"}
PRESENT = RUNNING | {"iscsid.service"}
START_LIMIT_S = 60.0


class Farm:
    """Some hosts below one folder; `reset` makes their disks as they were when fresh."""

    def __init__(
        self, folder: Path, count: int, sysctls: tuple[str, ...], *, sh: str = "", stubs: tuple[str, ...] = STUBS
    ) -> None:
        self.folder, self.count, self.sysctls = folder, count, sysctls
        self.sh, self.stubs = sh, stubs
        self.key = folder / "key"
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def names(self) -> list[str]:
        return [f"host{index:03}" for index in range(self.count)]

    def address(self, index: int) -> str:
        return f"127.66.{index // 200}.{index % 200 + 1}"

    def __enter__(self) -> Farm:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in ("key", "host_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)], check=True
            )
        stubs = self.folder / "stubs"
        for place in ("bin", "sbin"):
            (stubs / place).mkdir(parents=True)
        if self.sh:  # the hosts' sh, where it is not this machine's: SLES's is bash
            (stubs / "bin/sh").symlink_to(self.sh)
        for name in self.stubs:
            for place in ("bin", "sbin"):  # whichever of them this machine has, ours lies over it
                shutil.copy(HERE / "stub.sh", stubs / place / name)
                (stubs / place / name).chmod(0o755)
        self.reset()
        try:
            for index, name in enumerate(self.names):
                self.processes.append(self._start(index, name))
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, index: int, name: str) -> subprocess.Popen[bytes]:
        settings = {
            "BASE": str(self.folder / name),
            "STUBS": str(self.folder / "stubs"),
            "NODE": "localhost",
            "ADDRESS": self.address(index),
            "PORT": str(PORT),
            "PATH": os.environ["PATH"],
        }
        with (self.folder / name / "log").open("wb") as log:
            return subprocess.Popen(
                ["unshare", "--mount", "--uts", "--propagation", "private", "sh", str(HERE / "host.sh")],
                env=settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _wait(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        for index, name in enumerate(self.names):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex((self.address(index), PORT)) == 0:
                        break
                if time.monotonic() > deadline or self.processes[index].poll() is not None:
                    raise RuntimeError(f"{name} did not start: {(self.folder / name / 'log').read_text()[-500:]}")
                time.sleep(0.05)

    def reset(self) -> None:
        """Make every host's disk and kernel settings as they were when fresh. The running servers see it at once."""
        for name in self.names:
            base = self.folder / name
            for part in ("etc", "var", "root", "state"):
                (base / part).mkdir(parents=True, exist_ok=True)
                for path in (base / part).iterdir():
                    # What is bound into the host keeps its place; only its content is made anew.
                    if part != "state":
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._fill(base)
        for process in self.processes:
            subprocess.run(["nsenter", "--uts", "--target", str(process.pid), "hostname", "localhost"], check=True)

    def _fill(self, base: Path) -> None:
        public = (self.folder / "key.pub").read_text()
        host_key = (self.folder / "host_key").read_text()
        files = {
            "etc/os-release": 'ID="sles"\nVERSION_ID="15.7"\nPRETTY_NAME="SUSE Linux Enterprise Server 15 SP7"\n',
            "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n",
            "etc/group": "root:x:0:\nnogroup:x:65534:\n",
            "etc/shadow": "root:*:20000::::::\n",
            "etc/gshadow": "root:*::\n",
            "etc/login.defs": "SYS_UID_MIN 101\nSYS_UID_MAX 499\nSYS_GID_MIN 101\nSYS_GID_MAX 499\n",
            "etc/hosts": "127.0.0.1 localhost\n",
            "etc/hostname": "localhost\n",
            "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
            "etc/resolv.conf": "nameserver 192.0.2.53\n",
            "etc/machine-id": f"{abs(hash(base.name)):032x}"[:32] + "\n",
            "etc/fstab": "/dev/vda2 / btrfs defaults 0 0\n/dev/vda3 swap swap defaults 0 0\n",
            "etc/ssh/host_key": host_key,
            "etc/ssh/sshd_config": "HostKey /etc/ssh/host_key\nUsePAM no\nPidFile none\nUseDNS no\nMaxStartups 100\n"
            "AuthorizedKeysFile /root/.ssh/authorized_keys\nSubsystem sftp internal-sftp\n",
            "root/.ssh/authorized_keys": public,
        }  # fmt: skip
        for folder in ("chrony.d", "modules-load.d", "sysctl.d", "NetworkManager/conf.d", "zypp/repos.d"):
            (base / "etc" / folder).mkdir(parents=True)
        for folder in ("lib/farm", "tmp", "log"):
            (base / "var" / folder).mkdir(parents=True)
        for path, text in files.items():
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            (base / path).write_text(text)
        for path in ("root", "root/.ssh"):
            (base / path).chmod(0o700)
        for path in ("etc/ssh/host_key", "etc/shadow", "root/.ssh/authorized_keys"):
            (base / path).chmod(0o600)
        if Path("/etc/ld.so.cache").exists():
            shutil.copy("/etc/ld.so.cache", base / "etc/ld.so.cache")
        if Path("/etc/alternatives").exists():
            shutil.copytree("/etc/alternatives", base / "etc/alternatives", symlinks=True)
        for unit in sorted(PRESENT & set(UNITS)):
            on = unit in RUNNING
            (base / "var/lib/farm" / unit).write_text(
                f"{'active' if on else 'inactive'} {'enabled' if on else 'disabled'}\n"
            )
        self._fill_state(base / "state")

    def _fill_state(self, state: Path) -> None:
        (state / "swaps").write_text("Filename Type Size Used Priority\n/dev/vda3 partition 2097148 0 -2\n")
        for key in (*self.sysctls, "kernel.random.boot_id"):
            path = state / "sysctl" / key.replace(".", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("0\n")
        (state / "sysctl/kernel/random/boot_id").write_text(f"boot-{state.parent.name}\n")
        (state / "module").mkdir(exist_ok=True)
        for path in (state / "module").iterdir():
            shutil.rmtree(path)

    def outcome(self, paths: tuple[str, ...]) -> dict[str, dict[str, str]]:
        """Return each host's files and settings, to compare what the tools have made."""
        found: dict[str, dict[str, str]] = {}
        for name in self.names:
            base = self.folder / name
            files = {path: (base / path.lstrip("/")).read_text() for path in paths}
            units = {path.name: path.read_text() for path in (base / "var/lib/farm").iterdir()}
            values = {key: (base / "state/sysctl" / key.replace(".", "/")).read_text().strip() for key in self.sysctls}
            modules = {"modules": " ".join(sorted(path.name for path in (base / "state/module").iterdir()))}
            swap = {"swap": str(len((base / "state/swaps").read_text().splitlines()) - 1)}
            user = {"etcd": str("\netcd:" in (base / "etc/passwd").read_text())}
            found[name] = files | units | values | modules | swap | user
        return found
