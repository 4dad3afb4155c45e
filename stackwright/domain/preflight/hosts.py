"""Checks of single hosts: system, size, names, kernel settings, leftovers. Judged by what every plan reads, and by the
preflight's own script. Guide: 4.9, 5.1, 5.2, 5.7.1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median

from stackwright.domain import node_checks, node_wants
from stackwright.domain.check import Outcome
from stackwright.domain.node_checks import LEAST_CPUS, LEAST_MEMORY_GIB, MOST_CLOCK_SPREAD_S, SUPPORTED
from stackwright.domain.node_facts import FactUnknownError, NodeFacts
from stackwright.domain.node_plan import plan_node
from stackwright.domain.preflight.model import (
    Check,
    bad,
    every_gpu_node,
    every_node,
    every_server,
    good,
    held,
    names,
    skipped,
    unknown,
    whole_site,
)
from stackwright.domain.preflight.seen import Case, Host
from stackwright.domain.spec import Node, StackSpec
from stackwright.domain.versions import parse_rke2

RKE2_DOC = "5.2; RKE2: requirements"
CLEARML_CPUS, CLEARML_MEMORY_GB, CLEARML_NODES = 8, 32, 3
CLEARML_MEMORY_GIB = 29.5  # 32 GB as a machine shows them: firmware keeps some
STORAGE_CPUS, STORAGE_MEMORY_GIB = 4, 3.5
AI_CPUS, AI_MEMORY_GIB = 8, 29.5
CGROUP1_UNTIL = (1, 34)
"""The last line whose kubelet starts on cgroup version 1. Kubernetes: release notes of 1.35."""
# By number of agents: cores and GiB of a server. RKE2: requirements.
SERVER_SIZES = ((225, 4, 7.5), (450, 4, 7.5), (1300, 8, 15.0), (10_000, 16, 30.0))
CNI_LINKS = re.compile(r"^(cali|flannel|cni|cilium|lxc|vxlan|tunl|docker|virbr|wg|nodelocaldns|kube-)")


def agents_for_clearml(spec: StackSpec) -> Sequence[Node]:
    """Return the nodes that may carry the ClearML servers: no GPU, and no taint that keeps ordinary pods away."""
    return tuple(
        node
        for node in spec.nodes
        if node.gpu is None and not any(taint.effect != "PreferNoSchedule" for taint in node.taints)
    )


def clearml_site(spec: StackSpec) -> Sequence[str]:
    return (spec.site,) if spec.layers.clearml.enabled else ()


def storage_nodes(spec: StackSpec) -> Sequence[str]:
    return tuple(node.name for node in spec.storage_nodes) if spec.layers.storage.enabled else ()


def ai_nodes(spec: StackSpec) -> Sequence[str]:
    return tuple(node.name for node in spec.agents) if spec.layers.suse_ai.enabled else ()


def disk_nodes(spec: StackSpec) -> Sequence[str]:
    return tuple(node.name for node in spec.nodes if node.disks)


def registered_nodes(spec: StackSpec) -> Sequence[str]:
    return every_node(spec) if spec.registration.kind in ("scc", "rmt") else ()


def named(case: Case, subject: str) -> tuple[Host, Node, NodeFacts]:
    host = case.host(subject)
    return host, host.node, host.known()


def mended(case: Case, subject: str, step: str, seen: object, *, ok: bool) -> Outcome:
    """Pass what is well, and what a step of the plan mends, saying so; fail what no step mends."""
    if ok:
        return good(seen)
    _, node, facts = named(case, subject)
    steps = {change.step.id for change in plan_node(case.spec, node, facts)}
    return good(f"{seen}; the deploy mends it ({step})") if f"node/{subject}/{step}" in steps else bad(seen)


def problem_of(name: str, *whats: str) -> Callable[[Case, str], Outcome]:
    """Make a judge of what node_checks.py finds: fail with what is seen of a problem that begins with one of these."""
    look = next(check for check in node_checks.CHECKS if check.__name__ == f"_{name}")

    def judge(case: Case, subject: str) -> Outcome:
        _, node, facts = named(case, subject)
        for problem in look(case.spec, node, facts):
            if problem.what.startswith(whats):
                return bad(f"{problem.what}: {problem.seen}" if problem.seen else problem.what)
        return good("as wanted")

    return judge


# --- system ---------------------------------------------------------------------------------------------------------


def reachable(case: Case, subject: str) -> Outcome:
    host = case.host(subject)
    return good("read in one round trip") if host.facts is not None else bad(host.lost or "no answer")


def system(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    return held(facts.family != "other", facts.os)


def architecture(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    return held(facts.arch in ("x86_64", "amd64", "aarch64"), facts.arch)


def same(value: Callable[[NodeFacts], str]) -> Callable[[Case, str], Outcome]:
    """Make a judge that wants one value on all hosts, and names those that differ from the most usual one."""

    def judge(case: Case, subject: str) -> Outcome:
        seen = {host.node.name: value(host.known()) for host in case.read_hosts()}
        usual = Counter(seen.values()).most_common(1)[0][0]
        others = [f"{name}: {text}" for name, text in seen.items() if text != usual]
        return bad(f"{usual}, but {names(others)}") if others else good(usual)

    return judge


def same_driver(case: Case, subject: str) -> Outcome:
    seen = {
        host.node.name: host.facts.gpu.driver
        for host in case.read_hosts()
        if host.facts and host.facts.gpu and host.facts.gpu.driver
    }
    found = sorted(set(seen.values()))
    return skipped("no driver is loaded yet") if not found else held(len(found) == 1, ", ".join(found))


def unique(value: Callable[[NodeFacts], str]) -> Callable[[Case, str], Outcome]:
    """Make a judge that wants another value on each host."""

    def judge(case: Case, subject: str) -> Outcome:
        _, _, facts = named(case, subject)
        mine = value(facts)
        if not mine:
            return bad("empty")
        twins = [
            host.node.name for host in case.read_hosts() if host.node.name != subject and value(host.known()) == mine
        ]
        return bad(f"{mine[:12]}, as on {names(twins)}") if twins else good(mine[:12])

    return judge


def node_name(case: Case, subject: str) -> Outcome:
    ok = re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", subject) is not None
    return held(ok and subject not in ("localhost", "localhost.localdomain"), subject)


def host_name(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    if facts.rke2.has_data:
        return held(facts.hostname == subject, f"{facts.hostname}, a member of the cluster")
    return mended(case, subject, "hostname", facts.hostname, ok=facts.hostname == subject)


# --- size -----------------------------------------------------------------------------------------------------------


def cpus(least: int) -> Callable[[Case, str], Outcome]:
    def judge(case: Case, subject: str) -> Outcome:
        _, _, facts = named(case, subject)
        return held(facts.cpus >= least, f"{facts.cpus} cores")

    return judge


def memory(least_gib: float) -> Callable[[Case, str], Outcome]:
    def judge(case: Case, subject: str) -> Outcome:
        _, _, facts = named(case, subject)
        return held(facts.memory_gib >= least_gib, f"{facts.memory_gib:g} GiB")

    return judge


def server_need(spec: StackSpec) -> tuple[int, float]:
    """Return cores and GiB of a server for this number of agents."""
    return next((cores, gib) for most, cores, gib in SERVER_SIZES if len(spec.agents) <= most)


def server_cpus(case: Case, subject: str) -> Outcome:
    return cpus(server_need(case.spec)[0])(case, subject)


def server_memory(case: Case, subject: str) -> Outcome:
    return memory(server_need(case.spec)[1])(case, subject)


def clearml_servers(case: Case, subject: str) -> Outcome:
    """Count the hosts that are large enough: three must be, whichever they are."""
    seen = {node.name: case.host(node.name) for node in agents_for_clearml(case.spec)}
    fits = [
        name
        for name, host in seen.items()
        if host.facts and host.facts.cpus >= CLEARML_CPUS and host.facts.memory_gib >= CLEARML_MEMORY_GIB
    ]
    if len(fits) >= CLEARML_NODES:
        return good(f"{len(fits)} hosts: {names(fits)}")
    dark = [name for name, host in seen.items() if host.facts is None]
    if len(fits) + len(dark) >= CLEARML_NODES:
        return unknown(f"not read: {names(dark)}")
    sizes = [
        f"{name}: {host.facts.cpus} cores, {host.facts.memory_gib:g} GiB"
        for name, host in seen.items()
        if host.facts and name not in fits
    ]
    return bad(f"{len(fits)} of {len(seen)} candidates; too small: {names(sizes) or 'none'}")


# --- kernel and services --------------------------------------------------------------------------------------------


def swap(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    return mended(case, subject, "swap", ", ".join(facts.swaps) or "off", ok=not facts.swaps)


def loadable(case: Case, subject: str) -> Outcome:
    missing = case.host(subject).text("modules").split()
    return held(not missing, names(missing) or "all there")


def modules(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    missing = [name for name in node_wants.modules(case.spec) if name not in facts.modules]
    return mended(case, subject, "modules", f"not loaded: {names(missing)}" if missing else "loaded", ok=not missing)


def sysctls(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    wanted = node_wants.usable_sysctls(case.spec, facts.sysctls)
    wrong = [f"{key} = {facts.sysctls.get(key)}" for key, value in wanted.items() if facts.sysctls.get(key) != value]
    return mended(case, subject, "sysctl", names(wrong) or "as wanted", ok=not wrong)


def cgroup(case: Case, subject: str) -> Outcome:
    section = case.host(subject).sections.get("cgroup")
    if section is not None and section.absent:
        version = parse_rke2(case.spec.rke2.version)
        if version and version.line <= CGROUP1_UNTIL:
            return good(f"version 1, which Kubernetes {version.line[0]}.{version.line[1]} still takes")
        return bad("version 1")
    case.host(subject).text("cgroup")
    return good("version 2")


def fips(case: Case, subject: str) -> Outcome:
    modes = {}
    for host in case.all_hosts():
        section = host.sections.get("fips")
        if section is not None:
            modes[host.node.name] = "off" if section.absent else {"1": "on", "0": "off"}.get(section.out.strip(), "?")
    if not modes:
        raise FactUnknownError("no host answered", seen="no host answered")
    found = sorted(set(modes.values()))
    return held(len(found) == 1, ", ".join(f"{mode} on {names([n for n, m in modes.items() if m == mode])}"
                                            for mode in found) if len(found) > 1 else found[0])  # fmt: skip


def zypper(case: Case, subject: str) -> Outcome:
    pid = case.host(subject).text("zypper").strip()
    return bad(f"held by process {pid}") if pid else good("free")


def reboot(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    return bad("a reboot is pending") if facts.reboot_needed else good("none pending")


def registration(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    open_ones = [name for name, status in facts.products.items() if status.lower() != "registered"]
    seen = f"not registered: {names(open_ones)}" if open_ones else f"{len(facts.products)} product(s) registered"
    if not facts.products:
        return mended(case, subject, "register", "not registered", ok=False)
    return mended(case, subject, "register", seen, ok=not open_ones)


def rivals(case: Case, subject: str) -> Outcome:
    blocks = [block for block in case.host(subject).text("rivals").split("\n\n") if block.strip()]
    states = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]
    if not states:
        raise FactUnknownError("no unit", seen="`systemctl show` named no unit")
    running = [state.get("Id", "?") for state in states if state.get("ActiveState") in ("active", "activating")]
    return held(not running, names(running) or "none runs")


def leftovers(case: Case, subject: str) -> Outcome:
    host = case.host(subject)
    if host.facts is not None and (host.facts.rke2_runs or host.facts.rke2.has_data or host.facts.rke2.version):
        return skipped("RKE2 is installed: its own files lie there")
    found = host.text("leftovers").split()
    return held(not found, names(found) or "none")


def rke2_files(case: Case, subject: str) -> Outcome:
    return problem_of("leftovers", "data of an older", "the node runs", "RKE2 is installed")(case, subject)


def tools(case: Case, subject: str) -> Outcome:
    made = {"curl", "tar"}  # packages that the plan installs
    missing = [name for name in case.host(subject).text("tools").split() if name not in made]
    return held(not missing, names(missing) or "all there")


def entropy(case: Case, subject: str) -> Outcome:
    bits = case.host(subject).number("entropy")
    return held(bits >= 200, f"{bits:g} bits")


def avx2(case: Case, subject: str) -> Outcome:
    return held(
        "avx2" in case.host(subject).text("cpu_flags"), case.host(subject).text("cpu_flags").strip() or "no avx2"
    )


# --- clocks ---------------------------------------------------------------------------------------------------------


def synchronised(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    if facts.offset_ms is not None:
        return good(f"{facts.offset_ms:.1f} ms off")
    return mended(case, subject, "time", "not synchronised", ok=False)


def offset(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    if facts.offset_ms is None:
        return skipped("not synchronised: see preflight/time/synchronised")
    return held(abs(facts.offset_ms) <= case.spec.time.max_offset_ms, f"{facts.offset_ms:.1f} ms")


def clock(case: Case, subject: str) -> Outcome:
    """Compare a clock with the median of all, by what is certain: a slow answer is not a slow clock."""
    _, _, facts = named(case, subject)
    middle = median(host.known().clock_s for host in case.read_hosts())
    away = facts.clock_s - middle
    sure = max(0.0, abs(away) - facts.clock_error_s)
    return held(sure <= MOST_CLOCK_SPREAD_S, f"{away:+.2f} s (known to {facts.clock_error_s:.2f} s)")


def source(case: Case, subject: str) -> Outcome:
    rows = [row[0] for row in case.host(subject).rows("time") if row[0][:1] in ("^", "=", "#")]
    if not rows:
        return bad("no source")
    return held(any("*" in row for row in rows), f"{len(rows)} source(s), {'one' if '^*' in rows else 'none'} selected")


# --- GPUs -----------------------------------------------------------------------------------------------------------


def gpu_pair(case: Case, subject: str) -> Outcome:
    host, node, facts = named(case, subject)
    if node.gpu is None or node.gpu.vendor != "nvidia":
        return skipped("the pair is compared for NVIDIA alone")
    if facts.gpu is None or not facts.gpu.driver:
        return skipped("no driver is loaded")
    module = host.text("nvidia_module").strip()
    return held(module == facts.gpu.driver, f"module {module}, tools {facts.gpu.driver}, kernel {facts.kernel}")


_SIZE = "Give the host more, or choose another one for this role."


CHECKS: tuple[Check, ...] = (
    Check("preflight/host/reachable", "the host answers over SSH", "5.2 Security", "a login with the site's key",
          "Check power, network, SSH port and key.", reachable, source="facts"),
    Check("preflight/host/os", "the operating system is supported", "5.1", SUPPORTED,
          "Install a supported system: see SUSE's support matrix.", system, source="facts"),
    Check("preflight/host/architecture", "the architecture is supported", RKE2_DOC, "x86_64 or aarch64",
          "Use a host of a supported architecture.", architecture, source="facts"),
    Check("preflight/host/same-os", "all hosts run the same system", "5.2 Operating System Configuration",
          "one release everywhere", "Bring the hosts to one release.", same(lambda facts: facts.os), whole_site,
          must=False, source="facts"),
    Check("preflight/host/same-kernel", "all hosts run the same kernel", "5.2 Operating System Configuration",
          "one kernel everywhere", "Patch and reboot the hosts that are behind.", same(lambda facts: facts.kernel),
          whole_site, must=False, source="facts"),
    Check("preflight/host/cpu", "cores for RKE2", RKE2_DOC, f"{LEAST_CPUS} cores", _SIZE, cpus(LEAST_CPUS),
          source="facts"),
    Check("preflight/host/memory", "memory for RKE2", RKE2_DOC, "4 GiB", _SIZE, memory(LEAST_MEMORY_GIB),
          source="facts"),
    Check("preflight/host/server-cpu", "cores of a server", RKE2_DOC,
          lambda spec: f"{server_need(spec)[0]} cores for {len(spec.agents)} agents", _SIZE, server_cpus, every_server,
          must=False, source="facts"),
    Check("preflight/host/server-memory", "memory of a server", RKE2_DOC,
          lambda spec: f"{server_need(spec)[1] + 0.5:g} GiB for {len(spec.agents)} agents", _SIZE, server_memory,
          every_server, must=False, source="facts"),
    Check("preflight/host/clearml-servers", "hosts for the ClearML servers", "5.7.1 step 1",
          f"{CLEARML_NODES} hosts with {CLEARML_CPUS} vCPUs and {CLEARML_MEMORY_GB} GB", _SIZE, clearml_servers,
          clearml_site, "ClearML is not installed", source="facts"),
    Check("preflight/host/storage-cpu", "cores of a storage node", "5.4; SUSE Storage: best practices",
          f"{STORAGE_CPUS} cores", _SIZE, cpus(STORAGE_CPUS), storage_nodes, must=False, source="facts"),
    Check("preflight/host/storage-memory", "memory of a storage node", "5.4; SUSE Storage: best practices", "4 GiB",
          _SIZE, memory(STORAGE_MEMORY_GIB), storage_nodes, must=False, source="facts"),
    Check("preflight/host/ai-cpu", "cores for SUSE AI", "5.6; SUSE AI: requirements", f"{AI_CPUS} cores", _SIZE,
          cpus(AI_CPUS), ai_nodes, "SUSE AI is not installed", must=False, source="facts"),
    Check("preflight/host/ai-memory", "memory for SUSE AI", "5.6; SUSE AI: requirements", "32 GB", _SIZE,
          memory(AI_MEMORY_GIB), ai_nodes, "SUSE AI is not installed", must=False, source="facts"),
    Check("preflight/host/avx2", "AVX2 for the vector database", "5.6; SUSE AI: requirements", "avx2",
          "Use hosts whose processors have AVX2, or hand it through to the virtual machine.", avx2, ai_nodes,
          "SUSE AI is not installed", must=False),
    Check("preflight/host/node-name", "the node's name can be one", RKE2_DOC, "lower case letters, digits, - and .",
          "Rename the node in the site file.", node_name, source="facts"),
    Check("preflight/host/host-name", "the host's name is the node's", RKE2_DOC, "the name of the site file",
          "A member's name cannot change: write the present name into the site file, or remove and re-add the node.",
          host_name, source="facts"),
    Check("preflight/host/machine-id", "machine ids are unique", RKE2_DOC, "one of its own",
          "Remove /etc/machine-id on cloned hosts, run systemd-machine-id-setup, reboot.",
          unique(lambda facts: facts.machine_id), source="facts"),
    Check("preflight/host/boot-id", "each address is another host", "5.2 Scalability", "one of its own",
          "Correct the addresses in the site file: two names are one host.", unique(lambda facts: facts.boot_id),
          source="facts"),
    Check("preflight/host/swap", "swap is off", "5.2 Operating System Configuration", "no swap",
          "Turn swap off and take it out of /etc/fstab.", swap, source="facts"),
    Check("preflight/host/modules-there", "kernel modules exist", "5.2 Operating System Configuration",
          lambda spec: ", ".join(node_wants.modules(spec)),
          "Install kernel-default: kernel-default-base lacks modules such as iscsi_tcp.", loadable),
    Check("preflight/host/modules", "kernel modules are loaded", "5.2 Operating System Configuration",
          lambda spec: ", ".join(node_wants.modules(spec)), "Load them with modprobe and look at the journal.", modules,
          source="facts"),
    Check("preflight/host/sysctl", "kernel settings", "5.2 Operating System Configuration",
          "those of RKE2, Elasticsearch and, where asked for, the CIS profile",
          "Look for another file below /etc/sysctl.d that sets them back.", sysctls, source="facts"),
    Check("preflight/host/cgroup", "control groups version 2", "5.2; Kubernetes: cgroup v2", "version 2",
          "Boot with systemd.unified_cgroup_hierarchy=1.", cgroup),
    Check("preflight/host/security-module", "SELinux and RKE2's setting agree", "5.2; RKE2: SELinux",
          "rke2.selinux: true where SELinux is enforced", "Set rke2.selinux: true in the site file.",
          problem_of("system", "SELinux"), source="facts"),
    Check("preflight/host/fips", "one FIPS mode everywhere", "5.2 Operating System Configuration",
          "on or off on all hosts",
          "Bring all hosts to the same FIPS mode and reboot them.", fips, whole_site, must=False),
    Check("preflight/host/zypper", "no other package run holds the lock", "5.1", "no lock",
          "Wait for the other zypper; the deploy waits packages.lock_timeout_s for it.", zypper, must=False),
    Check("preflight/host/reboot", "no reboot is pending", "5.1", "none",
          "Reboot the host: kernel, driver and libraries may not fit each other.", reboot, must=False, source="facts"),
    Check("preflight/host/registration", "the system is registered", "5.1", "registered",
          "Register it with the code of registration.code_block.", registration, registered_nodes,
          "hosts are not registered with SCC or RMT", source="facts"),
    Check("preflight/host/rivals", "no other container platform runs", RKE2_DOC, "none",
          "Stop and remove it: it fights RKE2 for ports, cgroups and iptables.", rivals),
    Check("preflight/host/leftovers", "nothing of another cluster is left", RKE2_DOC, "nothing",
          "Look at what it is; reset or reinstall the host. It is never wiped for you.", leftovers),
    Check("preflight/host/rke2-files", "RKE2's own files fit the node", RKE2_DOC, "none, or this node's own",
          "Run rke2-uninstall.sh if its data is waste, or correct the roles in the site file.", rke2_files,
          source="facts"),
    Check("preflight/host/tools", "commands that the steps use", "5.1", "getent, gzip, flock, timeout",
          "Install glibc, gzip, util-linux and coreutils.", tools),
    Check("preflight/host/entropy", "random numbers are ready", "5.1", "200 bits",
          "Install haveged or a virtio-rng device.",
          entropy, must=False),
    Check("preflight/host/disk-there", "disks of the site file exist", "5.4", "each device",
          "Correct disks[].device: names in /dev/disk/by-id do not change.", problem_of("disks",
          "a disk does not exist"),
          disk_nodes, "no node has disks of its own", source="facts"),
    Check("preflight/host/disk-mounted", "disks of the site file are mounted", "5.4", "each mount",
          "Make a file system on it, add it to /etc/fstab and mount it.", problem_of("disks", "a disk is not mounted"),
          disk_nodes, "no node has disks of its own", source="facts"),
    Check("preflight/host/multipath", "no multipath device is in use", "5.4; SUSE Storage: requirements", "no map",
          "Blacklist SUSE Storage's devices, or move the system off multipath devices.",
          problem_of("disks", "multipath"), source="facts"),
    Check("preflight/time/synchronised", "the clock is synchronised", "5.1 item 2", "chrony with a source",
          "Start chrony with a reachable server, or name servers in time.servers.", synchronised, source="facts"),
    Check("preflight/time/offset", "distance from true time", "5.1 item 2",
          lambda spec: f"at most {spec.time.max_offset_ms:g} ms", "Run `chronyc makestep` on the host.", offset,
          source="facts"),
    Check("preflight/time/clock", "distance from the median of all clocks", "5.1 item 2",
          f"at most {MOST_CLOCK_SPREAD_S:g} s",
          "Run `chronyc makestep`: a certificate made on one host is not valid yet "
          "on the other.", clock, source="facts"),
    Check("preflight/time/source", "a time source is selected", "5.1 item 2", "one selected source",
          "Look at `chronyc sources -v`: port 123/udp, names, or servers that disagree.", source, must=False),
    Check("preflight/gpu/driver", "a GPU driver is loaded", "5.8.3", "the vendor's driver",
          "Install the vendor's driver and reboot, or set layers.gpu_operator.driver: operator.",
          problem_of("gpu", "no GPU driver"), every_gpu_node, "there are no GPU nodes", source="facts"),
    Check("preflight/gpu/count", "GPUs as the site file says", "5.8.3", "gpu.count of the node",
          "Check the cards with the vendor's tool, or correct gpu.count.", problem_of("gpu", "fewer GPUs"),
          every_gpu_node, "there are no GPU nodes", source="facts"),
    Check("preflight/gpu/pair", "kernel module and driver's tools are one version", "5.8.3", "equal versions",
          "Install the same version of both packages, then reboot.", gpu_pair, every_gpu_node,
          "there are no GPU nodes"),
    Check("preflight/gpu/same-driver", "one driver version on all GPU nodes", "5.8.3", "one version",
          "Bring the GPU nodes to one driver.", same_driver,
          lambda spec: (spec.site,) if spec.gpu_nodes else (), "there are no GPU nodes", must=False, source="facts"),
)  # fmt: skip
