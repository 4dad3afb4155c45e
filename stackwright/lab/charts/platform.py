"""Stand-in charts of the platform: certificates, load balancer, Rancher and its backup operator, storage."""

from __future__ import annotations

from stackwright.lab.charts.shapes import (
    ChartSpec,
    Crd,
    Piece,
    claim,
    config_map,
    hook_job,
    ingress,
    obj,
    secret,
    service,
    service_account,
    workload,
)

_CM_IMAGE = "{{ .Values.imageRegistry }}/{{ .Values.imageNamespace }}/cert-manager-%s:{{ .Chart.AppVersion }}"
_CM_PULL = '{{ range .Values.global.imagePullSecrets }}{{ if not (kindIs "map" .) }}{{ fail "imagePullSecrets: maps" }}{{ end }}{{ end }}{{ .Values.global.imagePullSecrets | toJson }}'  # noqa: E501 - one template

CERT_MANAGER = ChartSpec(
    "cert-manager",
    {"1.19.6": "v1.19.6", "1.20.3": "v1.20.3", "1.21.1": "v1.21.1"},
    (
        *(
            workload(
                "Deployment",
                name,
                _CM_IMAGE % part,
                replicas=f"{{{{ .Values.{key}replicaCount }}}}",
                labels={"app.kubernetes.io/component": part},
                pull_secrets=_CM_PULL,
            )
            for name, part, key in (
                ("cert-manager", "controller", ""),
                ("cert-manager-webhook", "webhook", "webhook."),
                ("cert-manager-cainjector", "cainjector", "cainjector."),
            )
        ),
        service("cert-manager-webhook", {"https": 443}),
        Piece(
            obj(
                "admissionregistration.k8s.io/v1",
                "ValidatingWebhookConfiguration",
                "cert-manager-webhook",
                {
                    "webhooks": [
                        {
                            "name": "webhook.cert-manager.io",
                            "admissionReviewVersions": ["v1"],
                            "sideEffects": "None",
                            "failurePolicy": "Fail",
                            "rules": [
                                {
                                    "apiGroups": ["cert-manager.io", "acme.cert-manager.io"],
                                    "apiVersions": ["v1"],
                                    "operations": ["CREATE", "UPDATE"],
                                    "resources": ["*/*"],
                                }
                            ],
                            "clientConfig": {
                                "service": {
                                    "name": "cert-manager-webhook",
                                    "namespace": "{{ .Release.Namespace }}",
                                    "path": "/validate",
                                }
                            },
                        }
                    ]
                },
                annotations={
                    "cert-manager.io/inject-ca-from-secret": "{{ .Release.Namespace }}/cert-manager-webhook-ca"
                },
                cluster=True,
            )
        ),
        *(
            Piece(
                obj(
                    "policy/v1",
                    "PodDisruptionBudget",
                    name,
                    {"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app.kubernetes.io/name": name}}}},
                ),
                f".Values.{key}podDisruptionBudget.enabled",
            )
            for name, key in (
                ("cert-manager", ""),
                ("cert-manager-webhook", "webhook."),
                ("cert-manager-cainjector", "cainjector."),
            )
        ),
        hook_job(
            "cert-manager-startupapicheck",
            _CM_IMAGE % "startupapicheck",
            "post-install",
            when=".Values.startupapicheck.enabled",
        ),
    ),
    kube={"": ">= 1.22.0-0"},
    defaults={
        "replicaCount": 1,
        "webhook": {"replicaCount": 1},
        "cainjector": {"replicaCount": 1, "enabled": True},
        "startupapicheck": {"enabled": True},
        "crds": {"keep": True},
        "imageRegistry": "quay.io",
        "imageNamespace": "jetstack",
        "global": {"leaderElection": {"namespace": "kube-system"}},
    },
    crds=(
        Crd("cert-manager.io", "Certificate", "certificates"),
        Crd("cert-manager.io", "CertificateRequest", "certificaterequests"),
        Crd("cert-manager.io", "Issuer", "issuers"),
        Crd("cert-manager.io", "ClusterIssuer", "clusterissuers", namespaced=False),
        Crd("acme.cert-manager.io", "Order", "orders"),
        Crd("acme.cert-manager.io", "Challenge", "challenges"),
    ),
    crds_when="or .Values.crds.enabled .Values.installCRDs",
    keep_crds=True,
    strict=True,
    removed={
        "1.21": ("prometheus.servicemonitor.targetPort", "prometheus.servicemonitor.path", "prometheus.podmonitor.path")
    },
)

