"""The preflight's look from the controller: names, registries, blocks, certificates, stores, tools, a running cluster.

All at once, each with its own time limit; what cannot be looked at is told, and is unknown to the checks.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from pathlib import Path
from typing import Any

from stackwright.clients import oci
from stackwright.clients.connect import tool
from stackwright.clients.site import Site
from stackwright.clients.store import connect_store
from stackwright.clients.threads import RunThreads
from stackwright.clients.x509 import inspect_pair, parse_pem
from stackwright.domain.errors import StackError
from stackwright.domain.preflight import services, wants
from stackwright.domain.preflight.names import PTR
from stackwright.domain.preflight.seen import BlockSeen, ClusterSeen, Controller, NameSeen, PairSeen, PullSeen
from stackwright.domain.preflight.shapes import look_at_block

LIMIT_S = 20.0
NAMES_S = 8.0
"""Names come from a name server near by: one that takes longer is no name server to rely on."""
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")
Job = Callable[[], Any]


def look_from_controller(site: Site, *, cluster: bool = True) -> Controller:
    """Look at everything around the hosts. `cluster`: also at a running one. Raises what reading a block raises."""
    jobs = _jobs(site)
    if cluster:
        jobs["cluster", ""] = lambda: look_at_cluster(site)
    # Names have threads of their own: a name server that does not answer must not hold up the rest.
    pools = {named: RunThreads(max_workers=64, thread_name_prefix="preflight") for named in (True, False)}
    futures: dict[tuple[str, str], Future[Any]] = {
        key: pools[key[0] == "name"].submit(job) for key, job in jobs.items()
    }
    names_by, deadline = site.clock.now() + NAMES_S, site.clock.now() + LIMIT_S
    found: dict[str, dict[str, Any]] = {}
    for (part, name), future in futures.items():
        try:
            left_s = (names_by if part == "name" else deadline) - site.clock.now()
            found.setdefault(part, {})[name] = future.result(max(0.0, left_s))
        except LateError:
            continue  # not looked at: unknown to its checks
    for pool in pools.values():
        pool.shutdown(wait=False, cancel_futures=True)
    blocks, pairs = look_at_blocks(site)
    return Controller(
        now_s=site.clock.now(),
        names=found.get("name", {}),
        pulls=found.get("pull", {}),
        blocks=blocks,
        pairs=pairs,
        tools=found.get("tool", {}),
        files=found.get("file", {}),
        stores=found.get("store", {}),
        cluster=found.get("cluster", {}).get(
            "", ClusterSeen(error=f"no answer within {LIMIT_S:g} s") if cluster else None
        ),
    )


def _jobs(site: Site) -> dict[tuple[str, str], Job]:
    spec = site.spec
    jobs: dict[tuple[str, str], Job] = {}

    def add(part: str, name: str, work: Callable[..., Any], *args: Any) -> None:
        jobs[part, name] = lambda: work(*args)

    for name in wants.looked_up(spec):
        add("name", name, look_up, name, spec.dns.hosts)
    for node in spec.nodes:
        add("name", f"{PTR}{node.address}", look_back, node.address)
    for pull in wants.charts(spec):
        add("pull", pull.key, look_at_pull, site, pull)
    for pull in wants.images(spec):
        add("pull", services.image_key(pull), look_at_pull, site, pull)
    for name in ("helm", "kubectl"):
        add("tool", name, tool_version, name)
    for place, path in wants.ca_files(spec).items():
        add("file", place, look_at_ca, path, site.clock.now())
    for place in wants.stores(spec):
        add("store", place, look_at_store, site, place)
    return jobs


def look_up(name: str, static: Mapping[str, str]) -> NameSeen:
    """Resolve a name as the controller's own calls do: static names first."""
    if name in static:
        return NameSeen((static[name],))
    try:
        rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return NameSeen(error=error.strerror or type(error).__name__)
    return NameSeen(tuple(sorted({str(row[4][0]) for row in rows})))


def look_back(address: str) -> NameSeen:
    """Return the name of an address; one that answers with itself has none."""
    try:
        name, _ = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)
    except OSError as error:
        return NameSeen(error=error.strerror or type(error).__name__)
    return NameSeen((name,))


