"""Hosts of the rung: containers that run systemd and OpenSSH, on a Docker network of their own, an address each."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
import paramiko
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from stackwright.lab.rke2.supervisor import Balancer
from stackwright.lab.secrets_made import ssh_key_pair
from tests.rung.engine import ROOT, CannotRunError

testcontainers_config.ryuk_disabled = True  # its image cannot be pulled; `Hosts.stop` cleans up
LABEL = "stackwright-rung"
NETWORKS = [f"10.{second}.{third}" for second in (213, 214) for third in range(0, 250, 5)]
BOOT_S = 60.0
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()  # cgroup v2: systemd needs its own part writable
MEMORY_NEED = 2 << 30
SETTINGS = {"speed": 5.0, "learner_s": 5.0, "stalled_s": 12.0, "election_ms": 2500, "lost_s": 60.0}


def wait(look: Callable[[], Any], what: str, timeout_s: float = 90.0, errors: tuple[type[Exception], ...] = ()) -> Any:
    """Look until something true is seen, and return it. These errors, and those of a host that is away, pass."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = look()
        except (docker.errors.APIError, OSError, paramiko.SSHException, *errors) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}; last seen: {last}")


@dataclass
class Host:
    """One host. `sh` runs a command in it past SSH, for the test's own looks."""

    name: str
    address: str
    container: Any
    owner: DockerContainer
    host_key: str = ""

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run shell text as root; return its output."""
        code, output = self.container.exec_run(["sh", "-c", script])
        text = output.decode(errors="replace")
        assert not check or code == 0, f"{self.name}: {script!r} ended with {code}: {text}"
        return text

    def kill(self) -> None:
        """Cut the power."""
        self.container.kill()

    def start(self) -> None:
        """Switch it on again, after `kill`."""
        self.container.start()

    def reboot(self) -> None:
        """Boot again, as an operator would who presses the button."""
        self.container.restart(timeout=5)

    def journal(self, unit: str, lines: int = 200) -> str:
        """Return the end of a unit's journal."""
        return self.sh(f"journalctl -u {unit} -n {lines} -o cat --no-pager -q", check=False)


