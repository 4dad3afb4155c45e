"""Rules of registration, packages and RKE2: arguments, schedule, artifacts, registries. Guide: 5.1, 5.2."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stackwright.domain.checks.syntax import is_cron, is_dns_name, is_host, repeated, url_host
from stackwright.domain.errors import Problem
from stackwright.domain.spec import StackSpec

_ARGUMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*=\S.*")
_PRODUCT = re.compile(r"[A-Za-z0-9_.-]+/[0-9][0-9.]*/[a-z0-9_]+")
_FINGERPRINT = re.compile(r"([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}|[0-9A-Fa-f]{64}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]*")
_SCRIPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.sh")
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?")

# What K3s calls its own parts; RKE2's are Helm charts with other names. RKE2: server configuration, `disable`.
_K3S_PARTS = {
    "traefik": "rke2-traefik",
    "coredns": "rke2-coredns",
    "metrics-server": "rke2-metrics-server",
    "servicelb": "nothing: RKE2 has it off unless enable-servicelb is set",
    "local-storage": "nothing: RKE2 brings no storage class",
}
# Keys of RKE2's or K3s's own configuration that no kubelet or etcd knows.
_NOT_A_COMPONENT_ARGUMENT = {
    "cluster-init",
    "datastore-endpoint",
    "disable",
    "docker",
    "flannel-backend",
    "flannel-iface",
    "node-label",
    "node-taint",
    "server",
    "tls-san",
    "token",
    "write-kubeconfig-mode",
}
_SET_ELSEWHERE = {
    "node-labels": "nodes[].labels",
    "register-with-taints": "nodes[].taints",
    "cluster-domain": "rke2.cluster_domain",
    "hostname-override": "nodes[].name",
}


def check_cluster(spec: StackSpec) -> list[Problem]:
    """Return every problem of registration, packages and RKE2's own section."""
    problems = [*_registration(spec), *_packages(spec), *_names(spec), *_arguments(spec), *_artifacts(spec)]
    return [*problems, *_registries(spec)]


def _registration(spec: StackSpec) -> Iterator[Problem]:
    want = spec.registration
    if want.kind == "scc" and want.code_block is None:
        remedy = "Name the block that keeps the registration code."
        yield Problem("registration.code_block", "SCC needs a registration code", remedy, "a block name", "none")
    if want.kind in ("rmt", "multi-linux-manager") and (want.url is None or url_host(want.url, "https") is None):
        what = "the registration server's address is missing or not https"
        yield Problem("registration.url", what, "Write https://host of the server.", "https://host", "another text")
    if want.kind == "rmt" and not _FINGERPRINT.fullmatch(want.ca_fingerprint or ""):
        what = "without its CA's SHA-256 fingerprint the RMT server cannot be trusted unattended"
        remedy = "Read it on the server: openssl x509 -in /etc/rmt/ssl/rmt-ca.crt -noout -fingerprint -sha256."
        yield Problem("registration.ca_fingerprint", what, remedy, "32 pairs of hex digits", "none or another text")
    if want.kind == "multi-linux-manager" and not _SCRIPT.fullmatch(want.bootstrap_script or ""):
        what = "the bootstrap script's name is missing"
        remedy = "Make it with mgr-bootstrap on the server and write its file name."
        yield Problem("registration.bootstrap_script", what, remedy, "NAME.sh", want.bootstrap_script or "none")
    for index, product in enumerate(want.products):
        if not _PRODUCT.fullmatch(product):
            wanted = "NAME/VERSION/ARCH, such as sle-module-basesystem/15.7/x86_64"
            yield Problem(f"registration.products[{index}]", "not a product", "Correct it.", wanted, product[:80])


def _packages(spec: StackSpec) -> Iterator[Problem]:
    for index, name in enumerate(spec.packages.extra):
        if not _PACKAGE.fullmatch(name):
            yield Problem(f"packages.extra[{index}]", "not a package's name", "Correct it.", "a name alone", name[:80])
    for index, repository in enumerate(spec.packages.repositories):
        path = f"packages.repositories[{index}]"
        if not _PACKAGE.fullmatch(repository.name):
            yield Problem(f"{path}.name", "not a repository's name", "Use letters, digits, `-`.", "a short name")
        local = repository.url.startswith(("file:///", "dir:///", "iso:///", "dvd:///"))
        if not local and url_host(repository.url, "https", "http") is None:
            what = "not a repository's URL"
            yield Problem(f"{path}.url", what, "Write https://... or dir:///..., without user.", "a URL")
    names = [(f"packages.repositories[{i}].name", entry.name) for i, entry in enumerate(spec.packages.repositories)]
    for path, first, value in repeated(names):
        yield Problem(path, f"the same name as {first}", "Rename one.", "a name of its own", value)


def _names(spec: StackSpec) -> Iterator[Problem]:
    rke2 = spec.rke2
    for index, text in enumerate(rke2.tls_san):
        if not is_host(text):
            what = "a certificate holds names and addresses only"
            remedy = "Write a DNS name in lower case or an IP address, without port or https://."
            yield Problem(f"rke2.tls_san[{index}]", what, remedy, "name or address", text[:80])
    if not is_dns_name(rke2.cluster_domain):
        yield Problem("rke2.cluster_domain", "not a domain", "Correct it.", "a DNS name", rke2.cluster_domain[:80])
    if not is_cron(rke2.snapshot_cron):
        remedy = "Write minute, hour, day, month, weekday."
        yield Problem("rke2.snapshot_cron", "not a schedule", remedy, 'such as "0 */6 * * *"', rke2.snapshot_cron[:80])
    for index, name in enumerate(rke2.disable):
        if not name.startswith("rke2-"):
            known = _K3S_PARTS.get(name)
            remedy = f"Write {known}." if known else "RKE2's bundled charts are called rke2-..."
            yield Problem(f"rke2.disable[{index}]", "RKE2 has no such part", remedy, "rke2-...", name[:80])


