"""Hosts that a newcomer calls his own: containers with systemd and OpenSSH, else OpenSSH servers in private roots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROLES = {"s1": ["server"], "s2": ["server"], "s3": ["server"], "w1": ["worker"], "w2": ["worker"], "w3": ["worker"]}
VERSION = "v1.34.10+rke2r1"
NAME = "newcomer"
KUBE_NAME = "k8s.newcomer.test"


@dataclass(frozen=True)
class Own:
    """Some hosts: what they are, how one logs in, and where their names lead."""

    kind: str
    addresses: dict[str, str]
    port: int
    user: str
    private_key: str
    balancer: str
    artifacts: str


@contextmanager
def own_hosts(folder: Path) -> Iterator[Own]:
    """Switch hosts on for the time of the block. What containers lack is said; then OpenSSH servers must do."""
    from tests.rung.engine import CannotRunError

    with ExitStack() as stack:
        try:
            found = stack.enter_context(_containers(folder))
        except CannotRunError as error:
            print(f"no containers ({error}): OpenSSH servers of this machine instead", flush=True)
            found = stack.enter_context(_servers(folder))
        yield found


@contextmanager
def _containers(folder: Path) -> Iterator[Own]:
    from stackwright.lab.rke2.release import build_release
    from tests.rung import engine, image
    from tests.rung.hosts import Hosts, python_program

    if missing := engine.missing_programs():
        raise engine.CannotRunError(f"not installed: {', '.join(missing)}")
    with engine.running():
        hosts = Hosts(image.ensure_image(), folder / "hosts")
        try:
            hosts.add(*ROLES)
            hosts.use("s1", "s2", "s3")
            release = build_release(folder / "artifacts", VERSION, python_program())
            addresses = {name: hosts[name].address for name in ROLES}
            yield Own("containers", addresses, 22, "ops", hosts.private_key, hosts.balancer_address, str(release))
        finally:
            hosts.stop()


@contextmanager
def _servers(folder: Path) -> Iterator[Own]:
    from benchmarks.farm.hosts import PORT, Farm
    from stackwright.domain.node_wants import sysctls
    from stackwright.domain.spec import StackSpec

    if os.geteuid() != 0:
        raise SystemExit("OpenSSH servers in roots of their own need root")
    spec = StackSpec.model_validate(
        site_file(Own("openssh", dict.fromkeys(ROLES, "192.0.2.1"), 22, "root", "", "192.0.2.2", ""), {})
    )
    with Farm(folder / "farm", len(ROLES), tuple(sysctls(spec))) as farm:
        addresses = {name: farm.address(index) for index, name in enumerate(ROLES)}
        yield Own("openssh", addresses, PORT, "root", farm.key.read_text(), farm.address(0), "")


def site_file(own: Own, host_keys: dict[str, str]) -> dict[str, Any]:
    """Return what the newcomer writes into his first site file."""
    artifacts = (
        {"source": "folder", "folder": own.artifacts} if own.artifacts else {"url": "https://files.newcomer.test/rke2"}
    )
    return {
        "site": NAME,
        # Containers have addresses as machines have; loopback addresses are a lab's alone.
        "environment": "lab" if own.kind == "openssh" else "production",
        "nodes": [
            {"name": name, "address": own.addresses[name], "port": own.port, "roles": roles,
             **({"host_key": host_keys[name]} if name in host_keys else {})}
            for name, roles in ROLES.items()
        ],
        "ssh": {"user": own.user, "key_block": "ssh", **({} if host_keys else {"host_keys": "accept-new"})},
        "registration": {
            "kind": "scc", "code_block": "suse-registration", "products": ["sle-module-basesystem/15.7/x86_64"],
        },
        "time": {"servers": ["ntp.newcomer.test"]},
        "dns": {"hosts": {KUBE_NAME: own.balancer}},
        "rke2": {
            "version": VERSION, "registration_address": KUBE_NAME, "tls_san": [KUBE_NAME, own.balancer],
            "profile": "none", "artifacts": artifacts,
        },
        "ingress": {"domain": "newcomer.test"},
        "clearml": {"base_domain": "ml.newcomer.test"},
        "layers": {name: {"enabled": False} for name in LAYERS},
        "validation": {"workload": False},
    }  # fmt: skip


LAYERS = (
    "cert_manager", "metallb", "rancher", "rancher_backup", "storage", "security", "registry", "observability",
    "gpu_operator", "suse_ai", "clearml",
)  # fmt: skip
