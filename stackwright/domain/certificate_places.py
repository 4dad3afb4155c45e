"""Where certificates lie beside RKE2's own files: Ingresses, webhooks, API services, a kubeconfig, addresses. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from stackwright.domain.spec import StackSpec

Obj = Mapping[str, Any]
SUPERVISOR_PORT = 9345
BUNDLE_KINDS = (
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"),
    ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
    ("apiregistration.k8s.io/v1", "APIService"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
)


@dataclass(frozen=True)
class Address:
    """One address that serves TLS. `name` is what the client asks for, `owner` whose it is."""

    owner: str
    host: str
    port: int
    name: str

    @property
    def place(self) -> str:
        return f"{self.name}:{self.port}" if self.name == self.host else f"{self.name}:{self.port} at {self.host}"


def ingress_secrets(ingresses: Iterable[Obj]) -> dict[tuple[str, str], list[str]]:
    """Return the TLS Secrets that Ingresses name, as (namespace, name), with their hosts."""
    found: dict[tuple[str, str], list[str]] = {}
    for ingress in ingresses:
        for tls in (ingress.get("spec") or {}).get("tls") or ():
            if tls.get("secretName"):
                key = (ingress["metadata"].get("namespace", ""), tls["secretName"])
                found.setdefault(key, []).extend(tls.get("hosts") or ())
    return found


def ingress_hosts(ingresses: Iterable[Obj]) -> list[str]:
    """Return the host names that Ingresses serve, sorted; a wildcard is no name that can be asked for."""
    names: set[str] = set()
    for ingress in ingresses:
        spec = ingress.get("spec") or {}
        names |= {rule.get("host", "") for rule in spec.get("rules") or ()}
        names |= {host for tls in spec.get("tls") or () for host in tls.get("hosts") or ()}
    return sorted(name for name in names if name and "*" not in name)


def bundles(obj: Obj) -> Iterator[tuple[str, str]]:
    """Yield (place, base64) of every CA bundle in a webhook configuration, an APIService or a CRD.

    One without a bundle is not named: it trusts the system, or checks nothing, or is part of the API server.
    """
    kind, name, spec = obj["kind"], obj["metadata"]["name"], obj.get("spec") or {}
    for webhook in obj.get("webhooks") or ():
        data = (webhook.get("clientConfig") or {}).get("caBundle")
        if data:
            yield f"{kind}/{name} {webhook.get('name', '')}", data
    conversion = ((spec.get("conversion") or {}).get("webhook") or {}).get("clientConfig") or {}
    for data in (spec.get("caBundle"), conversion.get("caBundle")):
        if data:
            yield f"{kind}/{name}", data


def decode(data: str) -> str | None:
    """Return what base64 holds as text, None where it is no base64 or no text."""
    try:
        return base64.b64decode(data, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None


def kubeconfig_pems(text: str) -> dict[str, str | None]:
    """Return the certificates of a kubeconfig by their key, None for one that cannot be decoded; never its key."""
    try:
        content = yaml.safe_load(text)
        users = [entry["user"].get("client-certificate-data") for entry in content["users"]]
        clusters = [entry["cluster"].get("certificate-authority-data") for entry in content["clusters"]]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {"client-certificate-data": None}
    found = {"client-certificate-data": decode(users[0]) if users and users[0] else None}
    return found | ({"certificate-authority-data": decode(clusters[0])} if clusters and clusters[0] else {})


def served_addresses(spec: StackSpec, hosts: Iterable[str], resolve: Mapping[str, str]) -> list[Address]:
    """Return everything that must answer with a certificate: the platform's names, the API and each supervisor."""
    name = spec.rke2.registration_address
    found = [Address("platform", resolve.get(host, host), spec.ingress.https_port, host) for host in hosts]
    found.append(Address("cluster", resolve.get(name, name), spec.rke2.api_port, name))
    for node in spec.servers:
        found.append(Address(node.name, node.address, SUPERVISOR_PORT, node.address))
        found.append(Address(node.name, node.address, spec.rke2.api_port, node.address))
    return found
