"""What the preflight looks at on a site: names, registries with their charts and images, blocks, peers and ports."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from stackwright.domain.kinds import Kind
from stackwright.domain.layers import clearml as clearml_layer
from stackwright.domain.layers import enabled, observability, order, rancher, registry, suse_ai
from stackwright.domain.layers.model import Chart
from stackwright.domain.spec import Node, StackSpec
from stackwright.domain.tenant_objects import AGENT_CHART, GATEWAY_CHART, agent_version, gateway_version, router_host
from stackwright.domain.versions import DEFAULTS

DOCKER_HOST = "registry-1.docker.io"
NONSENSE = "stackwright-no-such-name"
SUPERVISOR, ETCD, ETCD_PEER, KUBELET, METALLB = 9345, 2379, 2380, 10250, 7946
WEB = (80, 443)
OVERLAY_PORT = {"canal": 8472, "cilium": 8472, "calico": 4789, "flannel": 4789}
REACH_S = 6
FIELDS: dict[Kind, tuple[str, ...]] = {
    "ssh-key": ("private_key",),
    "registration": ("code",),
    "registry": ("username", "password"),
    "api-key": ("access_key", "secret_key"),
    "s3": ("access_key", "secret_key"),
    "cluster-access": ("kubeconfig",),
    "secret-text": ("value",),
    "certificate": ("certificate", "private_key"),
}


# --- names ----------------------------------------------------------------------------------------------------------


def platform_names(spec: StackSpec) -> tuple[str, ...]:
    """Return every host name that people and layers will use, without addresses."""
    layers = {layer.name for layer in enabled(spec)}
    hosts = [spec.rke2.registration_address]
    for name, module in (("rancher", rancher), ("registry", registry), ("observability", observability)):
        if name in layers:
            hosts.append(module.host(spec))
    if "suse_ai" in layers:
        hosts.append(suse_ai.host(spec))
    if "clearml" in layers:
        hosts += [clearml_layer.host(spec, component) for component in clearml_layer.COMPONENTS]
        hosts += [router_host(spec, tenant) for tenant in spec.tenants]
    return tuple(name for name in dict.fromkeys(hosts) if not is_address(name))


def session_names(spec: StackSpec) -> tuple[str, ...]:
    """Return the names at which tenants' TCP sessions are reached; the guide calls them optional."""
    if not spec.layers.clearml.enabled:
        return ()
    return tuple(f"tcp-{router_host(spec, tenant)}" for tenant in spec.tenants if tenant.tcp_ports)


def service_names(spec: StackSpec) -> tuple[str, ...]:
    """Return the names of the services around the cluster that hosts ask: mirrors, artifacts, RMT, time, store."""
    urls = [endpoint for endpoints in spec.rke2.registries.mirrors.values() for endpoint in endpoints]
    urls += [repository.url for repository in spec.packages.repositories]
    urls += [spec.registration.url or "", spec.rke2.artifacts.url or "", spec.charts.mirror or ""]
    hosts = [urlsplit(url).hostname or "" for url in urls]
    return tuple(name for name in dict.fromkeys(hosts) if name and not is_address(name))


def nonsense_names(spec: StackSpec) -> tuple[str, ...]:
    """Return names that nobody has: one below each search domain, and below the platform's own domain."""
    domains = dict.fromkeys((*spec.dns.search, spec.ingress.domain))
    return tuple(f"{NONSENSE}.{domain}" for domain in domains)


def new_router(spec: StackSpec) -> str:
    """Return the name that the next tenant's gateway would have: a wildcard below the base domain answers it."""
    return f"router-{NONSENSE}.{spec.clearml.base_domain}"


def looked_up(spec: StackSpec) -> tuple[str, ...]:
    """Return all names that the controller and every host look up."""
    names = (*platform_names(spec), *session_names(spec), *service_names(spec), *nonsense_names(spec), new_router(spec))
    return tuple(dict.fromkeys(names))


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# --- registries -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pull:
    """One chart or image to ask a registry for. `base` is the registry's address, `block` its login's block, if any.

    For a classic chart repository `repository` is the chart's name and `base` the repository's address.
    """

    kind: str
    name: str
    base: str
    repository: str
    tag: str
    block: str = ""
    ca_file: str = ""

    @property
    def key(self) -> str:
        return f"{self.name}:{self.tag}"

    @property
    def host(self) -> str:
        return urlsplit(self.base).netloc


def charts(spec: StackSpec) -> tuple[Pull, ...]:
    """Return every chart that the site's layers and tenants would pull, at the place where helm would ask for it."""
    found = {
        pull.key: pull
        for layer in order(spec)
        for release in layer.releases(spec)
        for pull in (_chart(spec, release.chart, release.version),)
    }
    if spec.layers.clearml.enabled and spec.tenants:
        for chart, version in ((AGENT_CHART, agent_version(spec)), (GATEWAY_CHART, gateway_version(spec))):
            pull = _chart(spec, chart, version)
            found[pull.key] = pull
    return tuple(found.values())


