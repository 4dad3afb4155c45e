"""A site on a small lab, for the tests of node and RKE2 tasks: real SSH, real scripts, stand-in machines."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.clients.ssh import SshShells
from stackwright.domain.cluster import node_status
from stackwright.domain.errors import ApiUnavailableError
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import deep_merge

VERSION = "v1.34.10+rke2r1"


class MemorySecrets:
    """Blocks in a dictionary."""

    def __init__(self, kept=None):
        self.kept = dict(kept or {})

    def read(self, kind, name):
        return self.kept.get((kind, name))

    def write(self, kind, name, fields):
        self.kept[kind, name] = dict(fields)

    def remove(self, kind, name):
        self.kept.pop((kind, name), None)

    def names(self, kind):
        return tuple(sorted(name for of, name in self.kept if of == kind))

    def text(self, kind, name, key="value"):
        return self.kept[kind, name][key].get_secret_value()


class DirectKube:
    """The lab's objects without HTTP: these tests are about nodes, not about the API's wire."""

    def __init__(self, api):
        self._api = api

    def get(self, api_version, kind, name, ns=None):
        return self._api.get(kind, ns or "", name)

    def list(self, api_version, kind, ns=None, *, label_selector="", field_selector=""):
        assert not (label_selector or field_selector), "not emulated here"
        return [obj for obj in self._api.objects(kind) if ns in (None, obj["metadata"].get("namespace", ""))]

    def nodes(self):
        return [node_status(obj) for obj in self._api.objects("Node")]

    def patch_merge(self, api_version, kind, name, patch, ns=None, *, subresource=""):
        self._api.put(deep_merge(self._api.get(kind, ns or "", name), patch))


def spec_of(lab, *, roles, profile="cis", **changes):
    """Return the spec of a small lab: `roles` maps machine names to their roles."""
    balancer = lab.net.address(2)
    data = {
        "site": "small",
        "environment": "lab",
        "nodes": [
            {
                "name": name,
                "address": lab.nodes[name].spec.address,
                "port": lab.nodes[name].spec.ssh_port,
                "roles": list(what),
                "host_key": lab.nodes.host_keys[name],
                **({"gpu": {"count": 2}} if "gpu" in what else {}),
            }
            for name, what in roles.items()
        ],
        "ssh": {"connect_timeout_s": 5},
        "registration": {
            "kind": "scc",
            "code_block": "suse-registration",
            "products": ["sle-module-basesystem/15.7/x86_64"],
        },
        "time": {"servers": ["ntp.lab.test"]},
        "dns": {"hosts": {"k8s.lab.test": balancer}},
        "rke2": {
            "version": VERSION,
            "registration_address": "k8s.lab.test",
            "tls_san": ["k8s.lab.test", balancer],
            "profile": profile,
            "artifacts": {"url": f"https://{balancer}:8444/rke2", "ca_file": str(lab.net.ca_file)},
            "registries": {
                "mirrors": {"docker.io": [f"https://{balancer}:5000"]},
                "credentials": {f"{balancer}:5000": "lab-registry"},
                "ca_file": str(lab.net.ca_file),
                "disable_default_endpoint": True,
            },
            "poll_s": 0.05,
            "join_timeout_s": 60,
        },
        "ingress": {"domain": "lab.test"},
        "clearml": {"base_domain": "ml.lab.test"},
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = data
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return StackSpec.model_validate(data)


def site_of(lab, spec: StackSpec, workdir: Path, secrets: MemorySecrets | None = None) -> Site:
    """Return the site with a real SSH client, and secrets in memory."""
    secrets = secrets or MemorySecrets(
        {
            ("registration", "suse-registration"): {"code": SecretStr("LAB-PLANTED-REGCODE")},
            ("registry", "lab-registry"): {"username": SecretStr("lab"), "password": SecretStr("planted-registry")},
        }
    )

    def kube():
        block = secrets.read("cluster-access", spec.rke2.kubeconfig_block)
        if block is None:
            raise ApiUnavailableError("there is no cluster yet", where="block")
        return DirectKube(lab.api)

    def none(*_):
        raise AssertionError("not part of these tests")

    key = SecretStr((lab.folder / "key").read_text())
    shells = SshShells(spec.ssh, key, workdir / "known_hosts")
    return Site(spec, secrets, shells, kube, none, none, workdir, resolve=spec.dns.hosts)