METALLB = ChartSpec(
    "metallb",
    {"0.16.1": "v0.16.1"},
    (
        workload(
            "Deployment",
            "{{ .Release.Name }}-controller",
            "{{ .Values.controller.image.repository }}:{{ .Chart.AppVersion }}",
            labels={"app.kubernetes.io/component": "controller"},
            pull_secrets="{{ .Values.imagePullSecrets | toJson }}",
        ),
        workload(
            "DaemonSet",
            "{{ .Release.Name }}-speaker",
            "{{ .Values.speaker.image.repository }}:{{ .Chart.AppVersion }}",
            labels={"app.kubernetes.io/component": "speaker"},
            tolerations="{{ .Values.speaker.tolerations | toJson }}",
            pull_secrets="{{ .Values.imagePullSecrets | toJson }}",
        ),
        workload(
            "DaemonSet",
            "{{ .Release.Name }}-frr-k8s",
            "quay.io/metallb/frr-k8s:v0.0.21",
            when=".Values.frrk8s.enabled",
            tolerations="{{ .Values.speaker.tolerations | toJson }}",
        ),
        service("metallb-webhook-service", {"https": 443}, app="{{ .Release.Name }}-controller"),
    ),
    kube={"": ">= 1.19.0-0"},
    defaults={
        "crds": {"enabled": True, "validationFailurePolicy": "Fail"},
        "frrk8s": {"enabled": True},
        "controller": {"enabled": True, "image": {"repository": "quay.io/metallb/controller"}},
        "speaker": {"enabled": True, "image": {"repository": "quay.io/metallb/speaker"}},
    },
    crds=(
        Crd("metallb.io", "IPAddressPool", "ipaddresspools", ("v1beta1",)),
        Crd("metallb.io", "L2Advertisement", "l2advertisements", ("v1beta1",)),
        Crd("metallb.io", "BGPAdvertisement", "bgpadvertisements", ("v1beta1",)),
        Crd("metallb.io", "BGPPeer", "bgppeers", ("v1beta2",)),
        Crd("metallb.io", "BFDProfile", "bfdprofiles", ("v1beta1",)),
        Crd("metallb.io", "Community", "communities", ("v1beta1",)),
        Crd("metallb.io", "ConfigurationState", "configurationstates", ("v1beta1",)),
        Crd("metallb.io", "ServiceL2Status", "servicel2statuses", ("v1beta1",)),
        Crd("metallb.io", "ServiceBGPStatus", "servicebgpstatuses", ("v1beta1",)),
    ),
    crds_when=".Values.crds.enabled",
)

_RANCHER_TLS = 'and .Values.ingress.enabled (ne .Values.tls "external") (eq .Values.ingress.tls.source "rancher")'

