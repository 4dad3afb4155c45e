"""SUSE AI through its deployer chart: ollama, Open WebUI and Milvus. Guide: 5.6.

All six conditions of the chart are said explicitly (two of them are on when left out), published default passwords
are replaced, and every address inside the values follows the release and namespace chosen here.
"""

from __future__ import annotations

from typing import Any

from stackwright.domain.errors import Problem
from stackwright.domain.layers import gpu_operator
from stackwright.domain.layers.gates import Gate, HttpGate, ServiceGate, WorkloadsGate
from stackwright.domain.layers.model import Chart, LayerDef, ObjectSpec, ReleaseSpec, version_of
from stackwright.domain.layers.shared import (
    APPCO_HOST,
    APPCO_PULL_SECRET,
    STORAGE_CLASS,
    check_chart_access,
    ingress_class,
    key_pair,
    pull_names,
    pull_secrets,
    secret_object,
    service_url,
    text_secret,
    tls_objects,
)
from stackwright.domain.layers.shared import namespace as namespace_object
from stackwright.domain.spec import StackSpec
from stackwright.domain.values import secret

RELEASE = "suse-ai"
CHART = Chart("suse-ai-deployer", f"oci://{APPCO_HOST}/charts")
TLS_SECRET = "suse-ai-tls"  # noqa: S105  a name
TRUST_SECRET = "tls-ca-additional"  # noqa: S105  the name that the chart looks for
WEBUI_KEY_BLOCK = "suse-ai-webui-key"
PIPELINES_BLOCK = "suse-ai-pipelines-key"
STORE_BLOCK = "suse-ai-vector-store"
OLLAMA_PORT = 11434
MILVUS_PORT = 19530


def host(spec: StackSpec) -> str:
    return f"ai.{spec.ingress.domain}"


def releases(spec: StackSpec) -> tuple[ReleaseSpec, ...]:
    layer = spec.layers.suse_ai
    return (ReleaseSpec(RELEASE, layer.namespace, CHART, "suse_ai", version_of(spec, "suse_ai"), _values(spec)),)


def _values(spec: StackSpec) -> dict[str, Any]:
    return {
        "global": {
            "imagePullSecrets": [item["name"] for item in pull_names(spec, APPCO_HOST, APPCO_PULL_SECRET)],
            "tls": {"source": "secret", "additionalTrustedCAs": _private(spec)},
        },
        "ollama": {"enabled": True, **_ollama(spec)},
        "open-webui": {"enabled": True, **_webui(spec)},
        "milvus": {"enabled": True, **_milvus()},
        "open-webui-mcpo": {"enabled": False},
        "pytorch": {"enabled": False},
        "vllm": {"enabled": False},
    }


def _private(spec: StackSpec) -> bool:
    return spec.ingress.tls == "private-ca" and spec.ingress.ca_block is not None


def _ollama(spec: StackSpec) -> dict[str, Any]:
    layer = spec.layers.suse_ai
    gpu: dict[str, Any] = {"enabled": layer.ollama_gpus > 0}
    if layer.ollama_gpus:
        vendor = _vendor(spec)
        gpu |= {"type": vendor, "number": layer.ollama_gpus}
        if vendor == "nvidia":
            gpu["nvidiaResource"] = gpu_operator.RESOURCES["nvidia"]
    return {
        "ollama": {"gpu": gpu, "models": {"pull": list(layer.models), "run": []}},
        "runtimeClassName": gpu_operator.runtime_class(spec) if layer.ollama_gpus else "",
        "ingress": {"enabled": False},
        # Off by default: the models would be lost with the pod.
        "persistentVolume": {"enabled": True, "size": "100Gi", "storageClass": STORAGE_CLASS},
    }


def _vendor(spec: StackSpec) -> str:
    found = [vendor for vendor in gpu_operator.vendors(spec) if vendor in ("nvidia", "amd")]
    return found[0] if found else "nvidia"


