"""ClearML Enterprise server with multi-tenancy. Guide: 5.7.

The tenants' agents and gateways are not here: they are made with each tenant.
"""

from __future__ import annotations

from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers.gates import Gate, HttpGate, RolloutGate, WorkloadsGate
from stackwright.domain.layers.model import Chart, GeneratedSecret, LayerDef, ObjectSpec, ReleaseSpec, version_of
from stackwright.domain.layers.shared import certificate_needs, ingress_class, key_pair, text_secret, tls_objects
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import secret
from stackwright.domain.versions import MCK_MONGODB_SINCE, parse_chart

NAMESPACE = "clearml"
# With this name the chart's Services are called clearml-enterprise-<component>. ClearML: Enterprise on Kubernetes.
RELEASE = "clearml-enterprise"
CHART = Chart("clearml-enterprise", "oci://docker.io/clearml")
TLS_SECRET = "clearml-tls"  # noqa: S105  a name
MONGODB_CRD = "mongodbcommunity.mongodbcommunity.mongodb.com"
DEFAULT_COMPANY = "d1bd92a3b039400cbafc60a7a5b1e52b"  # ClearML: apiserver.conf, the company of fixed credentials
FILESERVER_BLOCK = "clearml-fileserver"
TEST_USER_BLOCK = "clearml-test-user"
TOKEN_BLOCK = "clearml-auth-token"  # noqa: S105  a name
SYSTEM_BLOCK = "clearml-apiserver"
COMPONENTS = {"apiserver": "api", "fileserver": "files", "webserver": "app"}


def host(spec: StackSpec, component: str) -> str:
    return f"{COMPONENTS[component]}.{spec.clearml.base_domain}"


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    version = version_of(spec, "clearml")
    return (ReleaseSpec(RELEASE, NAMESPACE, CHART, "clearml", version, _values(spec, version), crds=True),)


def _values(spec: StackSpec, version: str) -> dict[str, Any]:
    system = secret_block(spec)
    values: dict[str, Any] = {
        "imageCredentials": {"password": secret(spec.clearml.registry_block, "password")},
        "clearml": {
            "cookieDomain": spec.clearml.base_domain,
            # Pinned: left out, the chart makes new ones at each rendering.
            "apiserverKey": secret(system, "access_key"),
            "apiserverSecret": secret(system, "secret_key"),
            "fileserverKey": secret(FILESERVER_BLOCK, "access_key"),
            "fileserverSecret": secret(FILESERVER_BLOCK, "secret_key"),
            "testUserKey": secret(TEST_USER_BLOCK, "access_key"),
            "testUserSecret": secret(TEST_USER_BLOCK, "secret_key"),
            "secureAuthTokenSecret": secret(TOKEN_BLOCK),
        },
        "clearmlApplications": {"enabled": True},
        **{component: _component(spec, component) for component in COMPONENTS},
    }
    values["apiserver"]["extraEnvs"] = _environment(spec)
    parsed = parse_chart(version)
    if parsed and parsed >= MCK_MONGODB_SINCE:
        values |= {"mongodb": {"enabled": False}, "mckMongodb": {"enabled": True, "migrated": True}}
    return values


def secret_block(spec: StackSpec) -> str:
    """Return the block of the chart's own system key: the platform's key where no supervisor is made beside it."""
    return spec.clearml.supervisor_block if spec.clearml.supervisor_mode == "apiserver-key" else SYSTEM_BLOCK


def _component(spec: StackSpec, component: str) -> dict[str, Any]:
    return {
        "service": {"type": "ClusterIP"},
        "ingress": {
            "enabled": True,
            "hostName": host(spec, component),
            "ingressClassName": ingress_class(spec),
            "tlsSecretName": TLS_SECRET,
        },
    }


def _environment(spec: StackSpec) -> list[dict[str, str]]:
    """Return the multi-tenancy settings; the supervisor's with two underscores after its name, unlike the guide's."""
    settings = {
        "CLEARML__services__organization__features__user_management_advanced": "true",
        "CLEARML__apiserver__company__unique_names": "true",
    }
    if spec.clearml.supervisor_mode == "supervisor":
        prefix = "CLEARML__secure__credentials__supervisor__"
        settings |= {
            "CLEARML__services__workers__resource_usages__supervisor_company": DEFAULT_COMPANY,
            f"{prefix}role": "system",
            f"{prefix}allow_login": "true",
            f"{prefix}user_key": secret(spec.clearml.supervisor_block, "access_key"),
            f"{prefix}user_secret": secret(spec.clearml.supervisor_block, "secret_key"),
            f"{prefix}sec_groups": '["users", "admins", "queue_admins"]',
            f"{prefix}email": f'"supervisor@{spec.clearml.base_domain}"',  # HOCON: an @ needs the inner quotes
        }
    return [{"name": name, "value": value} for name, value in settings.items()]


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    """Privileged: the bundled Elasticsearch sets a sysctl in an init container."""
    hosts = tuple(host(spec, component) for component in COMPONENTS)
    return namespace_object(NAMESPACE, "privileged"), *tls_objects(spec, NAMESPACE, TLS_SECRET, hosts)


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    domain = spec.clearml.base_domain
    return (
        *(RolloutGate("Deployment", NAMESPACE, f"{RELEASE}-{component}") for component in COMPONENTS),
        WorkloadsGate(NAMESPACE, f"app.kubernetes.io/instance={RELEASE}", len(COMPONENTS)),
        HttpGate(f"{spec.url('api', domain)}/debug.ping"),
        HttpGate(f"{spec.url('app', domain)}/"),
        HttpGate(f"{spec.url('files', domain)}/"),
    )


def secrets(spec: StackSpec) -> tuple[GeneratedSecret, ...]:
    blocks = dict.fromkeys((secret_block(spec), spec.clearml.supervisor_block, FILESERVER_BLOCK, TEST_USER_BLOCK))
    return *(key_pair(block) for block in blocks), text_secret(TOKEN_BLOCK, 48)


def check(spec: StackSpec) -> list[Problem]:
    if spec.rke2.ingress_controller != "none":
        return []
    remedy = "Choose traefik or ingress-nginx, or give every layer's ingress class under its values."
    return [
        Problem(
            "rke2.ingress_controller", "ClearML needs an ingress controller", remedy, "traefik or ingress-nginx", "none"
        )
    ]


LAYER = LayerDef(
    name="clearml",
    title="ClearML Enterprise server",
    guide="5.7",
    releases=releases,
    before_objects=before,
    gates=gates,
    needs=("storage",),
    needs_for=certificate_needs,
    secrets=secrets,
    check=check,
    wanted_crds=(MONGODB_CRD,),
    rollback_ok=False,
    data_at_risk=True,
)