RANCHER = ChartSpec(
    "rancher",
    {"2.13.8": "v2.13.8", "2.14.4": "v2.14.4", "2.15.0": "v2.15.0"},
    (
        workload(
            "Deployment",
            "{{ .Release.Name }}",
            "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}",
            replicas="{{ if lt (int .Values.replicas) 0 }}3{{ else }}{{ .Values.replicas }}{{ end }}",
            labels={"app": "{{ .Release.Name }}"},
            env={
                "CATTLE_SERVER_URL": "https://{{ .Values.hostname }}",
                "CATTLE_SYSTEM_DEFAULT_REGISTRY": "{{ .Values.systemDefaultRegistry }}",
                "CATTLE_AGENT_TLS_MODE": "{{ .Values.agentTLSMode }}",
            },
            ports={"http": 80},
            pull_secrets="{{ .Values.imagePullSecrets | toJson }}",
        ),
        service("{{ .Release.Name }}", {"http": 80, "https-internal": 443}),
        service_account("{{ .Release.Name }}"),
        ingress(
            "{{ .Release.Name }}",
            "{{ .Values.hostname }}",
            "{{ .Release.Name }}",
            80,
            class_name="{{ .Values.ingress.ingressClassName }}",
            tls_secret="{{ .Values.ingress.tls.secretName }}",
            when=".Values.ingress.enabled",
        ),
        Piece(
            obj("cert-manager.io/v1", "Issuer", "{{ .Release.Name }}", {"spec": {"ca": {"secretName": "tls-rancher"}}}),
            _RANCHER_TLS,
        ),
        secret(
            "bootstrap-secret",
            {"bootstrapPassword": ".Values.bootstrapPassword"},
            when='not (lookup "v1" "Secret" .Release.Namespace "bootstrap-secret")',
            annotations={"helm.sh/hook": "pre-install,pre-upgrade", "helm.sh/resource-policy": "keep"},
        ),
        hook_job(
            "rancher-pre-upgrade",
            "{{ .Values.preUpgrade.image.repository }}:{{ .Values.preUpgrade.image.tag }}",
            "pre-upgrade",
        ),
        hook_job(
            "rancher-post-delete",
            "{{ .Values.postDelete.image.repository }}:{{ .Values.postDelete.image.tag }}",
            "post-delete",
            when=".Values.postDelete.enabled",
        ),
    ),
    kube={"2.13": "< 1.35.0-0", "2.14": "< 1.36.0-0", "2.15": "< 1.37.0-0"},
    defaults={
        "replicas": 3,
        "antiAffinity": "preferred",
        "agentTLSMode": "",
        "tls": "ingress",
        "image": {"repository": "rancher/rancher"},
        "ingress": {"enabled": True, "tls": {"source": "rancher", "secretName": "tls-rancher-ingress"}},
        "preUpgrade": {"image": {"repository": "rancher/shell", "tag": "v0.6.1"}},
        "postDelete": {"enabled": True, "image": {"repository": "rancher/shell", "tag": "v0.6.1"}},
        "startupProbe": {"failureThreshold": 12, "periodSeconds": 10},
    },
    required=(
        ('and (eq .Values.tls "ingress") (eq .Values.ingress.tls.source "letsEncrypt") (not .Values.letsEncrypt.email)',
         "letsEncrypt.email is required with ingress.tls.source=letsEncrypt"),
        ('not (has .Values.ingress.tls.source (list "rancher" "letsEncrypt" "secret"))',
         "ingress.tls.source must be rancher, letsEncrypt or secret"),
    ),
)  # fmt: skip

# The operator's own chart versions, and the Rancher catalogue's, which wrap them.
_BRO = {
    "9.0.6": "v9.0.6",
    "10.0.8": "v10.0.8",
    "11.0.1": "v11.0.1",
    "109.0.7+up10.0.8": "v10.0.8",
    "110.0.0+up11.0.0": "v11.0.0",
}
_BRO_KUBE = {"9": ">= 1.32.0-0 < 1.35.0-0", "10": ">= 1.33.0-0 < 1.36.0-0", "11": ">= 1.34.0-0 < 1.37.0-0"}

RANCHER_BACKUP_CRD = ChartSpec(
    "rancher-backup-crd",
    _BRO,
    (),
    kube=_BRO_KUBE,
    crds=(
        Crd("resources.cattle.io", "Backup", "backups", namespaced=False),
        Crd("resources.cattle.io", "Restore", "restores", namespaced=False),
        Crd("resources.cattle.io", "ResourceSet", "resourcesets", namespaced=False),
    ),
)


def _resource_set(name: str, kinds: str) -> Piece:
    controller = {"apiVersion": "apps/v1", "resource": "deployments", "name": "rancher", "namespace": "cattle-system"}
    selectors = [{"apiVersion": "management.cattle.io/v3", "kindsRegexp": kinds}]
    body = {"controllerReferences": [controller], "resourceSelectors": selectors}
    return Piece(obj("resources.cattle.io/v1", "ResourceSet", name, body, cluster=True))


