"""SUSE Rancher Prime. Guide: 5.3. What Rancher installs by itself afterwards (webhook, fleet) is among its gates."""

from __future__ import annotations

from stackwright.domain.layers.gates import Gate, HttpGate, RolloutGate
from stackwright.domain.layers.model import Chart, LayerDef, ObjectSpec, ReleaseSpec, version_of
from stackwright.domain.layers.shared import certificate_needs, ingress_class, secret_object, text_secret, tls_objects
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import secret

NAMESPACE = "cattle-system"
FLEET_NAMESPACE = "cattle-fleet-system"
# Prime customers get the same chart from their own repository: mirror it, or name it in charts.mirror.
CHART = Chart("rancher", "https://releases.rancher.com/server-charts/stable")
TLS_SECRET = "tls-rancher-ingress"  # noqa: S105  the name that the chart looks for
CA_SECRET = "tls-ca"  # noqa: S105  the name that the chart looks for
# Namespaces that Rancher fills by itself; the CIS profile would refuse their pods. Rancher: rancher-psact.yaml.
OWN_NAMESPACES = ("cattle-fleet-system", "cattle-fleet-local-system", "cattle-turtles-system", "cattle-capi-system")


def host(spec: StackSpec) -> str:
    return f"rancher.{spec.ingress.domain}"


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    layer = spec.layers.rancher
    values = {
        "hostname": host(spec),
        "bootstrapPassword": secret(layer.bootstrap_block),
        "replicas": layer.replicas,
        "antiAffinity": "preferred",
        "agentTLSMode": "strict",
        "privateCA": spec.ingress.tls == "private-ca",
        "ingress": {
            "enabled": True,
            "ingressClassName": ingress_class(spec),
            "includeDefaultExtraAnnotations": spec.rke2.ingress_controller == "ingress-nginx",
            "tls": {"source": "secret", "secretName": TLS_SECRET},
        },
        # Slow disks: the default of 12 tries kills the pod during its first database migration.
        "startupProbe": {"failureThreshold": 30},
        # Without a network Rancher must use the charts inside its image instead of cloning them.
        "useBundledSystemChart": spec.charts.mirror is not None,
        "systemDefaultRegistry": spec.rke2.registries.system_default_registry or "",
    }
    return (ReleaseSpec("rancher", NAMESPACE, CHART, "rancher", version_of(spec, "rancher"), values),)


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    spaces = tuple(namespace_object(name, "privileged") for name in (NAMESPACE, *OWN_NAMESPACES))
    trust: tuple[ObjectSpec, ...] = ()
    if spec.ingress.tls == "private-ca" and spec.ingress.ca_block:
        trust = (secret_object(NAMESPACE, CA_SECRET, {"cacerts.pem": secret(spec.ingress.ca_block, "certificate")}),)
    return *spaces, *trust, *tls_objects(spec, NAMESPACE, TLS_SECRET, (host(spec),))


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    return (
        RolloutGate("Deployment", NAMESPACE, "rancher"),
        HttpGate(f"{spec.url('rancher')}/ping", contains="pong"),
        RolloutGate("Deployment", NAMESPACE, "rancher-webhook"),
        RolloutGate("Deployment", FLEET_NAMESPACE, "fleet-controller"),
        RolloutGate("Deployment", FLEET_NAMESPACE, "gitjob"),
    )


LAYER = LayerDef(
    name="rancher",
    title="SUSE Rancher Prime",
    guide="5.3",
    releases=releases,
    before_objects=before,
    gates=gates,
    needs_for=certificate_needs,
    secrets=lambda spec: (text_secret(spec.layers.rancher.bootstrap_block),),
    rollback_ok=False,
    data_at_risk=True,
)
