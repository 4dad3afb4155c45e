"""Stand-in charts of the GPU operators (NVIDIA, AMD, Intel) and of Node Feature Discovery."""

from __future__ import annotations

from stackwright.lab.charts.shapes import ChartSpec, Crd, Piece, hook_job, obj, workload

_NFD_CRDS = (
    Crd("nfd.k8s-sigs.io", "NodeFeature", "nodefeatures", ("v1alpha1",)),
    Crd("nfd.k8s-sigs.io", "NodeFeatureRule", "nodefeaturerules", ("v1alpha1",), namespaced=False),
    Crd("nfd.k8s-sigs.io", "NodeFeatureGroup", "nodefeaturegroups", ("v1alpha1",)),
)
_NFD_IMAGE = "registry.k8s.io/nfd/node-feature-discovery:v0.18.3"


def _nfd(when: str, tolerations: str) -> tuple[Piece, ...]:
    """Return Node Feature Discovery as the operators bundle it."""
    prefix = "{{ .Release.Name }}-node-feature-discovery"
    return (
        workload("Deployment", f"{prefix}-master", _NFD_IMAGE, when=when),
        workload("Deployment", f"{prefix}-gc", _NFD_IMAGE, when=when),
        workload("DaemonSet", f"{prefix}-worker", _NFD_IMAGE, when=when, tolerations=tolerations),
    )


_POLICY_PARTS = ("driver", "toolkit", "devicePlugin", "dcgmExporter", "dcgm", "mig", "migManager", "cdi")

NVIDIA = ChartSpec(
    "gpu-operator",
    {"25.3.4": "v25.3.4", "25.10.1": "v25.10.1", "26.3.3": "v26.3.3", "26.7.0": "v26.7.0"},
    (
        workload(
            "Deployment",
            "gpu-operator",
            "{{ .Values.operator.repository }}/gpu-operator:{{ .Chart.AppVersion }}",
            labels={"app": "gpu-operator"},
            tolerations="{{ .Values.operator.tolerations | toJson }}",
        ),
        Piece(
            obj(
                "nvidia.com/v1",
                "ClusterPolicy",
                "cluster-policy",
                {
                    "spec": {
                        **{part: f"@@{{{{ .Values.{part} | toJson }}}}" for part in _POLICY_PARTS},
                        "operator": {"defaultRuntime": "containerd"},
                        "daemonsets": "@@{{ .Values.daemonsets | toJson }}",
                    }
                },
                cluster=True,
            )
        ),
        *_nfd(
            ".Values.nfd.enabled",
            '{{ (index .Values "node-feature-discovery").worker.tolerations | default (list) | toJson }}',
        ),
        hook_job(
            "gpu-operator-upgrade-crd",
            "{{ .Values.operator.repository }}/gpu-operator:{{ .Chart.AppVersion }}",
            "pre-upgrade",
            when=".Values.operator.upgradeCRD",
        ),
    ),
    kube={"": ">= 1.16.0-0"},
    defaults={
        "operator": {"repository": "nvcr.io/nvidia", "upgradeCRD": True},
        "nfd": {"enabled": True},
        "driver": {"enabled": True},
        "toolkit": {"enabled": True},
        "devicePlugin": {"enabled": True},
        "dcgmExporter": {"enabled": True},
        "migManager": {"enabled": True},
        "cdi": {"enabled": True},
        "mig": {"strategy": "single"},
        "daemonsets": {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]},
        "node-feature-discovery": {
            "worker": {
                "tolerations": [
                    {
                        "key": "node-role.kubernetes.io/control-plane",
                        "operator": "Equal",
                        "value": "",
                        "effect": "NoSchedule",
                    },
                    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                ]
            }
        },
    },
    crds=(
        Crd("nvidia.com", "ClusterPolicy", "clusterpolicies", ("v1",), namespaced=False),
        Crd("nvidia.com", "NVIDIADriver", "nvidiadrivers", ("v1alpha1",), namespaced=False),
        Crd("nvidia.com", "GPUCluster", "gpuclusters", ("v1alpha1",), namespaced=False),
        Crd("resource.nvidia.com", "ComputeDomain", "computedomains", ("v1beta1",)),
        Crd("resource.nvidia.com", "ComputeDomainClique", "computedomaincliques", ("v1beta1",)),
        *_NFD_CRDS,
    ),
    crds_in="crds",
)

