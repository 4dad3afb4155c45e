"""Stand-in charts of ClearML Enterprise: server, agent, application gateway; and the MongoDB operator's CRDs.

The real charts are not public: names and keys are those of ClearML's documentation.
"""

from __future__ import annotations

from typing import Any

from stackwright.lab.charts.shapes import (
    ChartSpec,
    Crd,
    Piece,
    claim,
    claim_template,
    ingress,
    obj,
    secret,
    service,
    workload,
)


def _full(chart: str) -> str:
    """Return the usual full name: the release's name alone where it holds the chart's."""
    return f'{{{{ if contains "{chart}" .Release.Name }}}}{{{{ .Release.Name }}}}{{{{ else }}}}{{{{ .Release.Name }}}}-{chart}{{{{ end }}}}'  # noqa: E501 - one template


_SERVER = _full("clearml-enterprise")
_PULL = "{{ .Values.imageCredentials.existingImagePullSecrets | default (list) | toJson }}"
_PORTS = {"apiserver": 8008, "fileserver": 8081, "webserver": 8080}


def _component(part: str) -> tuple[Piece, ...]:
    name = f"{_SERVER}-{part}"
    return (
        workload(
            "Deployment",
            name,
            "docker.io/clearml/clearml-enterprise:{{ .Chart.AppVersion }}",
            replicas=f"{{{{ .Values.{part}.replicaCount }}}}",
            when=f".Values.{part}.enabled",
            labels={"app.kubernetes.io/component": part},
            ports={"http": _PORTS[part]},
            env_from=(f"{_SERVER}-conf",) if part == "apiserver" else (),
            volumes={"fileserver": f"{_SERVER}-fileserver-data"} if part == "fileserver" else None,
            tolerations=f"{{{{ .Values.{part}.tolerations | toJson }}}}",
            node_selector=f"{{{{ .Values.{part}.nodeSelector | toJson }}}}",
            pull_secrets=_PULL,
        ),
        service(
            name, {"http": _PORTS[part]}, kind=f"{{{{ .Values.{part}.service.type }}}}", when=f".Values.{part}.enabled"
        ),
        ingress(
            name,
            f"{{{{ .Values.{part}.ingress.hostName }}}}",
            name,
            _PORTS[part],
            class_name=f"{{{{ .Values.{part}.ingress.ingressClassName }}}}",
            tls_secret=f"{{{{ .Values.{part}.ingress.tlsSecretName }}}}",
            when=f"and .Values.{part}.enabled .Values.{part}.ingress.enabled",
        ),
    )


def _store(part: str, size: str, when: str) -> Piece:
    return workload(
        "StatefulSet",
        f"{_SERVER}-{part}",
        f"docker.io/clearml/{part}:{{{{ .Chart.AppVersion }}}}",
        claims=(claim_template("data", size),),
        when=when,
        pull_secrets=_PULL,
    )


_CONF = (
    "apiserverKey",
    "apiserverSecret",
    "fileserverKey",
    "fileserverSecret",
    "secureAuthTokenSecret",
    "testUserKey",
    "testUserSecret",
)

_MONGODB = (
    Crd("mongodbcommunity.mongodb.com", "MongoDBCommunity", "mongodbcommunity"),
    Crd("mongodb.com", "MongoDB", "mongodb"),
    Crd("mongodb.com", "MongoDBUser", "mongodbusers"),
    Crd("mongodb.com", "MongoDBOpsManager", "opsmanagers"),
    Crd("mongodb.com", "MongoDBMultiCluster", "mongodbmulticluster"),
    Crd("mongodb.com", "MongoDBSearch", "mongodbsearch"),
    Crd("mongodb.com", "ClusterMongoDBRole", "clustermongodbroles", namespaced=False),
)

