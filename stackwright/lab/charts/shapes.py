"""The pieces that the lab's stand-in charts are made of: objects as dictionaries whose texts may hold Go templates.

A text that starts with `@@` is written into the template without quotes: for numbers, booleans and whole trees.
Which chart has which pieces is in the product files beside this one; archives are made in build.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, Any]
NS = "{{ .Release.Namespace }}"
RELEASE = "{{ .Release.Name }}"


@dataclass(frozen=True)
class Piece:
    """One object of a chart, rendered only where the template expression `when` is true."""

    body: Tree
    when: str = ""


@dataclass(frozen=True)
class Crd:
    """One custom resource definition; its schema is open, its status a subresource."""

    group: str
    kind: str
    plural: str
    versions: tuple[str, ...] = ("v1",)
    namespaced: bool = True
    status: bool = True

    @property
    def name(self) -> str:
        return f"{self.plural}.{self.group}"

    def manifest(self, annotations: Mapping[str, str] | None = None) -> Tree:
        """Return the definition; the first version is the stored one."""
        open_object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        versions = [
            {
                "name": version,
                "served": True,
                "storage": index == 0,
                "schema": {"openAPIV3Schema": open_object},
                **({"subresources": {"status": {}}} if self.status else {}),
            }
            for index, version in enumerate(self.versions)
        ]
        meta = {"name": self.name, **({"annotations": dict(annotations)} if annotations else {})}
        names = {
            "kind": self.kind,
            "listKind": f"{self.kind}List",
            "plural": self.plural,
            "singular": self.kind.lower(),
        }
        scope = "Namespaced" if self.namespaced else "Cluster"
        spec = {"group": self.group, "names": names, "scope": scope, "versions": versions}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": meta,
            "spec": spec,
        }


@dataclass(frozen=True)
class ChartSpec:
    """One stand-in chart in all its versions.

    `versions` maps the chart's version to the product's; `kube` maps a version's prefix (longest match wins, empty for
    all) to the range in Chart.yaml. `keys` names the list of real value keys. `defaults` are the real defaults of the
    keys that the pieces read. `required` are (expression that must not be true, message) pairs, as the real
    chart refuses. `crds_in` says where CRDs live: `crds` (helm installs them once) or `templates` (they follow the
    release), there under `crds_when` and, where the real chart does so, with the keep policy.
    """

    name: str
    versions: Mapping[str, str]
    pieces: tuple[Piece, ...]
    keys: str = ""
    kube: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    crds: tuple[Crd, ...] = ()
    crds_in: str = "templates"
    crds_when: str = ""
    keep_crds: bool = False
    required: tuple[tuple[str, str], ...] = ()
    strict: bool = False
    removed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Version prefix to value keys that the strict schema of that version does not know any more."""

    def kube_version(self, version: str) -> str:
        prefix = max((key for key in self.kube if version.startswith(key)), key=len, default=None)
        return "" if prefix is None else self.kube[prefix]


def workload(
    kind: str,
    name: str,
    image: str,
    *,
    replicas: str = "1",
    when: str = "",
    labels: Mapping[str, str] | None = None,
    env_from: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    ports: Mapping[str, int] | None = None,
    claims: Sequence[Tree] = (),
    volumes: Mapping[str, str] | None = None,
    tolerations: str = "",
    node_selector: str = "",
    pull_secrets: str = "",
    spec: Mapping[str, Any] | None = None,
) -> Piece:
    """Return a Deployment, StatefulSet or DaemonSet. Tree-valued arguments are template expressions that render JSON.

    `volumes` maps a mount name to an existing claim; `claims` are a StatefulSet's templates; `env_from` names Secrets.
    """
    match = {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": RELEASE}
    all_labels = {**match, "app.kubernetes.io/managed-by": "{{ .Release.Service }}", **(labels or {})}
    container: Tree = {"name": "main", "image": image}
    if ports:
        container["ports"] = [{"name": key, "containerPort": port} for key, port in ports.items()]
    if env:
        container["env"] = [{"name": key, "value": value} for key, value in env.items()]
    if env_from:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in env_from]
    pod: Tree = {"containers": [container], "terminationGracePeriodSeconds": 10}
    if volumes:
        container["volumeMounts"] = [{"name": key, "mountPath": f"/data/{key}"} for key in volumes]
        pod["volumes"] = [
            {"name": key, "persistentVolumeClaim": {"claimName": claim}} for key, claim in volumes.items()
        ]
    for key, expression in (
        ("tolerations", tolerations),
        ("nodeSelector", node_selector),
        ("imagePullSecrets", pull_secrets),
    ):
        if expression:
            pod[key] = f"@@{expression}"
    body: Tree = {"selector": {"matchLabels": match}, "template": {"metadata": {"labels": all_labels}, "spec": pod}}
    if kind != "DaemonSet":
        body["replicas"] = f"@@{replicas}"
    if kind == "StatefulSet":
        body["serviceName"] = name
        body["volumeClaimTemplates"] = list(claims)
    return Piece(obj("apps/v1", kind, name, {"spec": {**body, **(spec or {})}}, labels=all_labels), when)


