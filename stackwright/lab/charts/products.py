"""Stand-in charts of security and registry."""

from __future__ import annotations

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
            secret("neuvector-bootstrap-secret", {"bootstrapPassword": ".Values.bootstrapPassword"}, when=".Values.bootstrapPassword"),  # noqa: E501 - one template
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


_HARBOR_IMAGE = '{{ .Values.global.imageRegistry | default "registry.suse.com" }}/private-registry/harbor-%s:{{ .Chart.AppVersion }}'  # noqa: E501 - one template
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

PRODUCTS = (
    _neuvector_crd("crd"),
    _neuvector("core"),
    _neuvector_crd("neuvector-crd"),
    _neuvector("neuvector"),
    PRIVATE_REGISTRY,
)