def _chart(spec: StackSpec, chart: Chart, version: str) -> Pull:
    address, repo = chart.address(spec.charts.mirror)
    ca_file = spec.charts.ca_file or ""
    if repo is not None:
        return Pull("repository", chart.name, repo, chart.name, version, "", ca_file)
    host, _, path = address.removeprefix("oci://").partition("/")
    block = spec.charts.credentials.get(host, "")
    if not block and host == "docker.io":  # ClearML's own login. Guide: 5.7.1 step 6
        block = spec.clearml.registry_block
    return Pull("oci", chart.name, f"https://{_real(host)}", path, version.replace("+", "_"), block, ca_file)


def images(spec: StackSpec) -> tuple[Pull, ...]:
    """Return one real image for each registry whose images hosts pull, at the place where containerd would ask.

    Only images whose name and tag are sure: the runtime image that every host needs, and one of each upstream layer.
    """
    registries = spec.rke2.registries
    wanted: list[tuple[str, str, str]] = []
    if not spec.rke2.artifacts.images:
        home = registries.system_default_registry or "docker.io"
        wanted.append((home, "rancher/rke2-runtime", spec.rke2.version.replace("+", "-")))
    if spec.layers.cert_manager.enabled and (registries.mirrors.get("quay.io") or not spec.charts.mirror):
        version = spec.layers.cert_manager.version or DEFAULTS["cert_manager"]
        wanted.append(("quay.io", "jetstack/cert-manager-controller", f"v{version.removeprefix('v')}"))
    return tuple(pull for upstream, path, tag in wanted for pull in _image(spec, upstream, path, tag))


def _image(spec: StackSpec, upstream: str, path: str, tag: str) -> Iterator[Pull]:
    """Yield an image at each mirror of its registry, rewritten as containerd does; else at the registry itself."""
    registries = spec.rke2.registries
    ca_file = registries.ca_file or ""
    mirrors = registries.mirrors.get(upstream, ())
    rewritten = _rewritten(path, registries.rewrites.get(upstream, {}))
    for endpoint in mirrors:
        parts = urlsplit(endpoint)
        block = registries.credentials.get(parts.netloc, "")
        yield Pull("image", rewritten, f"{parts.scheme}://{parts.netloc}", rewritten, tag, block, ca_file)
    if not mirrors:
        own = upstream == registries.system_default_registry
        block = registries.credentials.get(upstream, "")
        yield Pull("image", path, f"https://{_real(upstream)}", path, tag, block, ca_file if own else "")


def _rewritten(path: str, rules: dict[str, str]) -> str:
    for pattern, replacement in rules.items():
        # Go writes groups as $1 or ${1}.
        changed = re.sub(pattern, re.sub(r"\$\{?(\d+)\}?", r"\\\1", replacement), path, count=1)
        if changed != path:
            return changed
    return path


def _real(host: str) -> str:
    return DOCKER_HOST if host in ("docker.io", "index.docker.io") else host


# --- blocks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WantedBlock:
    """A block that the site file names, the place that names it, and whether the deploy makes it when it is missing."""

    kind: Kind
    name: str
    place: str
    made: bool = False

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"


def blocks(spec: StackSpec) -> tuple[WantedBlock, ...]:
    """Return every block of the site that a deploy reads, each once."""
    made = {secret.block for layer in order(spec) for secret in layer.secrets(spec)}
    found: list[tuple[Kind, str | None, str]] = [("ssh-key", spec.ssh.key_block, "ssh.key_block")]
    found.append(("registration", spec.registration.code_block, "registration.code_block"))
    for place, logins in (("rke2.registries", spec.rke2.registries), ("charts", spec.charts)):
        found += [("registry", block, f"{place}.credentials[{host}]") for host, block in logins.credentials.items()]
    layers = {layer.name for layer in enabled(spec)}
    if spec.ingress.tls == "private-ca" and "cert_manager" in layers:
        found.append(("certificate", spec.ingress.ca_block, "ingress.ca_block"))
    if spec.ingress.tls == "secret" and layers:
        found.append(("certificate", spec.ingress.certificate_block, "ingress.certificate_block"))
    if spec.validation.pull_block:
        found.append(("registry", spec.validation.pull_block, "validation.pull_block"))
    if "observability" in layers:
        found.append(("secret-text", spec.layers.observability.license_block, "layers.observability.license_block"))
    if "clearml" in layers:
        found.append(("registry", spec.clearml.registry_block, "clearml.registry_block"))
        found += [
            ("secret-text", tenant.identity.client_block, f"tenants[{tenant.name}].identity.client_block")
            for tenant in spec.tenants
            if tenant.identity
        ]
    for place, store in stores(spec).items():
        found.append(("s3", store.credentials_block, f"{place}.credentials_block"))
    unique = {(kind, name): place for kind, name, place in reversed(found) if name}
    return tuple(WantedBlock(kind, name, place, name in made) for (kind, name), place in reversed(unique.items()))


