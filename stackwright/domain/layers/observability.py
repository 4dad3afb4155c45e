"""SUSE Observability and its agent on the same cluster. Guide: 5.6 (monitoring), 5.5 (logging)."""

from __future__ import annotations

from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.gates import Gate, HttpGate, WorkloadsGate
from stackwright.domain.layers.model import (
    Chart,
    GeneratedField,
    GeneratedSecret,
    LayerDef,
    ObjectSpec,
    ReleaseSpec,
    version_of,
)
from stackwright.domain.layers.shared import (
    CONTAINERD_SOCKET,
    CONTROL_PLANE_TAINTS,
    STORAGE_CLASS,
    certificate_needs,
    ingress_class,
    service_url,
    text_secret,
    tls_objects,
    tolerations,
)
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import secret
from stackwright.domain.versions import DEFAULTS

NAMESPACE = "suse-observability"
HOME = "https://charts.rancher.com/server-charts/prime/suse-observability"
CHART = Chart("suse-observability", HOME)
AGENT_CHART = Chart("suse-observability-agent", HOME)
TLS_SECRET = "observability-tls"  # noqa: S105  a name
ADMIN_BLOCK = "observability-admin"
RECEIVER_BLOCK = "observability-receiver"
SETTINGS_STORE_BLOCK = "observability-settings-store"
ROUTER_PORT = 8080
PROFILES = ("trial", "10-nonha", "20-nonha", "50-nonha", "100-nonha", "150-ha", "250-ha", "500-ha", "4000-ha")


def host(spec: StackSpec) -> str:
    return f"observability.{spec.ingress.domain}"


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    version = version_of(spec, "observability")
    agent_version = DEFAULTS["observability.agent"]
    return (
        ReleaseSpec("suse-observability", NAMESPACE, CHART, "observability", version, _values(spec)),
        ReleaseSpec(
            "suse-observability-agent",
            NAMESPACE,
            AGENT_CHART,
            "observability.agent",
            agent_version,
            _agent(spec),
            main=False,
        ),
    )


def _values(spec: StackSpec) -> dict[str, Any]:
    layer = spec.layers.observability
    tls = [{"hosts": [host(spec)], "secretName": TLS_SECRET}]
    store = {
        "accessKey": secret(SETTINGS_STORE_BLOCK, "access_key"),
        "secretKey": secret(SETTINGS_STORE_BLOCK, "secret_key"),
    }
    return {
        "global": {
            "imageRegistry": "registry.rancher.com",  # the chart asks for it beside the block below
            "storageClass": STORAGE_CLASS,
            "s3proxy": {"credentials": store},  # the chart's own default is a published password
            "suseObservability": {
                "license": secret(layer.license_block),
                "baseUrl": spec.url("observability"),
                "sizing": {"profile": layer.profile},
                "adminPassword": secret(ADMIN_BLOCK),
                "receiverApiKey": secret(RECEIVER_BLOCK),
            },
        },
        "ingress": {
            "enabled": True,
            "ingressClassName": ingress_class(spec),
            "hosts": [{"host": host(spec)}],
            "tls": tls,
        },
    }


def _agent(spec: StackSpec) -> dict[str, Any]:
    everywhere = tolerations(spec, *CONTROL_PLANE_TAINTS)
    router = service_url(spec, "suse-observability-router", NAMESPACE, ROUTER_PORT)
    return {
        "stackstate": {
            "apiKey": secret(RECEIVER_BLOCK),
            "cluster": {"name": spec.site},
            "url": f"{router}/receiver/stsAgent",  # inside the cluster: no certificate to distrust
        },
        "nodeAgent": {
            "containerRuntime": {"customSocketPath": CONTAINERD_SOCKET},
            "skipKubeletTLSVerify": True,  # RKE2's kubelet certificates name no address that the agent dials
            "tolerations": everywhere,
        },
    }


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """Privileged: Elasticsearch's init container sets a sysctl, the agent's probes look into the kernel."""
    return namespace_object(NAMESPACE, "privileged"), *tls_objects(spec, NAMESPACE, TLS_SECRET, (host(spec),))


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    return (
        WorkloadsGate(NAMESPACE, "app.kubernetes.io/instance=suse-observability", 3),
        WorkloadsGate(NAMESPACE, "app.kubernetes.io/instance=suse-observability-agent", 2),
        HttpGate(f"{spec.url('observability')}/", status=(200, 302)),
    )


def secrets(spec: StackSpec) -> tuple[GeneratedSecret, ...]:
    receiver = GeneratedSecret("secret-text", RECEIVER_BLOCK, (GeneratedField("value", 32),))
    store = GeneratedSecret(
        "api-key", SETTINGS_STORE_BLOCK, (GeneratedField("access_key", 20, "key"), GeneratedField("secret_key", 40))
    )
    return text_secret(ADMIN_BLOCK), receiver, store


def check(spec: StackSpec) -> list[Problem]:
    profile = spec.layers.observability.profile
    if profile in PROFILES:
        return []
    what = "this sizing profile does not exist"
    return [
        Problem(
            "layers.observability.profile", what, "Choose one of the vendor's profiles.", ", ".join(PROFILES), profile
        )
    ]


LAYER = LayerDef(
    name="observability",
    title="SUSE Observability",
    guide="5.6",
    releases=releases,
    before_objects=before,
    gates=gates,
    needs=("storage",),
    needs_for=certificate_needs,
    secrets=secrets,
    check=check,
    rollback_ok=False,
    data_at_risk=True,
)
