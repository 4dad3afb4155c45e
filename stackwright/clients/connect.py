"""Bundling a site's clients from its spec and its secrets. Nothing is connected here."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.clearml import Clearml, ClearmlClient
from stackwright.clients.helm import Helm, HelmClient
from stackwright.clients.kube import Kube, KubeClient
from stackwright.clients.secrets import Secrets, need
from stackwright.clients.site import Site
from stackwright.clients.ssh import SshShells
from stackwright.domain.errors import ApiUnavailableError, ToolError
from stackwright.domain.spec import StackSpec


def connect(spec: StackSpec, secrets: Secrets, workdir: Path) -> Site:
    """Return the site's clients. Raises SecretMissingError when the SSH key's block is missing."""
    key = need(secrets, "ssh-key", spec.ssh.key_block)
    shells = SshShells(spec.ssh, key["private_key"], workdir / "known_hosts", key.get("passphrase"))
    cluster = _Cluster(spec, secrets, workdir)
    return Site(
        spec=spec,
        secrets=secrets,
        shells=shells,
        kube=cluster.kube,
        helm=cluster.helm,
        clearml=lambda access_key, secret_key: clearml_client(spec, access_key, secret_key),
        workdir=workdir,
        resolve=spec.dns.hosts,
    )


def clearml_client(spec: StackSpec, access_key: str, secret_key: SecretStr) -> Clearml:
    """Return a ClearML client that speaks as the given identity."""
    return ClearmlClient(
        spec.url("api", spec.clearml.base_domain),
        access_key,
        secret_key,
        spec.ingress.ca_file,
        {name: (address, 0) for name, address in spec.dns.hosts.items()},
    )


def tool(name: str) -> str:
    """Return the path of helm or kubectl: in STACKWRIGHT_TOOLS, else on PATH. Raises ToolError where there is none."""
    folder = os.environ.get("STACKWRIGHT_TOOLS")
    if folder and (Path(folder) / name).is_file():
        return str(Path(folder) / name)
    found = shutil.which(name)
    if found is None:
        remedy = f"Install {name}, or set STACKWRIGHT_TOOLS."
        raise ToolError(f"{name} is not installed", where=folder or "PATH", remedy=remedy)
    return found


class _Cluster:
    """The clients that need the cluster's kubeconfig, made once it is there and shared by all threads."""

    def __init__(self, spec: StackSpec, secrets: Secrets, workdir: Path) -> None:
        self._spec, self._secrets, self._workdir = spec, secrets, workdir
        self._kube: tuple[str, Kube] | None = None
        self._helm: tuple[str, Helm] | None = None
        self._lock = threading.Lock()

    def kube(self) -> KubeClient:
        """Return the client of the cluster. Raises ApiUnavailableError before the first server is up."""
        text = self._kubeconfig()
        with self._lock:
            if self._kube is None or self._kube[0] != text:
                self._kube = (text, Kube(text, resolve=self._spec.dns.hosts))
            return self._kube[1]

    def helm(self) -> HelmClient:
        """Return helm for the cluster; the kubeconfig it reads is a file of mode 0600 in the site's own folder."""
        text = self._kubeconfig()
        with self._lock:
            if self._helm is None or self._helm[0] != text:
                path = self._workdir / "kubeconfig"
                path.touch(mode=0o600)
                path.chmod(0o600)
                path.write_text(text, encoding="utf-8")
                ca_file = Path(self._spec.charts.ca_file) if self._spec.charts.ca_file else None
                self._helm = (text, Helm(tool("helm"), path, self._workdir, ca_file))
            return self._helm[1]

    def _kubeconfig(self) -> str:
        block = self._secrets.read("cluster-access", self._spec.rke2.kubeconfig_block)
        if block is None:
            raise ApiUnavailableError(
                "there is no cluster yet",
                where=f"block cluster-access/{self._spec.rke2.kubeconfig_block}",
                remedy="Deploy the site first: the block is written when the first server is up.",
            )
        return block["kubeconfig"].get_secret_value()