def look_at_pull(site: Site, pull: wants.Pull) -> PullSeen:
    """Ask a registry for one chart or image, with its login where the site file names one."""
    return oci.ask(pull, login_of(site, pull.block), site.resolve)


def login_of(site: Site, block: str) -> oci.Login | None:
    """Return user and password of a registry's block, None where there is none."""
    fields = site.secrets.read("registry", block) if block else None
    return (fields["username"], fields["password"]) if fields else None


def tool_version(name: str) -> str:
    """Return a tool's version, empty where it is not installed or does not run."""
    words = {"helm": ["version", "--short"], "kubectl": ["version", "--client", "-o", "yaml"]}[name]
    try:
        done = subprocess.run([tool(name), *words], capture_output=True, text=True, timeout=10, check=False)
    except (StackError, OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines()]
    if name == "kubectl":
        lines = [line.partition(":")[2].strip() for line in lines if line.startswith("gitVersion:")]
    return lines[0] if done.returncode == 0 and lines else ""


def look_at_ca(path: str, now_s: float) -> str:
    """Return what is wrong with a CA file, empty for nothing."""
    try:
        found = parse_pem(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        return f"{path}: {getattr(error, 'strerror', '') or type(error).__name__}"
    except StackError as error:
        return f"{path}: {error.what}"
    ended = [one.subject for one in found if not one.not_before_s <= now_s <= one.not_after_s]
    return f"{path}: not valid now: {', '.join(ended)}" if ended else ""


def look_at_store(site: Site, place: str) -> str:
    """List a backup store; return what it answered instead, empty for a listing."""
    try:
        connect_store(wants.stores(site.spec)[place], site.secrets, site.resolve).list("preflight/")
    except StackError as error:
        return f"{error.what}{f': {error.seen}' if error.seen else ''}"
    return ""


def look_at_blocks(site: Site) -> tuple[dict[str, BlockSeen], dict[str, PairSeen]]:
    """Look at every block of the site, one after the other: they come from one server. No text is kept."""
    blocks: dict[str, BlockSeen] = {}
    pairs: dict[str, PairSeen] = {}
    now_s = site.clock.now()
    for wanted in wants.blocks(site.spec):
        fields = site.secrets.read(wanted.kind, wanted.name)
        blocks[wanted.key] = look_at_block(wanted.kind, fields, now_s)
        if wanted.kind == "certificate" and fields is not None:
            texts = [fields[name].get_secret_value() for name in ("certificate", "private_key")]
            pairs[wanted.key] = inspect_pair(*texts)
    return blocks, pairs


def look_at_cluster(site: Site) -> ClusterSeen | None:
    """Look at a running cluster; None before there is one."""
    if site.secrets.read("cluster-access", site.spec.rke2.kubeconfig_block) is None:
        return None
    try:
        kube = site.kube()
        nodes = kube.list("v1", "Node")
        classes = kube.list("storage.k8s.io/v1", "StorageClass")
        ingresses = kube.list("networking.k8s.io/v1", "IngressClass")
    except StackError as error:
        return ClusterSeen(error=error.seen or error.what)
    conditions = {node["metadata"]["name"]: _conditions(node) for node in nodes}
    known = {node.name for node in site.spec.nodes} | {node.name for node in site.spec.removed}
    return ClusterSeen(
        default_classes=tuple(_name(one) for one in classes if _annotations(one).get(DEFAULT_CLASS) == "true"),
        ingress_classes=tuple(_name(one) for one in ingresses),
        not_ready=tuple(name for name, seen in conditions.items() if seen.get("Ready") != "True"),
        nodes=len(nodes),
        pressures=tuple(
            f"{n}: {kind}" for n, seen in conditions.items() for kind in PRESSURES if seen.get(kind) == "True"
        ),
        foreign=tuple(name for name in conditions if name not in known),
    )


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _annotations(item: Mapping[str, Any]) -> Mapping[str, str]:
    return item["metadata"].get("annotations") or {}


def _conditions(node: Mapping[str, Any]) -> dict[str, str]:
    return {one["type"]: one["status"] for one in (node.get("status") or {}).get("conditions") or ()}
