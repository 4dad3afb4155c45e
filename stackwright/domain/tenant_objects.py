"""What one tenant has on the cluster: namespace, quota, limits, policies, pull Secret, agent and gateway values.

Pure functions of the spec; secrets stand as markers. When each is applied is decided in tenants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stackwright.domain.layers import gpu_operator
from stackwright.domain.layers.clearml import CHART as SERVER_CHART
from stackwright.domain.layers.clearml import NAMESPACE as SERVER_NAMESPACE
from stackwright.domain.layers.model import Chart, ObjectSpec, ReleaseSpec
from stackwright.domain.layers.shared import MANAGED_BY, PSA, ingress_class, secret_object, tls_objects
from stackwright.domain.spec import Queue, StackSpec, Tenant
from stackwright.domain.tenant_gpus import gpu_resource as gpu_resource
from stackwright.domain.tenant_gpus import monitored, on_gpus, pod_needs, quota_entries
from stackwright.domain.tenant_workspace import CLAIM, claim_body, mounts
from stackwright.domain.values import Marker, secret
from stackwright.domain.versions import DEFAULTS, STREAM_SESSION_SINCE, parse_chart, v

AGENT_CHART = Chart("clearml-enterprise-agent", SERVER_CHART.home)  # not the gateway's, which the guide's 5.8.3 prints
GATEWAY_CHART = Chart("clearml-enterprise-app-gateway", SERVER_CHART.home)
AGENT_RELEASE = "clearml-enterprise-agent"
GATEWAY_RELEASE = "clearml-app-gateway"  # also the router's name in ClearML; one namespace a tenant keeps it unique
PULL_SECRET = "clearml-registry"  # noqa: S105  a name
PULL_HOST = "docker.io"
GATEWAY_TLS = "clearml-gateway-tls"
QUOTA, LIMITS = "tenant-quota", "tenant-limits"
TENANT_LABEL = "stackwright.io/tenant"
SITE_LABEL = "stackwright.io/site"
INGRESS_PORTS = (80, 443, 8000, 8443)  # as seen on the controller's pods: Traefik listens on the last two
SERVER_PORTS = (8008, 8081, 8080)  # apiserver, fileserver, webserver. ClearML: Enterprise on Kubernetes
OVERHEAD_CPU_M, OVERHEAD_MEMORY_MIB = 1000, 2048  # kept for the agent, the router and the proxy
LEAST_CPU_M, LEAST_MEMORY_MIB = 100, 256

# Where the dashboard's GPU number is set moved twice. ClearML: agent on Kubernetes, orchestration dashboard (history).
DASHBOARD_GPU_SINCE = v("6.12")
DASHBOARD_SINCE = v("6.10.3")


def agent_version(spec: StackSpec) -> str:
    return spec.clearml.agent_version or DEFAULTS["clearml.agent"]


def gateway_version(spec: StackSpec) -> str:
    return spec.clearml.gateway_version or DEFAULTS["clearml.gateway"]


def router_host(spec: StackSpec, tenant: Tenant) -> str:
    """Return the host name of the tenant's application gateway."""
    return f"router-{tenant.name}.{spec.clearml.base_domain}"


# --- namespace and limits --------------------------------------------------------------------------------------------


def namespace(spec: StackSpec, tenant: Tenant) -> ObjectSpec:
    """Baseline: a job may run as root in its container, but never on the host. RKE2's CIS profile says restricted."""
    labels = {**_labels(spec, tenant), **{f"{PSA}{mode}": "baseline" for mode in ("enforce", "audit", "warn")}}
    meta = {"name": tenant.namespace, "labels": labels}
    return ObjectSpec({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})


def quota(spec: StackSpec, tenant: Tenant) -> ObjectSpec:
    want = tenant.quota
    hard = {
        "requests.cpu": str(want.cpu),
        "limits.cpu": str(want.cpu),
        "requests.memory": memory_text(want.memory_gib * 1024),
        "limits.memory": memory_text(want.memory_gib * 1024),
        "requests.storage": memory_text(want.storage_gib * 1024),
        "pods": str(want.pods),
        **quota_entries(spec, tenant),
    }
    return _object(spec, tenant, "v1", "ResourceQuota", QUOTA, {"hard": hard})