def _arguments(spec: StackSpec) -> Iterator[Problem]:
    for field in ("kubelet_args", "etcd_args"):
        texts: tuple[str, ...] = getattr(spec.rke2, field)
        for index, text in enumerate(texts):
            path = f"rke2.{field}[{index}]"
            if text.startswith("-") or not _ARGUMENT.fullmatch(text):
                remedy = "Write key=value without leading dashes."
                yield Problem(path, "not an argument as RKE2 takes it", remedy, "key=value", text[:80])
                continue
            yield from _argument(spec, path, *text.split("=", 1))
        keys = [(f"rke2.{field}[{index}]", text.split("=", 1)[0]) for index, text in enumerate(texts)]
        for path, first, value in repeated((path, key) for path, key in keys if key != "feature-gates"):
            yield Problem(path, f"the same argument as {first}", "Remove one.", "each once", value)


def _argument(spec: StackSpec, path: str, key: str, value: str) -> Iterator[Problem]:
    if key in _NOT_A_COMPONENT_ARGUMENT:
        what = "this is a setting of K3s or RKE2, not of the component"
        remedy = "Remove it: the site file has a field of its own for what RKE2 knows of it."
        yield Problem(path, what, remedy, "an argument of the component itself", key)
    if key in _SET_ELSEWHERE:
        remedy = f"Write it in {_SET_ELSEWHERE[key]}."
        yield Problem(path, "this is set from another field", remedy, _SET_ELSEWHERE[key], key)
    if key == "protect-kernel-defaults" and value == "false" and spec.rke2.profile == "cis":
        what = "RKE2 does not start with the profile `cis` and this argument"
        yield Problem(path, what, "Remove it, or choose another profile.", "true", value)


def _artifacts(spec: StackSpec) -> Iterator[Problem]:
    want = spec.rke2.artifacts
    if want.source == "url" and want.url is None and spec.environment == "lab":
        remedy = "Write the lab's own address: a lab fetches nothing from the network."
        yield Problem("rke2.artifacts.url", "where RKE2 comes from is not said", remedy, "https://...", "none")
    if want.source == "url" and want.url is None and spec.environment == "production":
        remedy = "Write the base URL of your mirror or of the vendor's place, or choose source: folder."
        yield Problem("rke2.artifacts.url", "where RKE2 comes from is not said", remedy, "https://...", "none")
    if want.url is not None and url_host(want.url, "https") is None:
        what = "the artifacts' URL is not https"
        yield Problem(
            "rke2.artifacts.url", what, "Write https://host/path, without user.", "https://...", "another text"
        )
    if want.source == "folder" and not want.folder:
        remedy = (
            "Name the folder that holds install.sh, rke2.linux-amd64.tar.gz and sha256sum-amd64.txt of this release."
        )
        yield Problem("rke2.artifacts.folder", "the folder of the artifacts is not said", remedy, "a folder", "none")
    if want.on_nodes and want.folder and not want.folder.startswith("/"):
        what = "a folder on the nodes needs an absolute path"
        yield Problem("rke2.artifacts.folder", what, "Write it from / on.", "/folder", want.folder[:80])


def _registries(spec: StackSpec) -> Iterator[Problem]:
    want = spec.rke2.registries
    for host, endpoints in want.mirrors.items():
        path = f"rke2.registries.mirrors[{host[:80]}]"
        if host != "*" and not _REGISTRY.fullmatch(host):
            yield Problem(path, "not a registry's host", "Write host[:port], or *.", "host[:port]")
        if not endpoints:
            yield Problem(path, "a mirror without an endpoint", "Write https://host[:port].", "one or more", "none")
        for index, endpoint in enumerate(endpoints):
            if url_host(endpoint, "https") is None:
                what = "a mirror's endpoint is not https"
                yield Problem(
                    f"{path}[{index}]", what, "Write https://host[:port], without user.", "https://host[:port]"
                )
    for host, rules in want.rewrites.items():
        path = f"rke2.registries.rewrites[{host[:80]}]"
        if host not in want.mirrors:
            yield Problem(path, "rewrites for a host that has no mirror", "Add it to mirrors.", "a mirrored host")
        for pattern in rules:
            if not _compiles(pattern):
                yield Problem(path, "not a regular expression", "Correct it.", "a regular expression", pattern[:80])
    default = want.system_default_registry
    if default is not None and not _REGISTRY.fullmatch(default):
        remedy = "Write host[:port], without https:// and without a path."
        yield Problem("rke2.registries.system_default_registry", "not a registry", remedy, "host[:port]", default[:80])
    if want.disable_default_endpoint and not want.mirrors and not default and not spec.rke2.artifacts.images:
        what = "no image can be pulled: the public registries are shut off and there is no mirror"
        remedy = "Add rke2.registries.mirrors, or bring the images with rke2.artifacts.images: true."
        yield Problem("rke2.registries.mirrors", what, remedy, "a mirror", "none")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