RANCHER_BACKUP = ChartSpec(
    "rancher-backup",
    _BRO,
    (
        workload(
            "Deployment",
            "rancher-backup",
            "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}",
            env={
                "DEFAULT_S3_BACKUP_STORAGE_LOCATION": "{{ .Values.s3.bucketName }}",
                "DEFAULT_PERSISTENCE_ENABLED": "{{ .Values.persistence.enabled }}",
            },
        ),
        secret(
            "rancher-backup-s3",
            {key: f".Values.s3.{key}" for key in ("bucketName", "region", "folder", "endpoint", "endpointCA")},
            when=".Values.s3.enabled",
        ),
        claim(
            "rancher-backup-1",
            "{{ .Values.persistence.size }}",
            storage_class='ternary "" .Values.persistence.storageClass (eq .Values.persistence.storageClass "-")',
            when=".Values.persistence.enabled",
        ),
        _resource_set("rancher-resource-set-basic", "."),
        _resource_set("rancher-resource-set-full", ".|secrets"),
    ),
    kube=_BRO_KUBE,
    defaults={
        "image": {"repository": "rancher/backup-restore-operator"},
        "persistence": {"size": "2Gi", "storageClass": "-"},
    },
    required=((".Values.s3.enabled | and .Values.persistence.enabled",
               "the default storage location is either s3 or persistence, not both"),),
)  # fmt: skip

_LH_PULL = (
    "[{{ range $i, $s := .Values.global.imagePullSecrets }}{{ if $i }},{{ end }}"
    '{"name": {{ if kindIs "map" $s }}{{ $s.name | quote }}{{ else }}{{ $s | quote }}{{ end }}}{{ end }}]'
)
_LH_KINDS = (
    ("BackingImage", "backingimages"),
    ("BackingImageManager", "backingimagemanagers"),
    ("BackingImageDataSource", "backingimagedatasources"),
    ("BackupBackingImage", "backupbackingimages"),
    ("Backup", "backups"),
    ("BackupTarget", "backuptargets"),
    ("BackupVolume", "backupvolumes"),
    ("EngineImage", "engineimages"),
    ("Engine", "engines"),
    ("EngineFrontend", "enginefrontends"),
    ("InstanceManager", "instancemanagers"),
    ("Node", "nodes"),
    ("Orphan", "orphans"),
    ("RecurringJob", "recurringjobs"),
    ("Replica", "replicas"),
    ("Setting", "settings"),
    ("ShardGroup", "shardgroups"),
    ("Shard", "shards"),
    ("ShareManager", "sharemanagers"),
    ("Snapshot", "snapshots"),
    ("SupportBundle", "supportbundles"),
    ("SystemBackup", "systembackups"),
    ("SystemRestore", "systemrestores"),
    ("VolumeAttachment", "volumeattachments"),
    ("Volume", "volumes"),
)
_LH_CLASS = """kind: StorageClass
apiVersion: storage.k8s.io/v1
metadata:
  name: longhorn
  annotations:
    storageclass.kubernetes.io/is-default-class: "{{ .Values.persistence.defaultClass }}"
provisioner: driver.longhorn.io
allowVolumeExpansion: true
reclaimPolicy: {{ .Values.persistence.reclaimPolicy }}
volumeBindingMode: {{ .Values.persistence.volumeBindingMode }}
parameters:
  numberOfReplicas: "{{ .Values.persistence.defaultClassReplicaCount }}"
  fsType: {{ .Values.persistence.defaultFsType | quote }}
  dataLocality: {{ .Values.persistence.defaultDataLocality | quote }}
"""
_LH_TARGET = """backup-target: {{ .Values.defaultBackupStore.backupTarget | default "" | quote }}
backup-target-credential-secret: {{ .Values.defaultBackupStore.backupTargetCredentialSecret | default "" | quote }}
"""
_LH_SETTINGS = (
    '{{ range $k, $v := .Values.defaultSettings }}{{ if not (kindIs "invalid" $v) }}'
    "{{ $k | kebabcase }}: {{ $v | toString | quote }}\n{{ end }}{{ end }}"
)