SERVER = ChartSpec(
    "clearml-enterprise",
    {"10.13.0": "3.28", "11.0.0": "3.29", "11.0.1": "3.29"},
    (
        *_component("apiserver"),
        *_component("fileserver"),
        *_component("webserver"),
        workload(
            "Deployment",
            f"{_SERVER}-apps-agent",
            "docker.io/clearml/clearml-apps-agent:{{ .Chart.AppVersion }}",
            when=".Values.clearmlApplications.enabled",
            pull_secrets=_PULL,
        ),
        claim(
            f"{_SERVER}-fileserver-data",
            "{{ .Values.fileserver.storage.data.size }}",
            storage_class=".Values.fileserver.storage.data.class",
            access="{{ .Values.fileserver.storage.data.accessMode }}",
            when=".Values.fileserver.enabled",
        ),
        _store("elasticsearch", "50Gi", "not (eq (.Values.elasticsearch.enabled | toString) \"false\")"),
        _store("dragonfly", "5Gi", "not (eq (.Values.dragonfly.enabled | toString) \"false\")"),
        _store("mongodb", "50Gi", ".Values.mongodb.enabled"),
        workload(
            "Deployment",
            "mongodb-kubernetes-operator",
            "quay.io/mongodb/mongodb-kubernetes:1.8.1",
            when=".Values.mckMongodb.enabled",
            pull_secrets=_PULL,
        ),
        Piece(
            obj(
                "mongodbcommunity.mongodb.com/v1",
                "MongoDBCommunity",
                f"{_SERVER}-mongodb",
                {"spec": {"members": 1, "type": "ReplicaSet", "version": "7.0.24"}},
            ),
            ".Values.mckMongodb.enabled",
        ),
        secret(
            f"{_SERVER}-conf",
            {key: f".Values.clearml.{key} | default (randAlphaNum 24)" for key in _CONF},
            when="not .Values.clearml.existingSecret",
        ),
        Piece(
            obj(
                "v1",
                "ConfigMap",
                f"{_SERVER}-apiserver-env",
                {"data": "@@{{ $d := dict }}{{ range .Values.apiserver.extraEnvs }}{{ $_ := set $d .name (.value | default \"\") }}{{ end }}{{ $d | toJson }}"},  # noqa: E501 - one template
            )
        ),
    ),
    kube={"": ">= 1.23.0-0"},
    defaults={
        **{part: {"enabled": True, "replicaCount": 1, "service": {"type": "NodePort"}} for part in _PORTS},
        "fileserver": {
            "enabled": True,
            "replicaCount": 1,
            "service": {"type": "NodePort"},
            "storage": {"enabled": True, "data": {"size": "50Gi", "accessMode": "ReadWriteOnce"}},
        },
        "clearmlApplications": {"enabled": True, "queueMode": "global"},
        "mongodb": {"enabled": True},
        "elasticsearch": {"enabled": True},
        "dragonfly": {"enabled": True},
    },
    crds=_MONGODB,
    crds_in="crds",
    required=(("and .Values.mongodb.enabled .Values.mckMongodb.enabled", "only one of mongodb and mckMongodb may be enabled"),),  # noqa: E501 - one template
)  # fmt: skip

_AGENT = _full("clearml-enterprise-agent")

AGENT = ChartSpec(
    "clearml-enterprise-agent",
    {"6.13.9": "1.26", "6.14.0": "1.27", "6.14.1": "1.27"},
    (
        workload(
            "Deployment",
            _AGENT,
            "docker.io/clearml/clearml-agent-k8s:{{ .Chart.AppVersion }}",
            replicas="{{ .Values.agentk8sglue.replicaCount }}",
            labels={"app.kubernetes.io/component": "agentk8sglue"},
            env={
                "CLEARML_API_HOST": "{{ .Values.agentk8sglue.apiServerUrlReference }}",
                "CLEARML_FILES_HOST": "{{ .Values.agentk8sglue.fileServerUrlReference }}",
                "CLEARML_WEB_HOST": "{{ .Values.agentk8sglue.webServerUrlReference }}",
                "K8S_GLUE_QUEUES": "{{ keys .Values.agentk8sglue.queues | sortAlpha | join \",\" }}",
                "K8S_GLUE_CREATE_QUEUES": "{{ .Values.agentk8sglue.createQueues }}",
                "K8S_GLUE_MAX_GPU": "{{ dig \"gpu\" \"reportMax\" 0 (.Values.agentk8sglue.orchestrationDashboard | default dict) }}",  # noqa: E501 - one template
            },
            env_from=(f"{_AGENT}-ac",),
            pull_secrets="{{ .Values.imageCredentials.extraImagePullSecrets | default (list) | toJson }}",
        ),
        secret(
            f"{_AGENT}-ac",
            {"agentk8sglue_key": ".Values.clearml.agentk8sglueKey", "agentk8sglue_secret": ".Values.clearml.agentk8sglueSecret"},  # noqa: E501 - one template
            when="not .Values.clearml.existingAgentk8sglueSecret",
        ),
        Piece(
            obj("v1", "ConfigMap", f"{_AGENT}-queues", {"data": {"queues.json": "@@{{ .Values.agentk8sglue.queues | toJson | quote }}"}}),  # noqa: E501 - one template
        ),
    ),
    kube={"": ">= 1.23.0-0"},
    defaults={"agentk8sglue": {"replicaCount": 1, "createQueues": False}},
    required=(
        ("not .Values.agentk8sglue.apiServerUrlReference", "agentk8sglue.apiServerUrlReference is required"),
        ("and (not .Values.clearml.existingAgentk8sglueSecret) (not .Values.clearml.agentk8sglueKey)",
         "clearml.agentk8sglueKey is required"),
    ),
)  # fmt: skip

