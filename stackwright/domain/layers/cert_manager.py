"""cert-manager, and the site CA that signs the platform's names. Guide: 5.6 (dependency of SUSE AI), 5.3."""

from __future__ import annotations

from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.gates import ConditionGate, DryRunGate, Gate, RolloutGate
from stackwright.domain.layers.model import Chart, LayerDef, ObjectSpec, ReleaseSpec, version_of
from stackwright.domain.layers.shared import (
    CA_ISSUER,
    CERT_MANAGER_NAMESPACE,
    SELF_SIGNED_ISSUER,
    replicas,
    secret_object,
)
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import secret

NAMESPACE = CERT_MANAGER_NAMESPACE
CHART = Chart("cert-manager", "oci://quay.io/jetstack/charts")
CA_SECRET = "stackwright-site-ca"  # noqa: S105  a name


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    values = {
        "crds": {"enabled": True, "keep": True},
        "replicaCount": replicas(spec, 2),
        "podDisruptionBudget": {"enabled": True},
        "webhook": {"replicaCount": replicas(spec, 3), "podDisruptionBudget": {"enabled": True}},
        "cainjector": {"replicaCount": replicas(spec, 2), "podDisruptionBudget": {"enabled": True}},
    }
    version = version_of(spec, "cert_manager")
    return (ReleaseSpec("cert-manager", NAMESPACE, CHART, "cert_manager", version, values),)


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    space = namespace_object(NAMESPACE)
    if spec.ingress.tls != "private-ca" or spec.ingress.ca_block is None:
        return (space,)
    block = spec.ingress.ca_block
    texts = {"tls.crt": secret(block, "certificate"), "tls.key": secret(block, "private_key")}
    return space, secret_object(NAMESPACE, CA_SECRET, texts, "kubernetes.io/tls")


def after(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """The issuers need the webhook, so they come after the release."""
    issuers: dict[str, dict[str, Any]] = {SELF_SIGNED_ISSUER: {"selfSigned": {}}}
    if spec.ingress.tls == "private-ca":
        issuers[CA_ISSUER] = {"ca": {"secretName": CA_SECRET}}
    return tuple(
        ObjectSpec(
            {"apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer", "metadata": {"name": name}, "spec": body}
        )
        for name, body in issuers.items()
    )


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    probe = {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Issuer",
        "metadata": {"name": "stackwright-probe", "namespace": NAMESPACE},
        "spec": {"selfSigned": {}},
    }
    issuer = CA_ISSUER if spec.ingress.tls == "private-ca" else SELF_SIGNED_ISSUER
    return (
        RolloutGate("Deployment", NAMESPACE, "cert-manager"),
        RolloutGate("Deployment", NAMESPACE, "cert-manager-cainjector"),
        RolloutGate("Deployment", NAMESPACE, "cert-manager-webhook"),
        DryRunGate(probe),
        ConditionGate("cert-manager.io/v1", "ClusterIssuer", "", issuer),
    )


def check(spec: StackSpec) -> list[Problem]:
    if spec.ingress.tls == "private-ca" and spec.ingress.ca_block is None:
        return [
            Problem(
                "ingress.ca_block", "a private CA has no key pair", "Name the block with the CA's certificate and key."
            )
        ]
    if spec.ingress.tls == "secret" and spec.ingress.certificate_block is None:
        remedy = "Name the block with the certificate and key for the platform's names."
        return [Problem("ingress.certificate_block", "tls: secret has no certificate", remedy)]
    return []


LAYER = LayerDef(
    name="cert_manager",
    title="cert-manager",
    guide="5.6",
    releases=releases,
    before_objects=before,
    after_objects=after,
    gates=gates,
    check=check,
)