LONGHORN = ChartSpec(
    "suse-storage",
    {"1.10.2": "v1.10.2", "1.11.3": "v1.11.3", "1.12.1": "v1.12.1"},
    (
        workload(
            "DaemonSet",
            "longhorn-manager",
            "{{ .Values.image.longhorn.manager.repository }}:{{ .Chart.AppVersion }}",
            labels={"app": "longhorn-manager"},
            tolerations="{{ .Values.longhornManager.tolerations | toJson }}",
            pull_secrets=_LH_PULL,
        ),
        workload(
            "Deployment",
            "longhorn-driver-deployer",
            "{{ .Values.image.longhorn.manager.repository }}:{{ .Chart.AppVersion }}",
            labels={"app": "longhorn-driver-deployer"},
            tolerations="{{ .Values.longhornDriver.tolerations | toJson }}",
            pull_secrets=_LH_PULL,
            env={
                "CSI_ATTACHER_REPLICA_COUNT": "{{ .Values.csi.attacherReplicaCount | default 3 }}",
                "CSI_PROVISIONER_REPLICA_COUNT": "{{ .Values.csi.provisionerReplicaCount | default 3 }}",
                "CSI_RESIZER_REPLICA_COUNT": "{{ .Values.csi.resizerReplicaCount | default 3 }}",
                "CSI_SNAPSHOTTER_REPLICA_COUNT": "{{ .Values.csi.snapshotterReplicaCount | default 3 }}",
            },
        ),
        workload(
            "Deployment",
            "longhorn-ui",
            "{{ .Values.image.longhorn.ui.repository }}:{{ .Chart.AppVersion }}",
            replicas="{{ .Values.longhornUI.replicas }}",
            labels={"app": "longhorn-ui"},
            pull_secrets=_LH_PULL,
        ),
        service("longhorn-backend", {"manager": 9500}, app="longhorn-manager"),
        service("longhorn-frontend", {"http": 80}, app="longhorn-ui"),
        config_map("longhorn-storageclass", {"storageclass.yaml": _LH_CLASS}),
        config_map("longhorn-default-setting", {"default-setting.yaml": _LH_SETTINGS}),
        config_map("longhorn-default-resource", {"default-resource.yaml": _LH_TARGET}),
        ingress(
            "longhorn-ingress",
            "{{ .Values.ingress.host }}",
            "longhorn-frontend",
            80,
            class_name="{{ .Values.ingress.ingressClassName }}",
            tls_secret="{{ .Values.ingress.tlsSecret }}",
            when=".Values.ingress.enabled",
        ),
        hook_job(
            "longhorn-pre-upgrade",
            "{{ .Values.image.longhorn.manager.repository }}:{{ .Chart.AppVersion }}",
            "pre-upgrade",
            when=".Values.preUpgradeChecker.jobEnabled",
        ),
        hook_job(
            "longhorn-uninstall",
            "{{ .Values.image.longhorn.manager.repository }}:{{ .Chart.AppVersion }}",
            "pre-delete",
        ),
    ),
    kube={"": ">= 1.25.0-0"},
    defaults={
        "persistence": {
            "createStorageClass": True,
            "defaultClass": True,
            "defaultClassReplicaCount": 3,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
            "defaultFsType": "ext4",
            "defaultDataLocality": "disabled",
            "dataEngine": "v1",
        },
        "longhornUI": {"replicas": 2},
        "preUpgradeChecker": {"jobEnabled": True, "upgradeVersionCheck": True},
        "image": {
            "longhorn": {
                part: {"repository": f"rancher/mirrored-longhornio-longhorn-{part}"}
                for part in ("manager", "ui", "engine")
            }
        },
        "networkPolicies": {"restrictInternalTraffic": True, "type": "k3s"},
    },
    crds=tuple(Crd("longhorn.io", kind, plural, ("v1beta2",)) for kind, plural in _LH_KINDS),
)

PLATFORM = (CERT_MANAGER, METALLB, RANCHER, RANCHER_BACKUP_CRD, RANCHER_BACKUP, LONGHORN)
