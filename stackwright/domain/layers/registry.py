"""SUSE Private Registry (Harbor). Guide: 4.9, 5.7 (container images on the site).

Every secret that the chart would make anew at each rendering is pinned: otherwise each upgrade restarts all pods and
core and job service may disagree.
"""

from __future__ import annotations

from typing import Any

from stackwright.domain.layers.gates import Gate, HttpGate, RolloutGate, WorkloadsGate
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
    SELF_SIGNED_ISSUER,
    STORAGE_CLASS,
    certificate,
    check_chart_access,
    ingress_class,
    pull_names,
    pull_secrets,
    secret_object,
    text_secret,
    tls_objects,
)
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import secret
from stackwright.domain.versions import parse_chart, v

NAMESPACE = "private-registry"
RELEASE = "private-registry"
HOST = "registry.suse.com"
OWN_PATH_SINCE = v("1.2")  # SUSE Private Registry 1.2 release notes
PULL_SECRET = "suse-registry"  # noqa: S105  the name of a Secret, as SUSE's documents call it
TLS_SECRET = "registry-tls"  # noqa: S105  a name
TOKEN_SECRET = "registry-token"  # noqa: S105  a name
ADMIN_SECRET = "registry-admin"  # noqa: S105  a name
DEPLOYMENTS = ("core", "portal", "jobservice", "registry")
PINNED = {"secret-key": 16, "core": 16, "xsrf": 32, "jobservice": 16, "registry": 16, "credentials": 24, "database": 24}


def block(name: str) -> str:
    """Return the name of the block that keeps one pinned secret."""
    return f"registry-internal-{name}"


def chart(spec: StackSpec) -> Chart:
    version = parse_chart(version_of(spec, "registry"))
    folder = f"{version.major}.{version.minor}/" if version and version >= OWN_PATH_SINCE else ""
    return Chart("private-registry-helm", f"oci://{HOST}/private-registry/{folder}".rstrip("/"))


def host(spec: StackSpec) -> str:
    return f"registry.{spec.ingress.domain}"


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    return (ReleaseSpec(RELEASE, NAMESPACE, chart(spec), "registry", version_of(spec, "registry"), _values(spec)),)


def _values(spec: StackSpec) -> dict[str, Any]:
    def claim(size: str) -> dict[str, str]:
        return {"storageClass": STORAGE_CLASS, "accessMode": "ReadWriteOnce", "size": size}

    nginx = spec.rke2.ingress_controller == "ingress-nginx"
    return {
        "imagePullSecrets": pull_names(spec, HOST, PULL_SECRET),
        "externalURL": spec.url("registry"),
        "expose": {
            "type": "ingress",
            "tls": {"enabled": True, "certSource": "secret", "secret": {"secretName": TLS_SECRET}},
            "ingress": {
                "hosts": {"core": host(spec)},
                "className": ingress_class(spec),
                # Layers are large; only nginx has a body limit, and only it reads this.
                "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "0"} if nginx else {},
            },
        },
        "existingSecretAdminPassword": ADMIN_SECRET,
        "existingSecretAdminPasswordKey": "HARBOR_ADMIN_PASSWORD",
        "secretKey": secret(block("secret-key")),
        "core": {"secret": secret(block("core")), "xsrfKey": secret(block("xsrf")), "secretName": TOKEN_SECRET},
        "jobservice": {"secret": secret(block("jobservice"))},
        "registry": {"secret": secret(block("registry")), "credentials": {"password": secret(block("credentials"))}},
        "database": {"type": "internal", "internal": {"password": secret(block("database"))}},
        "updateStrategy": {"type": "Recreate"},  # a rolling update waits for ever for a ReadWriteOnce volume
        "persistence": {
            "enabled": True,
            "resourcePolicy": "keep",
            "persistentVolumeClaim": {
                "registry": claim(f"{spec.layers.registry.size_gib}Gi"),
                "jobservice": {"jobLog": claim("10Gi")},
                "database": claim("20Gi"),
                "trivy": claim("20Gi"),
            },
        },
        "trivy": {
            "enabled": True,
            "skipUpdate": spec.charts.mirror is not None,
            "offlineScan": spec.charts.mirror is not None,
        },
    }


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    password = {"HARBOR_ADMIN_PASSWORD": secret(spec.layers.registry.admin_block)}
    return (
        namespace_object(NAMESPACE),
        *pull_secrets(spec, NAMESPACE, HOST, PULL_SECRET),
        secret_object(NAMESPACE, ADMIN_SECRET, password),
        *tls_objects(spec, NAMESPACE, TLS_SECRET, (host(spec),)),
        certificate(NAMESPACE, TOKEN_SECRET, ("harbor-token-ca",), SELF_SIGNED_ISSUER),
    )


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    return (
        *(RolloutGate("Deployment", NAMESPACE, f"{RELEASE}-harbor-{name}") for name in DEPLOYMENTS),
        WorkloadsGate(NAMESPACE, f"release={RELEASE}", len(DEPLOYMENTS)),
        HttpGate(f"{spec.url('registry')}/api/v2.0/health", healthy=True),
    )


def secrets(spec: StackSpec) -> tuple[GeneratedSecret, ...]:
    pinned = (
        GeneratedSecret("secret-text", block(name), (GeneratedField("value", size),)) for name, size in PINNED.items()
    )
    return text_secret(spec.layers.registry.admin_block), *pinned


LAYER = LayerDef(
    name="registry",
    title="SUSE Private Registry",
    guide="4.9",
    releases=releases,
    before_objects=before,
    gates=gates,
    needs=("cert_manager", "storage"),
    secrets=secrets,
    check=lambda spec: check_chart_access(spec, "registry", chart(spec)),
    rollback_ok=False,
    data_at_risk=True,
)