GATEWAY = ChartSpec(
    "clearml-enterprise-app-gateway",
    {"3.1.0": "1.5", "3.2.0": "1.6", "3.2.1": "1.6"},
    (
        workload(
            "Deployment",
            "{{ .Values.fullnameOverride | default .Release.Name }}-router",
            "docker.io/clearml/ai-gateway-router:{{ .Chart.AppVersion }}",
            labels={"app.kubernetes.io/component": "router"},
            env={
                "ROUTER__API_SERVER": "{{ .Values.clearml.apiServerUrlReference }}",
                "ROUTER__NAME": "{{ .Release.Name }}",
                "ROUTER__AUTH_COOKIE_NAME": "{{ .Values.clearml.authCookieName }}",
                "ROUTER__TCP_ADDRESS": "{{ .Values.streamSession.routerAddress }}",
                "ROUTER__TCP_PORTS": "{{ .Values.streamSession.portRange.start }}-{{ .Values.streamSession.portRange.end }}",  # noqa: E501 - one template
                "ROUTER__HTTP_ADDRESS": "{{ .Values.ingress.hostName }}",
            },
            env_from=("{{ .Values.fullnameOverride | default .Release.Name }}-credentials",),
            pull_secrets=_PULL,
        ),
        service(
            "{{ .Values.fullnameOverride | default .Release.Name }}-router",
            {"http": 80},
            kind="{{ .Values.service.type }}",
        ),
        service(
            "{{ .Values.fullnameOverride | default .Release.Name }}-stream",
            {"stream": 30100},
            app="{{ .Values.fullnameOverride | default .Release.Name }}-router",
            kind="{{ .Values.streamSession.service.type }}",
            when=".Values.streamSession.routerAddress",
        ),
        secret(
            "{{ .Values.fullnameOverride | default .Release.Name }}-credentials",
            {"CLEARML_API_ACCESS_KEY": ".Values.clearml.apiKey", "CLEARML_API_SECRET_KEY": ".Values.clearml.apiSecret"},
        ),
        ingress(
            "{{ .Values.fullnameOverride | default .Release.Name }}-router",
            "{{ .Values.ingress.hostName }}",
            "{{ .Values.fullnameOverride | default .Release.Name }}-router",
            80,
            class_name="{{ .Values.ingress.ingressClassName }}",
            tls_secret="{{ .Values.ingress.tlsSecretName }}",
            when=".Values.ingress.enabled",
        ),
    ),
    kube={"": ">= 1.23.0-0"},
    defaults={
        "service": {"type": "ClusterIP"},
        "streamSession": {"service": {"type": "NodePort"}, "portRange": {"start": 0, "end": 0}},
    },
    required=tuple(
        (f"not .Values.clearml.{key}", f"clearml.{key} is required")
        for key in ("apiKey", "apiSecret", "apiServerUrlReference")
    ),
)


def mongodb_crds() -> list[dict[str, Any]]:
    """Return the MongoDB operator's CRDs, which must be applied before ClearML's server chart."""
    return [crd.manifest() for crd in _MONGODB]


CLEARML = (SERVER, AGENT, GATEWAY)
