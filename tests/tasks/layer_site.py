"""A site for the tests of the layers' tasks: fake cluster and helm, secrets in a dictionary, a clock that is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.domain.errors import FencedError
from stackwright.domain.layers import BY_NAME
from stackwright.domain.spec import StackSpec
from tests.domain.layers.sites import lab_document
from tests.fakes.helm import FakeHelm
from tests.fakes.kube import FakeKube, conditions, ready

GIVEN = {
    ("cluster-access", "cluster-access"): {"kubeconfig": "x"},
    ("registry", "lab-registry"): {"username": "lab", "password": "planted-lab"},
    ("registry", "clearml-registry"): {"username": "allegroaienterprise", "password": "planted-clearml"},
    ("s3", "backup-store"): {"access_key": "planted-access", "secret_key": "planted-secret"},
    ("secret-text", "observability-license"): {"value": "planted-licence"},
    ("certificate", "site-ca"): {"certificate": "CERT", "private_key": "planted-key"},
}


class DictSecrets:
    """Blocks in a dictionary; `order` tells in which order they were made."""

    def __init__(self, blocks: dict[tuple[str, str], dict[str, str]]) -> None:
        self.blocks = {key: dict(fields) for key, fields in blocks.items()}
        self.made: list[str] = []

    def read(self, kind, name):
        fields = self.blocks.get((kind, name))
        return None if fields is None else {key: SecretStr(value) for key, value in fields.items()}

    def write(self, kind, name, fields):
        self.made.append(name)
        self.blocks[(kind, name)] = {key: value.get_secret_value() for key, value in fields.items()}

    def remove(self, kind, name):
        self.blocks.pop((kind, name), None)

    def names(self, kind):
        return tuple(sorted(name for of, name in self.blocks if of == kind))


class StepClock:
    """Time that only waiting moves."""

    def __init__(self) -> None:
        self.at = 1_780_000_000.0
        self.waits = 0

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.waits += 1
        self.at += seconds


class FakeLease:
    """A lease that is lost after `lives` checks."""

    number = 1

    def __init__(self, lives: int = 1_000_000) -> None:
        self.lives = lives

    def check(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise FencedError("another run has taken over", where="lab")


class FakeSite:
    """A site whose helm brings up the workloads that the layer's gates ask for."""

    def __init__(self, folder: Path, blocks: dict[tuple[str, str], dict[str, str]] | None = None, **over: Any) -> None:
        from stackwright.domain.values import deep_merge

        ca = folder / "ca.pem"
        ca.write_text("CERT")
        document = deep_merge(
            lab_document(), {"backup": {"ca_file": str(ca)}, "ingress": {"ca_file": None}, "rke2": {"poll_s": 60}}
        )
        self.spec = StackSpec.model_validate(deep_merge(document, over))
        self.kube = FakeKube(*(node(item.name) for item in self.spec.nodes))
        self.helm = FakeHelm(self.kube, folder, self.bring_up)
        self.secrets = DictSecrets({**GIVEN, **(blocks or {})})
        self.clock = StepClock()
        self.lease = FakeLease()
        self.site = Site(
            spec=self.spec,
            secrets=self.secrets,
            shells=None,
            kube=lambda: self.kube,
            helm=lambda: self.helm,
            clearml=None,
            workdir=folder,
            clock=self.clock,
        )

    def bring_up(self, want) -> None:
        """Put what the release's own controllers would make, as far as the gates of the small layers ask for it."""
        workloads = {
            "cert-manager": [
                ("Deployment", name) for name in ("cert-manager", "cert-manager-webhook", "cert-manager-cainjector")
            ],
            "metallb": [("Deployment", "metallb-controller"), ("DaemonSet", "metallb-speaker")],
            "gpu-operator": [("Deployment", "gpu-operator")],
            "rancher-backup": [("Deployment", "rancher-backup")],
        }
        for kind, name in workloads.get(want.name, []):
            self.kube.put(ready(kind, name, want.namespace))
        if want.name == "rancher-backup":
            meta = {"name": "rancher-resource-set-full"}
            self.kube.put({"apiVersion": "resources.cattle.io/v1", "kind": "ResourceSet", "metadata": meta})
        if want.name == "gpu-operator":
            policy = {"apiVersion": "nvidia.com/v1", "kind": "ClusterPolicy", "metadata": {"name": "cluster-policy"}}
            self.kube.put({**policy, "status": {"state": "ready"}})
            for item in self.spec.gpu_nodes:
                self.kube.put(node(item.name, {"nvidia.com/gpu": "2"}))

    def settle(self) -> None:
        """Let the issuers become ready, as cert-manager's controller would."""
        for key, obj in self.kube.objects.items():
            if key[1] == "ClusterIssuer":
                obj["status"] = {"conditions": conditions(Ready=True)}

    def steps(self, name: str):
        """Return the steps that an approved plan would hold for a layer."""
        from stackwright.domain.layers.planning import plan_layer
        from tasks.layers import read_facts

        layer = BY_NAME[name]
        return plan_layer(self.spec, layer, read_facts(self.site, [layer])).steps


def node(name: str, allocatable: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a ready node."""
    status = {"conditions": conditions(Ready=True), "allocatable": allocatable or {}}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {}}, "spec": {}, "status": status}
