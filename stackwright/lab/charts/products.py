"""Stand-in charts of the products above the platform: security, registry, observability, SUSE AI."""

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

_NV = "{{ .Values.registry }}/{{ .Values.%s.image.repository }}:{{ .Values.tag | default .Chart.AppVersion }}"
_NV_PULL = '[{{ if .Values.imagePullSecrets }}{"name": {{ .Values.imagePullSecrets | quote }}}{{ end }}]'
_NV_VERSIONS = {"2.10.3": "5.5.3", "2.11.2": "5.6.2", "108.0.9+up2.11.2": "5.6.2"}
_NV_CRDS = (
    Crd("neuvector.com", "NvSecurityRule", "nvsecurityrules"),
    Crd("neuvector.com", "NvClusterSecurityRule", "nvclustersecurityrules", namespaced=False),
    Crd("neuvector.com", "NvAdmissionControlSecurityRule", "nvadmissioncontrolsecurityrules", namespaced=False),
    Crd("neuvector.com", "NvDlpSecurityRule", "nvdlpsecurityrules", namespaced=False),
    Crd("neuvector.com", "NvWafSecurityRule", "nvwafsecurityrules", namespaced=False),
    Crd("neuvector.com", "NvComplianceProfile", "nvcomplianceprofiles", namespaced=False),
    Crd("neuvector.com", "NvVulnerabilityProfile", "nvvulnerabilityprofiles", namespaced=False),
    Crd("neuvector.com", "NvResponseRuleSecurityRule", "nvresponserulesecurityrules", namespaced=False),
    Crd("neuvector.com", "NvGroupDefinition", "nvgroupdefinitions"),
)


def _neuvector(name: str) -> ChartSpec:
    """Return the main chart: `core` of the community, `neuvector` of the Rancher catalogue."""
    return ChartSpec(
        name,
        _NV_VERSIONS,
        (
            workload(
                "Deployment",
                "neuvector-controller-pod",
                _NV % "controller",
                replicas="{{ .Values.controller.replicas }}",
                labels={"app": "neuvector-controller-pod"},
                when=".Values.controller.enabled",
                volumes={},
                pull_secrets=_NV_PULL,
                spec={"minReadySeconds": 60},
            ),
            workload(
                "Deployment",
                "neuvector-manager-pod",
                _NV % "manager",
                labels={"app": "neuvector-manager-pod"},
                when=".Values.manager.enabled",
                pull_secrets=_NV_PULL,
            ),
            workload(
                "Deployment",
                "neuvector-scanner-pod",
                "{{ .Values.registry }}/{{ .Values.cve.scanner.image.repository }}:{{ .Values.cve.scanner.image.tag }}",
                replicas="{{ .Values.cve.scanner.replicas }}",
                labels={"app": "neuvector-scanner-pod"},
                when=".Values.cve.scanner.enabled",
                pull_secrets=_NV_PULL,
            ),
            workload(
                "DaemonSet",
                "neuvector-enforcer-pod",
                _NV % "enforcer",
                labels={"app": "neuvector-enforcer-pod"},
                when=".Values.enforcer.enabled",
                tolerations="{{ .Values.enforcer.tolerations | toJson }}",
                pull_secrets=_NV_PULL,
            ),
            service("neuvector-svc-controller", {"ctrl": 18300}, app="neuvector-controller-pod"),
            service(
                "neuvector-svc-controller-api",
                {"controller-api": 10443},
                app="neuvector-controller-pod",
                kind="{{ .Values.controller.apisvc.type }}",
                when=".Values.controller.apisvc.type",
            ),
            service(
                "neuvector-service-webui",
                {"manager": 8443},
                app="neuvector-manager-pod",
                kind="{{ .Values.manager.svc.type }}",
            ),
            service("neuvector-svc-admission-webhook", {"admission-webhook": 443}, app="neuvector-controller-pod"),
            service("neuvector-svc-crd-webhook", {"crd-webhook": 443}, app="neuvector-controller-pod"),
            claim(
                "neuvector-data",
                '{{ .Values.controller.pvc.capacity | default "1Gi" }}',
                storage_class=".Values.controller.pvc.storageClass",
                access="{{ first .Values.controller.pvc.accessModes }}",
                when="and .Values.controller.pvc.enabled (not .Values.controller.pvc.existingClaim)",
            ),
            secret("neuvector-bootstrap-secret", {"bootstrapPassword": ".Values.bootstrapPassword"}, when=".Values.bootstrapPassword"),
            Piece(
                obj(
                    "v1",
                    "Secret",
                    "neuvector-init",
                    {"data": "@@{{ $d := dict }}{{ range $k, $v := .Values.controller.secret.data }}{{ $_ := set $d $k ($v | toJson | b64enc) }}{{ end }}{{ $d | toJson }}"},  # noqa: E501 - one template
                ),
                ".Values.controller.secret.enabled",
            ),
            ingress(
                "neuvector-webui-ingress",
                "{{ .Values.manager.ingress.host }}",
                "neuvector-service-webui",
                8443,
                class_name="{{ .Values.manager.ingress.ingressClassName }}",
                tls_secret="{{ .Values.manager.ingress.secretName }}",
                when=".Values.manager.ingress.enabled",
            ),
            *(Piece(crd.manifest(), ".Values.crdwebhook.enabled") for crd in _NV_CRDS),
        ),
        keys="neuvector",
        defaults={
            "registry": "docker.io",
            "controller": {
                "enabled": True,
                "replicas": 3,
                "image": {"repository": "neuvector/controller"},
                "pvc": {"accessModes": ["ReadWriteMany"]},
            },
            "manager": {"enabled": True, "image": {"repository": "neuvector/manager"}, "svc": {"type": "NodePort"}},
            "enforcer": {"enabled": True, "image": {"repository": "neuvector/enforcer"}},
            "cve": {
                "scanner": {"enabled": True, "replicas": 3, "image": {"repository": "neuvector/scanner", "tag": "6"}},
            },
            "crdwebhook": {"enabled": True},
        },
    )  # fmt: skip


