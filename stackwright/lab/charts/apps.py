"""Stand-in charts of observability and SUSE AI."""

from __future__ import annotations

from stackwright.lab.charts.shapes import (
    ChartSpec,
    Crd,
    Piece,
    claim,
    claim_template,
    config_map,
    ingress,
    obj,
    secret,
    service,
    service_account,
    workload,
)

_OBS_DEPLOYMENTS = (
    "correlate",
    "e2es",
    "receiver",
    "router",
    "server",
    "ui",
    "vmagent-proxy",
    "kafkaup-operator",
    "s3proxy",
)
_OBS_STORES = (
    "elasticsearch-master",
    "kafka",
    "zookeeper",
    "hbase-stackgraph",
    "clickhouse-shard0",
    "victoria-metrics-0",
    "vmagent",
)
_OBS_HA = 'hasSuffix "-ha" .Values.global.suseObservability.sizing.profile'
_OBS_PULL = "{{ .Values.global.imagePullSecrets | toJson }}"
_OBS_PROFILES = "trial 10-nonha 20-nonha 50-nonha 100-nonha 150-ha 250-ha 500-ha 4000-ha"


def _obs(part: str) -> str:
    # The chart's full name collapses when the release is named as the chart is.
    return (
        '{{ if eq $.Release.Name "suse-observability" }}suse-observability{{ else }}{{ $.Release.Name }}-suse-observability{{ end }}-'  # noqa: E501 - one template
        + part
    )


OBSERVABILITY = ChartSpec(
    "suse-observability",
    {"2.10.3": "2.10.3"},
    (
        *(
            workload(
                "Deployment",
                _obs(part),
                '{{ .Values.global.imageRegistry | default "registry.rancher.com" }}/suse-observability/' + part + ":{{ .Chart.AppVersion }}",  # noqa: E501 - one template
                pull_secrets=_OBS_PULL,
            )
            for part in _OBS_DEPLOYMENTS
        ),
        *(
            workload(
                "StatefulSet",
                _obs(part),
                '{{ .Values.global.imageRegistry | default "registry.rancher.com" }}/suse-observability/' + part + ":{{ .Chart.AppVersion }}",  # noqa: E501 - one template
                replicas=f"{{{{ if {_OBS_HA} }}}}3{{{{ else }}}}1{{{{ end }}}}",
                claims=(claim_template("data", "20Gi", ".Values.global.storageClass"),),
                pull_secrets=_OBS_PULL,
            )
            for part in _OBS_STORES
        ),
        service(_obs("router"), {"router": 8080}),
        service(_obs("victoria-metrics-0"), {"http": 8428}),
        service(_obs("otel-collector"), {"otlp-grpc": 4317, "otlp-http": 4318}, app=_obs("receiver")),
        secret(
            _obs("auth"),
            {
                "license": ".Values.global.suseObservability.license",
                "receiverApiKey": ".Values.global.suseObservability.receiverApiKey",
                "adminPassword": ".Values.global.suseObservability.adminPassword",
            },
        ),
        Piece(
            obj(
                "networking.k8s.io/v1",
                "Ingress",
                _obs("ingress"),
                {
                    "spec": {
                        "ingressClassName": "{{ .Values.ingress.ingressClassName }}",
                        "tls": "@@{{ .Values.ingress.tls | toJson }}",
                        "rules": "@@[{{ range $i, $h := .Values.ingress.hosts }}{{ if $i }},{{ end }}"
                        '{"host": {{ $h.host | quote }}, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": '  # noqa: E501 - one template
                        '{"service": {"name": "' + _obs("router") + '", "port": {"number": 8080}}}}]}}{{ end }}]',
                    }
                },
            ),
            ".Values.ingress.enabled",
        ),
    ),
    defaults={"global": {"suseObservability": {"sizing": {"profile": ""}}}},
    required=(
        ("not .Values.global.suseObservability.license", "global.suseObservability.license is required"),
        ("not .Values.global.suseObservability.baseUrl", "global.suseObservability.baseUrl is required"),
        (f'not (has .Values.global.suseObservability.sizing.profile (splitList " " "{_OBS_PROFILES}"))',
         f"global.suseObservability.sizing.profile must be one of {_OBS_PROFILES}"),
    ),
)  # fmt: skip