def obj(
    api_version: str,
    kind: str,
    name: str,
    body: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    cluster: bool = False,
) -> Tree:
    """Return any object, in the release's namespace unless it is cluster-scoped."""
    meta: Tree = {"name": name} if cluster else {"name": name, "namespace": NS}
    meta |= {"labels": dict(labels)} if labels else {}
    meta |= {"annotations": dict(annotations)} if annotations else {}
    return {"apiVersion": api_version, "kind": kind, "metadata": meta, **body}


def service(name: str, ports: Mapping[str, int], *, app: str = "", kind: str = "ClusterIP", when: str = "") -> Piece:
    """Return a Service in front of the workload `app` (the same name when empty)."""
    selector = {"app.kubernetes.io/name": app or name, "app.kubernetes.io/instance": RELEASE}
    listed = [{"name": key, "port": port, "targetPort": port, "protocol": "TCP"} for key, port in ports.items()]
    return Piece(obj("v1", "Service", name, {"spec": {"type": kind, "selector": selector, "ports": listed}}), when)


def ingress(
    name: str,
    host: str,
    backend: str,
    port: int,
    *,
    class_name: str,
    tls_secret: str = "",
    when: str = "",
    path: str = "/",
) -> Piece:
    """Return an Ingress of one host; host, class and Secret are template texts."""
    target = {"service": {"name": backend, "port": {"number": port}}}
    rules = [{"host": host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": target}]}}]
    spec: Tree = {"rules": rules}
    if class_name:
        spec["ingressClassName"] = class_name
    if tls_secret:
        spec["tls"] = [{"hosts": [host], "secretName": tls_secret}]
    return Piece(obj("networking.k8s.io/v1", "Ingress", name, {"spec": spec}), when)


def secret(
    name: str, texts: Mapping[str, str], *, when: str = "", annotations: Mapping[str, str] | None = None
) -> Piece:
    """Return a Secret; the values are template expressions without braces."""
    data = {key: f"@@{{{{ {expression} | toString | b64enc | quote }}}}" for key, expression in texts.items()}
    return Piece(obj("v1", "Secret", name, {"type": "Opaque", "data": data}, annotations=annotations), when)


def claim(name: str, size: str, *, storage_class: str = "", access: str = "ReadWriteOnce", when: str = "") -> Piece:
    """Return a PersistentVolumeClaim; an empty class means the cluster's default."""
    return Piece(obj("v1", "PersistentVolumeClaim", name, {"spec": claim_spec(size, storage_class, access)}), when)


def claim_template(name: str, size: str, storage_class: str = "") -> Tree:
    """Return a claim template of a StatefulSet."""
    return {"metadata": {"name": name}, "spec": claim_spec(size, storage_class, "ReadWriteOnce")}


def claim_spec(size: str, storage_class: str, access: str) -> Tree:
    spec: Tree = {"accessModes": [access], "resources": {"requests": {"storage": size}}}
    if storage_class:
        # A template that renders nothing means: the default class, so the key must not be there as an empty text.
        spec["storageClassName"] = f"@@{{{{ {storage_class} | default nil | toJson }}}}"
    return spec


def hook_job(name: str, image: str, hook: str, *, when: str = "", weight: str = "1") -> Piece:
    """Return a Job that helm runs and waits for at the named point, deleted before the next one."""
    notes = {
        "helm.sh/hook": hook,
        "helm.sh/hook-weight": weight,
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    pod = {"restartPolicy": "OnFailure", "containers": [{"name": "main", "image": image}]}
    return Piece(
        obj("batch/v1", "Job", name, {"spec": {"backoffLimit": 1, "template": {"spec": pod}}}, annotations=notes), when
    )


def service_account(name: str) -> Piece:
    return Piece(obj("v1", "ServiceAccount", name, {}))


def config_map(name: str, data: Mapping[str, str], *, when: str = "") -> Piece:
    """Return a ConfigMap; the values are texts that may hold templates."""
    return Piece(obj("v1", "ConfigMap", name, {"data": dict(data)}), when)