def _neuvector_crd(name: str) -> ChartSpec:
    return ChartSpec(name, _NV_VERSIONS, (), keys="neuvector-crd", crds=_NV_CRDS)


def _harbor(part: str) -> str:
    return "{{ .Release.Name }}-harbor-" + part


_HARBOR_IMAGE = '{{ .Values.global.imageRegistry | default "registry.suse.com" }}/private-registry/harbor-%s:{{ .Chart.AppVersion }}'
_HARBOR_PULL = "{{ .Values.imagePullSecrets | default (list) | toJson }}"
_HARBOR_CLAIM = ".Values.persistence.persistentVolumeClaim.%s"


def _harbor_deployment(part: str, port: int) -> Piece:
    return workload(
        "Deployment",
        _harbor(part),
        _HARBOR_IMAGE % part,
        replicas=f"{{{{ .Values.{part}.replicas }}}}",
        labels={"component": part, "release": "{{ .Release.Name }}"},
        ports={"http": port},
        env_from=(_harbor(part),) if part in {"core", "jobservice", "registry"} else (),
        volumes={"data": _harbor(part)} if part == "registry" else None,
        pull_secrets=_HARBOR_PULL,
        spec={"strategy": {"type": "{{ .Values.updateStrategy.type }}"}},
    )


def _harbor_store(part: str, when: str, size_of: str) -> Piece:
    size, storage_class = f"{{{{ {_HARBOR_CLAIM % size_of}.size }}}}", _HARBOR_CLAIM % size_of + ".storageClass"
    return workload(
        "StatefulSet",
        _harbor(part),
        _HARBOR_IMAGE % part,
        labels={"component": part, "release": "{{ .Release.Name }}"},
        claims=(claim_template("data", size, storage_class),),
        pull_secrets=_HARBOR_PULL,
        when=when,
    )