_AGENT_IMAGE = '{{ .Values.global.imageRegistry | default "registry.rancher.com" }}/suse-observability/agent:{{ .Chart.AppVersion }}'  # noqa: E501 - one template

OBSERVABILITY_AGENT = ChartSpec(
    "suse-observability-agent",
    {"1.5.40": "1.5.40"},
    (
        workload(
            "DaemonSet",
            "{{ .Release.Name }}-node-agent",
            _AGENT_IMAGE,
            tolerations="{{ .Values.nodeAgent.tolerations | toJson }}",
        ),
        workload(
            "DaemonSet",
            "{{ .Release.Name }}-logs-agent",
            _AGENT_IMAGE,
            when=".Values.logsAgent.enabled",
            tolerations="{{ .Values.logsAgent.tolerations | toJson }}",
        ),
        workload("Deployment", "{{ .Release.Name }}-cluster-agent", _AGENT_IMAGE),
        workload("Deployment", "{{ .Release.Name }}-checks-agent", _AGENT_IMAGE, when=".Values.checksAgent.enabled"),
        workload("Deployment", "{{ .Release.Name }}-rbac-agent", _AGENT_IMAGE),
        secret("{{ .Release.Name }}-secrets", {"sts-api-key": ".Values.stackstate.apiKey"}),
        config_map(
            "{{ .Release.Name }}-config",
            {
                "STS_STS_URL": "{{ .Values.stackstate.url }}",
                "STS_CLUSTER_NAME": "{{ .Values.stackstate.cluster.name }}",
            },
        ),
    ),
    defaults={"logsAgent": {"enabled": True}, "checksAgent": {"enabled": True}},
    required=(
        ("not .Values.stackstate.apiKey", "stackstate.apiKey is required"),
        ("not .Values.stackstate.url", "stackstate.url is required"),
        ("not .Values.stackstate.cluster.name", "stackstate.cluster.name is required"),
    ),
)

_AI_IMAGE = '{{ .Values.global.imageRegistry | default "dp.apps.rancher.io" }}/containers/%s'
_AI_PULL = (
    "[{{ range $i, $s := .Values.global.imagePullSecrets }}{{ if $i }},{{ end }}"
    '{"name": {{ if kindIs "map" $s }}{{ $s.name | quote }}{{ else }}{{ $s | quote }}{{ end }}}{{ end }}]'
)
# helm treats a missing condition as on, and these two subcharts have no `enabled` of their own.
_WEBUI_ON = '(ne (index .Values "open-webui" "enabled" | toString) "false")'
_OLLAMA_ON = '(ne (.Values.ollama.enabled | toString) "false")'
_WEBUI = 'index .Values "open-webui"'