AMD = ChartSpec(
    "gpu-operator-charts",
    {"1.5.1": "v1.5.1"},
    (
        workload(
            "Deployment",
            "{{ .Release.Name }}-gpu-operator-charts-controller-manager",
            "docker.io/rocm/gpu-operator:{{ .Chart.AppVersion }}",
            replicas="{{ .Values.controllerManager.replicas }}",
        ),
        workload(
            "Deployment",
            "{{ .Release.Name }}-kmm-controller",
            "docker.io/rocm/kernel-module-management-operator:{{ .Chart.AppVersion }}",
            when=".Values.kmm.enabled",
        ),
        Piece(
            obj("amd.com/v1alpha1", "DeviceConfig", "default", {"spec": "@@{{ .Values.deviceConfig.spec | toJson }}"}),
            ".Values.crds.defaultCR.install",
        ),
        Piece(
            obj(
                "cert-manager.io/v1",
                "Issuer",
                "{{ .Release.Name }}-kmm-selfsigned-issuer",
                {"spec": {"selfSigned": {}}},
            ),
            ".Values.kmm.enabled",
        ),
        *_nfd(
            '(index .Values "node-feature-discovery").enabled',
            '{{ (index .Values "node-feature-discovery").worker.tolerations | default (list) | toJson }}',
        ),
        hook_job(
            "{{ .Release.Name }}-pre-upgrade-check",
            "docker.io/rocm/gpu-operator:{{ .Chart.AppVersion }}",
            "pre-upgrade",
        ),
    ),
    kube={"": ">= 1.29.0-0"},
    defaults={
        "controllerManager": {"replicas": 1},
        "kmm": {"enabled": True},
        "crds": {"defaultCR": {"install": True}},
        "node-feature-discovery": {"enabled": True},
        "deviceConfig": {"spec": {"driver": {"enable": False}, "devicePlugin": {"enableNodeLabeller": True}}},
        "installdefaultNFDRule": True,
    },
    crds=(
        Crd("amd.com", "DeviceConfig", "deviceconfigs", ("v1alpha1",)),
        Crd("kmm.sigs.x-k8s.io", "Module", "modules", ("v1beta1",)),
        *_NFD_CRDS,
    ),
    crds_in="crds",
)

INTEL_OPERATOR = ChartSpec(
    "intel-device-plugins-operator",
    {"0.36.0": "0.36.0"},
    (
        workload(
            "Deployment",
            "inteldeviceplugins-controller-manager",
            "{{ .Values.manager.image.hub }}/intel-deviceplugin-operator:{{ .Values.manager.image.tag | default .Chart.AppVersion }}",  # noqa: E501 - one template
        ),
        Piece(
            obj("cert-manager.io/v1", "Issuer", "inteldeviceplugins-selfsigned-issuer", {"spec": {"selfSigned": {}}}),
        ),
    ),
    defaults={"manager": {"image": {"hub": "intel"}, "devices": {"gpu": True}}},
    crds=tuple(
        Crd("deviceplugin.intel.com", f"{name}DevicePlugin", f"{name.lower()}deviceplugins", namespaced=False)
        for name in ("Gpu", "Qat", "Sgx", "Fpga", "Dsa", "Iaa", "Dlb")
    ),
    crds_in="crds",
)

INTEL_GPU = ChartSpec(
    "intel-device-plugins-gpu",
    {"0.36.0": "0.36.0"},
    (
        Piece(
            obj(
                "deviceplugin.intel.com/v1",
                "GpuDevicePlugin",
                "{{ .Values.name }}",
                {
                    "spec": {
                        "image": "{{ .Values.image.hub }}/intel-gpu-plugin:{{ .Values.image.tag | default .Chart.AppVersion }}",  # noqa: E501 - one template
                        "sharedDevNum": "@@{{ .Values.sharedDevNum }}",
                        "logLevel": "@@{{ .Values.logLevel }}",
                        "enableMonitoring": "@@{{ .Values.enableMonitoring }}",
                        "nodeSelector": "@@{{ .Values.nodeSelector | toJson }}",
                        "tolerations": "@@{{ .Values.tolerations | toJson }}",
                    }
                },
                cluster=True,
            )
        ),
        Piece(
            obj(
                "nfd.k8s-sigs.io/v1alpha1",
                "NodeFeatureRule",
                "intel-dp-gpu-device",
                {
                    "spec": {
                        "rules": [{"name": "intel.gpu", "labels": {"intel.feature.node.kubernetes.io/gpu": "true"}}]
                    }
                },
                cluster=True,
            ),
            ".Values.nodeFeatureRule",
        ),
    ),
    defaults={
        "name": "gpudeviceplugin-sample",
        "image": {"hub": "intel"},
        "sharedDevNum": 1,
        "logLevel": 2,
        "nodeSelector": {"intel.feature.node.kubernetes.io/gpu": "true"},
        "nodeFeatureRule": True,
    },
)

NFD = ChartSpec(
    "node-feature-discovery",
    {"0.18.3": "v0.18.3"},
    (
        workload("Deployment", "{{ .Release.Name }}-master", _NFD_IMAGE, replicas="{{ .Values.master.replicaCount }}"),
        workload("Deployment", "{{ .Release.Name }}-gc", _NFD_IMAGE, when=".Values.gc.enable"),
        workload(
            "DaemonSet",
            "{{ .Release.Name }}-worker",
            _NFD_IMAGE,
            tolerations="{{ .Values.worker.tolerations | toJson }}",
        ),
    ),
    kube={"": ">= 1.24.0-0"},
    defaults={
        "master": {"replicaCount": 1, "enable": True},
        "worker": {"enable": True},
        "gc": {"enable": True, "replicaCount": 1},
    },
    crds=_NFD_CRDS,
    crds_in="crds",
)

GPU = (NVIDIA, AMD, INTEL_OPERATOR, INTEL_GPU, NFD)