PRIVATE_REGISTRY = ChartSpec(
    "private-registry-helm",
    {"1.1.3": "2.14.4", "1.2.0": "2.15.1"},
    (
        _harbor_deployment("core", 8080),
        _harbor_deployment("portal", 8080),
        _harbor_deployment("jobservice", 8080),
        _harbor_deployment("registry", 5000),
        workload(
            "Deployment",
            _harbor("nginx"),
            _HARBOR_IMAGE % "nginx",
            when='ne .Values.expose.type "ingress"',
            labels={"component": "nginx", "release": "{{ .Release.Name }}"},
        ),
        _harbor_store("database", 'eq .Values.database.type "internal"', "database"),
        _harbor_store("valkey", 'eq .Values.redis.type "internal"', "redis"),
        _harbor_store("trivy", ".Values.trivy.enabled", "trivy"),
        *(service(_harbor(part), {"http": 80}) for part in ("core", "portal", "jobservice", "registry")),
        secret(
            _harbor("core"),
            {
                "HARBOR_ADMIN_PASSWORD": ".Values.harborAdminPassword | default (randAlphaNum 16)",
                "secretKey": ".Values.secretKey | default (randAlphaNum 16)",
                "secret": ".Values.core.secret | default (randAlphaNum 16)",
                "CSRF_KEY": ".Values.core.xsrfKey | default (randAlphaNum 32)",
            },
        ),
        secret(_harbor("jobservice"), {"JOBSERVICE_SECRET": ".Values.jobservice.secret | default (randAlphaNum 16)"}),
        secret(_harbor("registry"), {"REGISTRY_HTTP_SECRET": ".Values.registry.secret | default (randAlphaNum 16)"}),
        claim(
            _harbor("registry"),
            f"{{{{ {_HARBOR_CLAIM % 'registry'}.size }}}}",
            storage_class=_HARBOR_CLAIM % "registry" + ".storageClass",
            access=f"{{{{ {_HARBOR_CLAIM % 'registry'}.accessMode }}}}",
            when=".Values.persistence.enabled",
        ),
        ingress(
            _harbor("ingress"),
            "{{ .Values.expose.ingress.hosts.core }}",
            _harbor("core"),
            80,
            class_name="{{ .Values.expose.ingress.className }}",
            tls_secret="{{ .Values.expose.tls.secret.secretName }}",
            when='eq .Values.expose.type "ingress"',
        ),
    ),
    kube={"": ">= 1.20.0-0"},
    defaults={
        "expose": {
            "type": "ingress",
            "tls": {"enabled": True, "certSource": "auto"},
            "ingress": {"hosts": {"core": "core.harbor.domain"}, "controller": "default"},
        },
        "externalURL": "https://core.harbor.domain",
        **{part: {"replicas": 1} for part in ("core", "portal", "jobservice", "registry")},
        "updateStrategy": {"type": "RollingUpdate"},
        "trivy": {"enabled": True, "replicas": 1},
        "database": {"type": "internal"},
        "redis": {"type": "internal"},
        "persistence": {
            "enabled": True,
            "resourcePolicy": "keep",
            "persistentVolumeClaim": {
                part: {"accessMode": "ReadWriteOnce", "size": size}
                for part, size in (("registry", "5Gi"), ("database", "1Gi"), ("redis", "1Gi"), ("trivy", "5Gi"))
            },
        },
    },
    required=(
        ('and (eq .Values.expose.tls.certSource "secret") (not .Values.expose.tls.secret.secretName)',
         "The \\\"expose.tls.secret.secretName\\\" is required!".replace("\\\"", "'")),
        ("and .Values.secretKey (ne (len .Values.secretKey) 16)", "secretKey must be a string of 16 characters"),
    ),
)  # fmt: skip

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
        '{{ if eq .Release.Name "suse-observability" }}suse-observability{{ else }}{{ .Release.Name }}-suse-observability{{ end }}-'
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
                '{{ .Values.global.imageRegistry | default "registry.rancher.com" }}/suse-observability/' + part + ":{{ .Chart.AppVersion }}",
                pull_secrets=_OBS_PULL,
            )
            for part in _OBS_DEPLOYMENTS
        ),
        *(
            workload(
                "StatefulSet",
                _obs(part),
                '{{ .Values.global.imageRegistry | default "registry.rancher.com" }}/suse-observability/' + part + ":{{ .Chart.AppVersion }}",
                replicas=f"{{{{ if {_OBS_HA} }}}}3{{{{ else }}}}1{{{{ end }}}}",
                claims=(claim_template("data", "20Gi", ".Values.global.storageClass"),),
                pull_secrets=_OBS_PULL,
            )
            for part in _OBS_STORES
        ),
        service(_obs("router"), {"router": 8080}),
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
                        '{"host": {{ $h.host | quote }}, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": '
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

_AGENT_IMAGE = '{{ .Values.global.imageRegistry | default "registry.rancher.com" }}/suse-observability/agent:{{ .Chart.AppVersion }}'

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
            env={"OLLAMA_GPUS": "{{ if .Values.ollama.ollama.gpu.enabled }}{{ .Values.ollama.ollama.gpu.number }}{{ else }}0{{ end }}"},
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
        service("{{ .Release.Name }}-milvus", {"milvus": 19530, "metrics": 9091}, app="{{ .Release.Name }}-milvus-standalone",
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

PRODUCTS = (
    _neuvector_crd("crd"),
    _neuvector("core"),
    _neuvector_crd("neuvector-crd"),
    _neuvector("neuvector"),
    PRIVATE_REGISTRY,
    OBSERVABILITY,
    OBSERVABILITY_AGENT,
    SUSE_AI,
)