def limits(spec: StackSpec, tenant: Tenant) -> ObjectSpec:
    """Give a share to pods that ask for nothing: with a quota in force they would be refused."""
    cpu, memory = job_share(tenant)
    default = {"cpu": cpu_text(cpu), "memory": memory_text(memory)}
    request = {"cpu": cpu_text(LEAST_CPU_M), "memory": memory_text(LEAST_MEMORY_MIB)}
    return _object(
        spec, tenant, "v1", "LimitRange", LIMITS,
        {"limits": [{"type": "Container", "default": default, "defaultRequest": request}]},
    )  # fmt: skip


def job_share(tenant: Tenant) -> tuple[int, int]:
    """Return millicores and MiB of one job: the quota shared out over all jobs that the queues may run at once."""
    jobs = max(1, sum(queue.max_pods for queue in tenant.queues))
    cpu = (tenant.quota.cpu * 1000 - OVERHEAD_CPU_M) // jobs
    memory = (tenant.quota.memory_gib * 1024 - OVERHEAD_MEMORY_MIB) // jobs
    return max(LEAST_CPU_M, cpu // 100 * 100), max(LEAST_MEMORY_MIB, memory // 64 * 64)


def has_room_beside_a_job(tenant: Tenant) -> bool:
    """Tell whether the quota leaves room for a small pod while one job runs: where only one may, it takes all."""
    return sum(queue.max_pods for queue in tenant.queues) > 1


def cpu_text(millicores: int) -> str:
    """Write a quantity as the API server gives it back, so that it compares equal. Kubernetes: quantities."""
    return f"{millicores}m" if millicores % 1000 else str(millicores // 1000)


def memory_text(mib: int) -> str:
    """Write a quantity of memory as the API server gives it back: with the largest unit that leaves it whole."""
    for unit in ("Mi", "Gi", "Ti"):
        if mib % 1024 or unit == "Ti":
            return f"{mib}{unit}"
        mib //= 1024
    return str(mib)


def workspace(spec: StackSpec, tenant: Tenant) -> tuple[ObjectSpec, ...]:
    """The volume that all jobs share, where the tenant has one. It counts as the quota's storage."""
    if not tenant.workspace_gib:
        return ()
    body = claim_body(spec, tenant, memory_text(tenant.workspace_gib * 1024))
    return (_object(spec, tenant, "v1", "PersistentVolumeClaim", CLAIM, body),)


def pull_secret(spec: StackSpec, tenant: Tenant) -> ObjectSpec:
    """The vendor's token as a pull Secret for the jobs, which the agent's own Secret does not serve."""
    texts = {".dockerconfigjson": str(Marker("pull", f"{PULL_HOST}={spec.clearml.registry_block}"))}
    return secret_object(tenant.namespace, PULL_SECRET, texts, "kubernetes.io/dockerconfigjson")


# --- network ---------------------------------------------------------------------------------------------------------


def network(spec: StackSpec, tenant: Tenant) -> tuple[ObjectSpec, ...]:
    """Nothing in or out but: DNS, the API server, ClearML, the ingress controller, the tenant itself, whom it lets in.

    The public names of ClearML lead to an address outside the cluster, or to its own load balancer: HTTPS is open to
    every address that is neither a pod nor a service.
    """
    https = sorted({443, spec.ingress.https_port})
    outside = [{"ipBlock": {"cidr": everything, "except": inner}} for everything, inner in _outside(spec)]
    servers = [{"ipBlock": {"cidr": _host_cidr(node.address)}} for node in spec.servers]
    controller = {"namespaceSelector": _named("kube-system")}
    web = [_port(port) for port in INGRESS_PORTS]
    api_ports = [_port(port) for port in sorted({443, spec.rke2.api_port})]
    clearml = [
        {"to": [{"namespaceSelector": _named(SERVER_NAMESPACE)}], "ports": [_port(port) for port in SERVER_PORTS]},
        {"to": outside, "ports": [_port(port) for port in https]},
    ]
    policies: dict[str, dict[str, Any]] = {
        "default-deny": {"policyTypes": ["Ingress", "Egress"]},
        "allow-own-namespace": {
            "ingress": [{"from": [{"podSelector": {}}]}],
            "egress": [{"to": [{"podSelector": {}}]}],
        },
        "allow-dns": {"egress": [{"to": [controller], "ports": [_port(53, "UDP"), _port(53)]}]},
        "allow-api-server": {"egress": [{"to": [*servers, _services(spec)], "ports": api_ports}]},
        "allow-clearml": {"egress": clearml},
        "allow-ingress-controller": {
            "ingress": [{"from": [controller]}],
            "egress": [{"to": [controller], "ports": web}],
        },
    }
    if tenant.tcp_ports:
        ports = [{**_port(tenant.tcp_ports.start), "endPort": tenant.tcp_ports.end}]
        gateway = {"matchLabels": {"app.kubernetes.io/instance": GATEWAY_RELEASE}}
        policies["allow-sessions"] = {"podSelector": gateway, "ingress": [{"ports": ports}]}
    if tenant.allowed_namespaces:
        names = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": sorted(tenant.allowed_namespaces)}
        policies["allow-namespaces"] = {"ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [names]}}]}]}
    return tuple(_policy(spec, tenant, name, policy) for name, policy in policies.items())


def _policy(spec: StackSpec, tenant: Tenant, name: str, policy: Mapping[str, Any]) -> ObjectSpec:
    types = [kind for kind in ("Ingress", "Egress") if kind.lower() in policy]
    full = {"podSelector": {}, "policyTypes": types, **policy}
    return _object(spec, tenant, "networking.k8s.io/v1", "NetworkPolicy", name, full)


def _outside(spec: StackSpec) -> list[tuple[str, list[str]]]:
    """Return, for IPv4 and IPv6 as the cluster has them, everything and what lies inside the cluster."""
    inner = [part.strip() for text in (spec.rke2.cluster_cidr, spec.rke2.service_cidr) for part in text.split(",")]
    four, six = [part for part in inner if ":" not in part], [part for part in inner if ":" in part]
    return [(everything, found) for everything, found in (("0.0.0.0/0", four), ("::/0", six)) if found]


def _services(spec: StackSpec) -> dict[str, Any]:
    """The API server's own Service: some CNIs look at a packet before its Service address is exchanged."""
    return {"ipBlock": {"cidr": spec.rke2.service_cidr.split(",")[0].strip()}}


def _host_cidr(address: str) -> str:
    return f"{address}/128" if ":" in address else f"{address}/32"


def _named(namespace: str) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _port(port: int, protocol: str = "TCP") -> dict[str, Any]:
    return {"port": port, "protocol": protocol}


# --- releases --------------------------------------------------------------------------------------------------------


def agent(spec: StackSpec, tenant: Tenant, pools: Mapping[str, tuple[str, ...]] | None = None) -> ReleaseSpec:
    """The tenant's agent, with the tenant admin's own credentials. Guide: 5.8.3, chart and keys corrected.

    `pools` maps a queue that the resource policy governs to the ids of the queues that the agent serves in its place.
    """
    version = agent_version(spec)
    values = agent_values(spec, tenant, version, pools)
    return ReleaseSpec(AGENT_RELEASE, tenant.namespace, AGENT_CHART, "clearml.agent", version, values)


def agent_values(
    spec: StackSpec, tenant: Tenant, version: str, pools: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, Any]:
    domain, block = spec.clearml.base_domain, tenant.credentials_block
    glue = {
        "apiServerUrlReference": spec.url("api", domain),
        "fileServerUrlReference": spec.url("files", domain),
        "webServerUrlReference": spec.url("app", domain),
        "createQueues": True,
        "queues": {
            served: _queue(spec, tenant, queue, version)
            for queue in tenant.queues
            for served in (pools or {}).get(queue.name, (queue.name,))
        },
        "basePodTemplate": {"imagePullSecrets": [{"name": PULL_SECRET}]},
        **_capacity(spec, tenant, version),
    }
    return {
        "imageCredentials": {
            "password": secret(spec.clearml.registry_block, "password"),
            "extraImagePullSecrets": [{"name": PULL_SECRET}],
        },
        "clearml": {
            "agentk8sglueKey": secret(block, "access_key"),
            "agentk8sglueSecret": secret(block, "secret_key"),
        },
        "agentk8sglue": glue,
        **_certificates(spec, propagateToTasks=True),
    }


def _queue(spec: StackSpec, tenant: Tenant, queue: Queue, version: str) -> dict[str, Any]:
    cpu, memory = job_share(tenant)
    share = {"cpu": cpu_text(cpu), "memory": memory_text(memory)}
    labels, gpus = pod_needs(spec, tenant, queue)
    template: dict[str, Any] = {"resources": {"limits": {**share, **gpus}, "requests": share}}
    if labels:
        template["labels"] = labels
    if on_gpus(queue):
        taints = dict.fromkeys(taint for node in spec.gpu_nodes for taint in node.taints)
        if taints:
            tolerations = [{"key": taint.key, "operator": "Exists", "effect": taint.effect} for taint in taints]
            template["tolerations"] = tolerations
        if runtime := gpu_operator.runtime_class(spec):
            template["runtimeClassName"] = runtime
    template |= mounts(tenant, version)
    return {"templateOverrides": template, "queueSettings": {"maxPods": queue.max_pods}}


def _capacity(spec: StackSpec, tenant: Tenant, version: str) -> dict[str, Any]:
    """Say how many GPUs the tenant may use: to the agent, which then starts no job beyond, and to the dashboard."""
    gpus, parsed = tenant.quota.gpus, parse_chart(version)
    if not gpus:
        return {}
    counted = monitored(spec, tenant)
    values: dict[str, Any] = {"monitoredResources": dict(counted)} if counted else {}
    if parsed is None or parsed >= DASHBOARD_GPU_SINCE:
        return {**values, "orchestrationDashboard": {"gpu": {"reportMax": gpus}}}
    if parsed >= DASHBOARD_SINCE:
        return {**values, "orchestrationDashboard": {"reportMaxGpu": gpus}}
    return {**values, "dashboardReportMaxGpu": gpus}


def gateway(spec: StackSpec, tenant: Tenant) -> ReleaseSpec:
    """The tenant's application gateway, in its agent's namespace. Guide: 5.9, keys corrected."""
    version = gateway_version(spec)
    values = gateway_values(spec, tenant, version)
    return ReleaseSpec(GATEWAY_RELEASE, tenant.namespace, GATEWAY_CHART, "clearml.gateway", version, values)


def gateway_values(spec: StackSpec, tenant: Tenant, version: str) -> dict[str, Any]:
    domain, block = spec.clearml.base_domain, tenant.credentials_block
    values: dict[str, Any] = {
        "imageCredentials": {"password": secret(spec.clearml.registry_block, "password")},
        "clearml": {
            "apiKey": secret(block, "access_key"),
            "apiSecret": secret(block, "secret_key"),
            "apiServerUrlReference": spec.url("api", domain),
            "authCookieName": spec.clearml.auth_cookie_name,
        },
        "ingress": {
            "enabled": True,
            "hostName": router_host(spec, tenant),
            "ingressClassName": ingress_class(spec),
            "tlsSecretName": GATEWAY_TLS,
        },
        **_certificates(spec),
    }
    if tenant.tcp_ports:
        parsed = parse_chart(version)
        section = "tcpSession" if parsed and parsed < STREAM_SESSION_SINCE else "streamSession"
        values[section] = {
            "routerAddress": f"tcp-{router_host(spec, tenant)}",
            "service": {"type": "LoadBalancer" if spec.layers.metallb.enabled else "NodePort"},
            "portRange": {"start": tenant.tcp_ports.start, "end": tenant.tcp_ports.end},
        }
    return values


def gateway_objects(spec: StackSpec, tenant: Tenant) -> tuple[ObjectSpec, ...]:
    """What the gateway's ingress needs beside the release: its certificate."""
    return tls_objects(spec, tenant.namespace, GATEWAY_TLS, (router_host(spec, tenant),))


def _certificates(spec: StackSpec, **more: bool) -> dict[str, Any]:
    """Let the tenant's pods trust the site's own CA. ClearML: self-signed certificates."""
    if spec.ingress.tls != "private-ca" or spec.ingress.ca_block is None:
        return {}
    pem = secret(spec.ingress.ca_block, "certificate")
    return {"customCertificates": {"extraCerts": [{"alias": "site-ca", "pem": pem}], **more}}


# --- shape -----------------------------------------------------------------------------------------------------------


def _labels(spec: StackSpec, tenant: Tenant) -> dict[str, str]:
    return {**MANAGED_BY, TENANT_LABEL: tenant.name, SITE_LABEL: spec.site}


def _object(
    spec: StackSpec, tenant: Tenant, api_version: str, kind: str, name: str, body: Mapping[str, Any]
) -> ObjectSpec:
    meta = {"name": name, "namespace": tenant.namespace, "labels": _labels(spec, tenant)}
    return ObjectSpec({"apiVersion": api_version, "kind": kind, "metadata": meta, "spec": dict(body)})
