"""Helm in memory for the tests of tasks: releases kept as storage Secrets of the fake cluster, as the real one does."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from stackwright.domain.errors import StackError
from tests.fakes.kube import FakeKube


def storage_secret(name: str, ns: str, status: str = "deployed", revision: int = 1, **labels: str) -> dict[str, Any]:
    """Return the Secret in which Helm keeps one revision. Label keys of ours are given with `__` for `/` and `.`."""
    ours = {key.replace("__", "/").replace("stackwright_io", "stackwright.io"): value for key, value in labels.items()}
    own = {"owner": "helm", "name": name, "status": status, "version": str(revision), "modifiedAt": "1700000000"}
    meta = {"name": f"sh.helm.release.v1.{name}.v{revision}", "namespace": ns, "labels": {**own, **ours}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "helm.sh/release.v1"}


class FakeHelm:
    """Writes release Secrets into the fake cluster, then lets `on_install` add what the chart would bring up.

    `fail` maps a release's name to errors raised, one each, by its next upgrades; the release is then left failed.
    """

    def __init__(self, kube: FakeKube, folder: Path, on_install: Callable[[Any], None] | None = None) -> None:
        self.kube = kube
        self.folder = folder
        self.on_install = on_install or (lambda want: None)
        self.fail: dict[str, list[StackError]] = {}
        self.crds: dict[str, list[dict[str, Any]]] = {}
        self.wants: dict[str, Any] = {}
        self.logins: list[tuple[str, str]] = []
        self.journal: list[str] = []

    def registry_login(self, host, user, password):
        self.logins.append((host, user))

    def pull(self, chart, version, repo=None):
        name = chart.rsplit("/", 1)[-1]
        path = self.folder / f"{name}-{version}.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for index, crd in enumerate(self.crds.get(name, [])):
                data = yaml.safe_dump(crd).encode()
                info = tarfile.TarInfo(f"{name}/charts/sub/crds/{index}.yaml")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    def upgrade_install(self, want):
        self.journal.append(f"apply {want.namespace}/{want.name} {want.version}")
        self.wants[want.name] = want
        errors = self.fail.get(want.name, [])
        status = "failed" if errors else "deployed"
        self._store(want, status)
        if errors:
            raise errors.pop(0)
        self.on_install(want)

    def rollback(self, name, ns, revision=0, *, timeout_s=300):
        self.journal.append(f"rollback {ns}/{name}")

    def uninstall(self, name, ns, *, hooks=True, timeout_s=300):
        self.journal.append(f"uninstall {ns}/{name}")
        for item in self.kube.list("v1", "Secret", ns, label_selector=f"owner=helm,name={name}"):
            self.kube.objects.pop(("v1", "Secret", ns, item["metadata"]["name"]))

    def _store(self, want, status):
        revisions = self.kube.list("v1", "Secret", want.namespace, label_selector=f"owner=helm,name={want.name}")
        if status == "deployed":
            for item in revisions:
                if item["metadata"]["labels"]["status"] == "deployed":
                    item["metadata"]["labels"]["status"] = "superseded"
                    self.kube.put(item)
        secret = storage_secret(want.name, want.namespace, status, len(revisions) + 1)
        secret["metadata"]["labels"] |= want.all_labels()
        self.kube.put(secret)