def stores(spec: StackSpec) -> dict[str, Any]:
    """Return the backup stores by their place in the site file."""
    if spec.backup is None:
        return {}
    return {"backup": spec.backup, **({"backup.second": spec.backup.second} if spec.backup.second else {})}


def ca_files(spec: StackSpec) -> dict[str, str]:
    """Return the CA files on the controller that the site file names: place to path."""
    given = {
        "rke2.registries.ca_file": spec.rke2.registries.ca_file,
        "rke2.artifacts.ca_file": spec.rke2.artifacts.ca_file,
        "charts.ca_file": spec.charts.ca_file,
        "ingress.ca_file": spec.ingress.ca_file,
        **{f"{place}.ca_file": store.ca_file for place, store in stores(spec).items()},
    }
    return {place: path for place, path in given.items() if path}


# --- peers and ports ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Target:
    """A TCP port that one host must reach. `peer` is a node's name, or the registration address."""

    peer: str
    address: str
    port: int


def targets(spec: StackSpec, node: Node) -> tuple[Target, ...]:
    """Return the ports that a host must reach on the others. RKE2 documentation: requirements, networking.

    Every host asks every server, and servers ask every host, so each of those pairs is tried both ways. Agents among
    themselves would be a square of the site's size: each asks those 1, 2, 4, 8 ... places away, both ways round.
    """
    found: list[Target] = []
    for server in spec.servers:
        if server.name != node.name:
            found += [Target(server.name, server.address, port) for port in (SUPERVISOR, spec.rke2.api_port)]
            if node.is_server:
                found += [Target(server.name, server.address, port) for port in (ETCD, ETCD_PEER)]
    for other in neighbours(spec, node):
        ports = [KUBELET, *((METALLB,) if spec.layers.metallb.enabled else ())]
        ports += WEB if spec.rke2.ingress_controller != "none" and node.is_server else ()
        found += [Target(other.name, other.address, port) for port in ports]
    balancer = spec.rke2.registration_address
    address = spec.dns.hosts.get(balancer, balancer)
    found += [Target(balancer, address, port) for port in (SUPERVISOR, spec.rke2.api_port)]
    name = ingress_name(spec)
    found += [Target(name, spec.dns.hosts.get(name, name), port) for port in ingress_ports(spec)]
    return tuple(dict.fromkeys(found))


def ingress_name(spec: StackSpec) -> str:
    """Return one of the platform's names behind the ingress controller; empty where there is none."""
    if spec.rke2.ingress_controller == "none":
        return ""
    return next((name for name in platform_names(spec) if name != spec.rke2.registration_address), "")


def ingress_ports(spec: StackSpec) -> tuple[int, ...]:
    """Return the ports on which the platform's names are asked."""
    return tuple(dict.fromkeys((WEB[0], spec.ingress.https_port))) if ingress_name(spec) else ()


def neighbours(spec: StackSpec, node: Node) -> tuple[Node, ...]:
    """Return the hosts that a host is tried against: all for a server, else all servers and a few agents."""
    if node.is_server:
        return tuple(other for other in spec.nodes if other.name != node.name)
    agents = spec.agents
    place = [other.name for other in agents].index(node.name)
    steps = [1 << bit for bit in range(max(1, len(agents) - 1).bit_length())]
    near = [agents[(place + sign * step) % len(agents)] for step in steps if step < len(agents) for sign in (1, -1)]
    found = {other.name: other for other in (*spec.servers, *near) if other.name != node.name}
    return tuple(found.values())


def pinged(spec: StackSpec, node: Node) -> tuple[Node, ...]:
    """Return the hosts to which a host measures its path: all servers, and its nearest agents."""
    others = [server for server in spec.servers if server.name != node.name]
    if not node.is_server:
        others += [other for other in neighbours(spec, node) if not other.is_server][:2]
    elif len(others) == 0:
        others += neighbours(spec, node)[:2]
    return tuple(others)


# --- addresses that hosts fetch -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fetch:
    """An address that every host asks over HTTPS; `ca` names the CA file whose text goes along, if any."""

    key: str
    url: str
    ca: str = ""


def fetches(spec: StackSpec) -> tuple[Fetch, ...]:
    """Return what every host fetches: registration, packages, RKE2's files, each registry's greeting."""
    found: list[Fetch] = []
    where = {"scc": "https://scc.suse.com", "rmt": spec.registration.url, "multi-linux-manager": spec.registration.url}
    if url := where.get(spec.registration.kind):
        found.append(Fetch("registration", url))
    found += [Fetch(f"repository {repository.name}", repository.url) for repository in spec.packages.repositories]
    artifacts = spec.rke2.artifacts
    if artifacts.source == "url" and artifacts.url:
        version = spec.rke2.version.replace("+", "%2B")
        url = f"{artifacts.url.rstrip('/')}/{version}/sha256sum-amd64.txt"
        found.append(Fetch("artifacts", url, artifacts.ca_file or ""))
    registries = {pull.base: pull.ca_file for pull in images(spec)}
    found += [Fetch(f"registry {urlsplit(base).netloc}", f"{base}/v2/", ca) for base, ca in registries.items()]
    return tuple(found)