SUSE_AI = ChartSpec(
    "suse-ai-deployer",
    {"1.2.1": "1.2.1"},
    (
        workload(
            "Deployment",
            "{{ .Release.Name }}-ollama",
            _AI_IMAGE % "ollama:0.13",
            when=_OLLAMA_ON,
            ports={"http": 11434},
            volumes={},
            tolerations="{{ .Values.ollama.tolerations | default (list) | toJson }}",
            node_selector="{{ .Values.ollama.nodeSelector | default (dict) | toJson }}",
            pull_secrets=_AI_PULL,
            env={"OLLAMA_GPUS": "{{ if .Values.ollama.ollama.gpu.enabled }}{{ .Values.ollama.ollama.gpu.number }}{{ else }}0{{ end }}"},  # noqa: E501 - one template
        ),
        service("{{ .Release.Name }}-ollama", {"http": 11434}, when=_OLLAMA_ON),
        claim(
            "{{ .Release.Name }}-ollama",
            "{{ .Values.ollama.persistentVolume.size }}",
            storage_class=".Values.ollama.persistentVolume.storageClass",
            when=f"and {_OLLAMA_ON} .Values.ollama.persistentVolume.enabled",
        ),
        workload(
            "StatefulSet",
            "open-webui",
            _AI_IMAGE % "open-webui:0.6",
            replicas=f"{{{{ {_WEBUI} \"replicaCount\" | default 1 }}}}",
            when=_WEBUI_ON,
            ports={"http": 8080},
            claims=(
                claim_template(
                    "data",
                    f"{{{{ {_WEBUI} \"persistence\" \"size\" }}}}",
                    f"({_WEBUI} \"persistence\" \"storageClass\")",
                ),
            ),
            pull_secrets=_AI_PULL,
        ),
        service("open-webui", {"http": 80}, when=_WEBUI_ON),
        ingress(
            "open-webui",
            f"{{{{ {_WEBUI} \"ingress\" \"host\" }}}}",
            "open-webui",
            80,
            class_name=f"{{{{ {_WEBUI} \"ingress\" \"class\" }}}}",
            tls_secret=f"{{{{ {_WEBUI} \"ingress\" \"existingSecret\" }}}}",
            when=f"and {_WEBUI_ON} ({_WEBUI} \"ingress\" \"enabled\")",
        ),
        Piece(
            obj(
                "cert-manager.io/v1",
                "Issuer",
                "{{ .Values.global.tls.issuerName }}-selfsigned",
                {"spec": {"selfSigned": {}}},
            ),
            f"and {_WEBUI_ON} (eq .Values.global.tls.source \"suse-private-ai\")",
        ),
        workload(
            "StatefulSet",
            "{{ .Release.Name }}-milvus-standalone",
            _AI_IMAGE % "milvus:2.6",
            when=".Values.milvus.enabled",
            claims=(claim_template("data", "50Gi"),),
            pull_secrets=_AI_PULL,
        ),
        workload(
            "StatefulSet",
            "{{ .Release.Name }}-etcd",
            _AI_IMAGE % "etcd:3.5",
            when=".Values.milvus.enabled",
            claims=(claim_template("data", "10Gi", ".Values.milvus.etcd.persistence.storageClassName"),),
            pull_secrets=_AI_PULL,
        ),
        workload(
            "StatefulSet",
            "{{ .Release.Name }}-minio",
            _AI_IMAGE % "minio:2026",
            replicas="{{ .Values.milvus.minio.replicas | default 1 }}",
            when=".Values.milvus.enabled",
            claims=(claim_template("data", "50Gi", ".Values.milvus.minio.persistence.storageClass"),),
            pull_secrets=_AI_PULL,
        ),
        service("{{ .Release.Name }}-milvus", {"milvus": 19530, "metrics": 9091}, app="{{ .Release.Name }}-milvus-standalone",  # noqa: E501 - one template
                when=".Values.milvus.enabled"),
        workload("Deployment", "{{ .Release.Name }}-mcpo", _AI_IMAGE % "open-webui-mcpo:0.0.17",
                 when='index .Values "open-webui-mcpo" "enabled"', pull_secrets=_AI_PULL),
        workload("Deployment", "{{ .Release.Name }}-vllm-router", _AI_IMAGE % "lmcache-lmstack-router:0.1",
                 when=".Values.vllm.enabled", pull_secrets=_AI_PULL),
        workload("StatefulSet", "{{ .Release.Name }}-pytorch", _AI_IMAGE % "pytorch:2.9",
                 when=".Values.pytorch.enabled", pull_secrets=_AI_PULL),
        service_account("open-webui"),
    ),
    defaults={
        "global": {"tls": {"source": "suse-private-ai", "issuerName": "suse-private-ai"}},
        "open-webui": {
            "enabled": None,
            "replicaCount": 1,
            "ingress": {"enabled": True, "host": "suse-ollama-webui", "existingSecret": "suse-private-ai-tls"},
            "persistence": {"enabled": True, "size": "2Gi"},
        },
        "ollama": {"enabled": None, "ollama": {"gpu": {"number": 1}}, "persistentVolume": {"size": "30Gi"}},
        "milvus": {"minio": {"replicas": 4}},
    },
    crds=(Crd("production-stack.vllm.ai", "LoraAdapter", "loraadapters", ("v1alpha1",)),),
    crds_in="crds",
)  # fmt: skip

APPS = (OBSERVABILITY, OBSERVABILITY_AGENT, SUSE_AI)