@dataclass
class Hosts:
    """All hosts of one test run, their network, and the load balancer of the registration address."""

    image: str
    folder: Path
    hosts: dict[str, Host] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = docker.from_env(timeout=120)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.private_key, public = ssh_key_pair()
        (self.folder / "authorized_keys").write_text(public + "\n")
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_NEED
        self._memory = memory / f"{LABEL}-{os.getpid()}" if roomy else self.folder / "data"
        self.network, self.prefix = self._make_network()
        self._fenced: tuple[Any, str] | None = None
        self.balancer_address = f"{self.prefix}.1"
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._balancer = Balancer(self.balancer_address, lambda port: [host.address for host in self._backends()])
        self._call(self._balancer.start((6443, 9345)))
        self.backends: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def _backends(self) -> list[Host]:
        return [self.hosts[name] for name in self.backends if name in self.hosts]

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _make_network(self, *, internal: bool = False) -> tuple[Any, str]:
        """Make a network with addresses of our choice, the first that is free. An `internal` one leads nowhere else."""
        for prefix in NETWORKS:
            pool = docker.types.IPAMPool(subnet=f"{prefix}.0/24", gateway=f"{prefix}.1")
            try:
                made = self.client.networks.create(
                    f"{LABEL}-{os.getpid()}-{prefix}", ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                    labels={LABEL: str(os.getpid())}, internal=internal,
                )  # fmt: skip
            except docker.errors.APIError as error:
                if "overlap" in str(error):
                    continue
                raise
            return made, prefix
        raise CannotRunError("no network is free for the hosts")

    def add(self, *names: str) -> None:
        """Switch new hosts on, all at once, and wait until they answer."""
        for name in names:
            self._start(name)
        for name in names:
            self._wait_for_boot(self.hosts[name])

    def add_fenced(self, name: str) -> None:
        """Switch on a host on a network of its own: this machine reaches it, and it reaches no other host."""
        if self._fenced is None:
            self._fenced = self._make_network(internal=True)
        self._start(name, *self._fenced)
        self._wait_for_boot(self.hosts[name])
        # The bridge leads to this machine, and the balancer listens at its other address: let the way out lead nowhere.
        self.hosts[name].sh(f"ip route replace default via {self._fenced[1]}.254")

    def _start(self, name: str, network: Any = None, prefix: str = "") -> None:
        network = network or self.network
        address = f"{prefix or self.prefix}.{10 + self._count}"
        etc = self.folder / name
        etc.mkdir(exist_ok=True)
        (etc / "settings.json").write_text(json.dumps({"address": address, **SETTINGS}))
        container = (
            DockerContainer(self.image)
            .with_name(f"{LABEL}-{os.getpid()}-{name}-{address}")
            .with_kwargs(
                hostname=name, cap_add=["ALL"], cap_drop=["SYS_RESOURCE"], security_opt=["seccomp=unconfined"],
                restart_policy={"Name": "always"}, **({"cgroupns": "host"} if UNIFIED else {}),
                network=network.name, labels={LABEL: str(os.getpid())},
                networking_config={network.name: self._endpoint(address)},
            )
            .with_tmpfs_mount("/run", "size=256m,mode=755,exec")
            .with_tmpfs_mount("/tmp", "size=256m,exec")
            .with_env("container", "docker")
            .with_volume_mapping("/sys/fs/cgroup", "/sys/fs/cgroup", "rw" if UNIFIED else "ro")
            .with_volume_mapping(str(etc), "/etc/stand-in", "ro")
            .with_volume_mapping(str(self._data_of(name)), "/var/lib/rancher", "rw")
        )  # fmt: skip
        for source, target in _program_mounts():
            container.with_volume_mapping(source, target, "ro")
        container.start()
        self._count += 1
        self.hosts[name] = Host(name, address, container.get_wrapped_container(), container)

    def _data_of(self, name: str) -> Path:
        """Return the folder of a host's RKE2 data: in memory, where there is room. A disk that eight tests share is no
        disk that etcd could keep its promises on; what is written there outlives the host's boots as on any disk."""
        folder = self._memory / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _endpoint(self, address: str) -> Any:
        return docker.types.EndpointConfig(self.client.api._version, ipv4_address=address)

    def _wait_for_boot(self, host: Host) -> None:
        wait(lambda: "active" in host.sh("systemctl is-active ssh", check=False).split(), f"{host.name} boots", BOOT_S)
        keys = (self.folder / "authorized_keys").read_text().strip()
        host.sh(
            f"for h in /root /home/ops; do printf '%s\\n' '{keys}' >$h/.ssh/authorized_keys; done; "
            "chown -R ops: /home/ops/.ssh; rm -f /run/nologin"
        )
        host.host_key = " ".join(host.sh("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[:2])

    def use(self, *names: str) -> None:
        """Let the load balancer lead to these servers, and new connections alone: those that are open are broken."""
        self.backends = names
        for host in self.hosts.values():
            self._loop.call_soon_threadsafe(self._balancer.drop, host.address)

    def unplug(self, name: str) -> None:
        """Cut a host off the network."""
        self.network.disconnect(self.hosts[name].container)
        self._loop.call_soon_threadsafe(self._balancer.drop, self.hosts[name].address)

    def plug(self, name: str) -> None:
        """Bring it back, with its address."""
        self.network.connect(self.hosts[name].container, ipv4_address=self.hosts[name].address)

    def drop(self, name: str) -> None:
        """Take a host away for good, disk and all."""
        self.hosts.pop(name).owner.stop()

    def stop(self) -> None:
        """Take everything away that this run made."""
        self._call(self._balancer.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for host in self.hosts.values():
            host.owner.stop()
        shutil.rmtree(self._memory, ignore_errors=True)
        self.network.remove()
        if self._fenced is not None:
            self._fenced[0].remove()
        self.client.close()


def _program_mounts() -> list[tuple[str, str]]:
    """Return what the stand-in's program needs on a host: the project, its packages, and a python that fits them."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    place = "/usr/lib/stand-in"
    return [(str(ROOT), f"{place}/project"), (packages, f"{place}/site-packages"), *_python(place)]


def _python(place: str) -> list[tuple[str, str]]:
    """Return what names the python on a host: Debian's own, or the mounted one where this is another release."""
    program = python_program()
    if program.is_relative_to("/usr/bin"):
        home, library, mounts = "/usr", "", []
    else:
        home, library, mounts = (
            f"{place}/python-home",
            f"{place}/python-home/lib",
            [(sys.base_prefix, f"{place}/python-home")],
        )
    told = ROOT / "build/rung/python.env"
    told.parent.mkdir(parents=True, exist_ok=True)
    told.write_text(f"PYTHON={home}/bin/{program.name}\nPYTHONHOME={home}\nLD_LIBRARY_PATH={library}\n")
    return [*mounts, (str(told), f"{place}/python.env")]


def python_program() -> Path:
    """Return the python that the stand-in runs with: this Debian's where its release is ours, else our own."""
    release = f"python{sys.version_info.major}.{sys.version_info.minor}"
    debian = Path("/usr/bin") / release  # the image is of this machine's Debian release
    return debian if debian.exists() else Path(sys.base_prefix) / "bin" / release