def _webui(spec: StackSpec) -> dict[str, Any]:
    space = spec.layers.suse_ai.namespace
    environment = {
        "WEBUI_NAME": "SUSE AI",
        "DEFAULT_USER_ROLE": "pending",  # the chart lets everyone in who can reach the page
        "WEBUI_SECRET_KEY": secret(WEBUI_KEY_BLOCK),
        "OPENAI_API_KEY": secret(PIPELINES_BLOCK),
        "VECTOR_DB": "milvus",
        "MILVUS_URI": service_url(spec, f"{RELEASE}-milvus", space, MILVUS_PORT),
    }
    return {
        "ollama": {"enabled": False},
        "ollamaUrls": [service_url(spec, f"{RELEASE}-ollama", space, OLLAMA_PORT)],
        "pipelines": {"enabled": False},
        "persistence": {"enabled": True, "size": "10Gi", "storageClass": STORAGE_CLASS},
        "ingress": {
            "enabled": True,
            "class": ingress_class(spec),
            "host": host(spec),
            "tls": True,
            "existingSecret": TLS_SECRET,
        },
        "extraEnvVars": [{"name": name, "value": value} for name, value in environment.items()],
    }


def _milvus() -> dict[str, Any]:
    return {
        "cluster": {"enabled": False},  # the cluster mode adds Kafka and four object stores
        "kafka": {"enabled": False},
        "etcd": {"persistence": {"storageClassName": STORAGE_CLASS}},
        "minio": {
            "mode": "standalone",
            "rootUser": secret(STORE_BLOCK, "access_key"),
            "rootPassword": secret(STORE_BLOCK, "secret_key"),
            "persistence": {"storageClass": STORAGE_CLASS},
        },
    }


def before(spec: StackSpec) -> tuple[ObjectSpec, ...]:
    space = spec.layers.suse_ai.namespace
    trust: tuple[ObjectSpec, ...] = ()
    if _private(spec):
        trust = (
            secret_object(
                space, TRUST_SECRET, {"ca-additional.pem": secret(spec.ingress.ca_block or "", "certificate")}
            ),
        )
    return (
        namespace_object(space),
        *pull_secrets(spec, space, APPCO_HOST, APPCO_PULL_SECRET),
        *trust,
        *tls_objects(spec, space, TLS_SECRET, (host(spec),)),
    )


def gates(spec: StackSpec) -> tuple[Gate, ...]:
    space = spec.layers.suse_ai.namespace
    return (
        WorkloadsGate(space, f"app.kubernetes.io/instance={RELEASE}", 3),
        ServiceGate(space, f"{RELEASE}-ollama", OLLAMA_PORT, "/api/version", contains="version"),
        HttpGate(f"{spec.url('ai')}/health"),
    )


def check(spec: StackSpec) -> list[Problem]:
    problems = check_chart_access(spec, "suse_ai", CHART)
    gpus = max((node.gpu.count for node in spec.nodes if node.gpu), default=0)
    if spec.layers.suse_ai.ollama_gpus > gpus:
        remedy = "Lower it to what one node offers; a pod cannot use GPUs of two nodes."
        what = "no node has that many GPUs"
        wanted = f"at most {gpus}"
        problems.append(
            Problem("layers.suse_ai.ollama_gpus", what, remedy, wanted, str(spec.layers.suse_ai.ollama_gpus))
        )
    return problems


LAYER = LayerDef(
    name="suse_ai",
    title="SUSE AI",
    guide="5.6",
    releases=releases,
    before_objects=before,
    gates=gates,
    needs=("cert_manager", "storage"),
    needs_for=lambda spec: ("gpu_operator",) if spec.layers.suse_ai.ollama_gpus else (),
    secrets=lambda spec: (text_secret(WEBUI_KEY_BLOCK, 48), text_secret(PIPELINES_BLOCK, 32), key_pair(STORE_BLOCK)),
    check=check,
)
