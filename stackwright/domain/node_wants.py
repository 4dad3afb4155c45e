"""What is wanted of every node: packages, modules, sysctls, files. Pure text; how it gets there is in node_plan.py.

Guide: 5.1, 5.2 (operating system configuration); RKE2 documentation: known issues, requirements, hardening guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stackwright.domain.spec import Node, StackSpec

HOSTS = "/etc/hosts"
FSTAB = "/etc/fstab"
RESOLV = "/etc/resolv.conf"
NETCONFIG = "/etc/sysconfig/network/config"
CHRONY = "/etc/chrony.d/stackwright.conf"
MODULES_FILE = "/etc/modules-load.d/stackwright.conf"
SYSCTL_FILE = "/etc/sysctl.d/90-stackwright.conf"
NM_FILE = "/etc/NetworkManager/conf.d/rke2-cni.conf"
NM_DNS_FILE = "/etc/NetworkManager/conf.d/90-stackwright-dns.conf"
ZRAM_FILE = "/etc/systemd/zram-generator.conf"
RMT_CA = "/etc/pki/trust/anchors/rmt-server.pem"
FIXED_FILES = (
    HOSTS, FSTAB, RESOLV, NETCONFIG, CHRONY, MODULES_FILE, SYSCTL_FILE, NM_FILE, NM_DNS_FILE, ZRAM_FILE, RMT_CA,
)  # fmt: skip

BEGIN, END = "# stackwright begin", "# stackwright end"
HEAD = "# Written by Stackwright; changes are overwritten.\n"

STORAGE_PACKAGES = ("open-iscsi", "nfs-client", "cryptsetup", "device-mapper")
CIS_SYSCTLS = {
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
}
# Interfaces that NetworkManager must leave alone. RKE2 documentation: known issues.
UNMANAGED = {
    "canal": "flannel* cali* tunl* vxlan.calico vxlan-v6.calico wireguard.cali wg-v6.cali",
    "calico": "cali* tunl* vxlan.calico vxlan-v6.calico wireguard.cali wg-v6.cali",
    "flannel": "flannel* cni*",
    "cilium": "cilium* lxc*",
}
# (port/protocol, needed on servers only). RKE2 documentation: requirements, networking.
PORTS: tuple[tuple[str, bool], ...] = (
    ("6443/tcp", True),
    ("9345/tcp", True),
    ("2379/tcp", True),
    ("2380/tcp", True),
    ("2381/tcp", True),
    ("10250/tcp", False),
    ("30000-32767/tcp", False),
    ("80/tcp", False),
    ("443/tcp", False),
)
CNI_PORTS = {
    "canal": ("8472/udp", "9099/tcp", "51820/udp", "51821/udp"),
    "calico": ("179/tcp", "4789/udp", "5473/tcp", "9098/tcp", "9099/tcp"),
    "cilium": ("4240/tcp", "8472/udp", "51871/udp"),
    "flannel": ("4789/udp",),
}


def needs_iscsi(spec: StackSpec) -> bool:
    """Tell whether nodes attach SUSE Storage volumes: its manager runs on every node, not only where the disks are."""
    return spec.layers.storage.enabled


def packages(spec: StackSpec, family: str, security: str) -> tuple[str, ...]:
    """Return the packages that a node must have, sorted."""
    wanted = {"iptables", "chrony", "curl", "tar", *spec.packages.extra}
    if security == "apparmor":
        wanted.add("apparmor-parser")
    if needs_iscsi(spec):
        wanted |= {*STORAGE_PACKAGES}
    if spec.rke2.selinux and (security == "selinux" or family in ("sles16", "slmicro")):
        wanted |= {"rke2-selinux", "container-selinux"}
    return tuple(sorted(wanted))


def known_packages(spec: StackSpec) -> tuple[str, ...]:
    """Return the packages that facts ask for, sorted: all that any kind of node could need."""
    known = {"apparmor-parser", "zram-generator", *packages(spec, "sles16", "selinux"), *STORAGE_PACKAGES}
    return tuple(sorted(known | {"rke2-selinux", "container-selinux"}))


def modules(spec: StackSpec) -> tuple[str, ...]:
    """Return the kernel modules that must be loaded, now and at boot."""
    wanted = ["br_netfilter", "overlay", "nf_conntrack", "iptable_nat", "iptable_filter"]
    if spec.rke2.cni in ("canal", "flannel", "calico", "cilium"):
        wanted.append("vxlan")
    if needs_iscsi(spec):
        wanted += ["iscsi_tcp", "dm_crypt", "nfs"]
    return tuple(wanted)


def modules_file(spec: StackSpec) -> str:
    """Return the content of the modules-load.d file."""
    return HEAD + "".join(f"{name}\n" for name in modules(spec))


def sysctls(spec: StackSpec) -> dict[str, str]:
    """Return the kernel settings that must hold."""
    wanted = {
        "net.ipv4.conf.all.forwarding": "1",  # wicked resets it: RKE2 documentation, known issues
        "net.ipv6.conf.all.forwarding": "1",
        "net.bridge.bridge-nf-call-iptables": "1",
        "fs.inotify.max_user_instances": "8192",
        "fs.inotify.max_user_watches": "524288",
        "vm.max_map_count": "262144",  # Elasticsearch of ClearML and of SUSE Observability
    }
    if spec.rke2.profile == "cis":
        wanted |= CIS_SYSCTLS
    return wanted


def usable_sysctls(spec: StackSpec, seen: Mapping[str, str | None]) -> dict[str, str]:
    """Return the wanted kernel settings without those of IPv6 where the kernel has no IPv6."""
    return {key: value for key, value in sysctls(spec).items() if seen.get(key) is not None or ".ipv6." not in key}


def sysctl_file(want: Mapping[str, str]) -> str:
    """Return the content of the sysctl.d file."""
    return HEAD + "".join(f"{key} = {value}\n" for key, value in want.items())


def network_manager_file(spec: StackSpec) -> str:
    """Return NetworkManager's configuration that keeps it off the CNI's interfaces."""
    devices = ";".join(f"interface-name:{name}" for name in UNMANAGED[spec.rke2.cni].split())
    return f"{HEAD}[keyfile]\nunmanaged-devices={devices}\n"


def ports(spec: StackSpec, node: Node) -> tuple[str, ...]:
    """Return the ports that a node's firewall must let in, and the networks it must trust, sorted."""
    wanted = {port for port, servers_only in PORTS if node.is_server or not servers_only}
    networks = {*spec.rke2.cluster_cidr.split(","), *spec.rke2.service_cidr.split(",")}
    return tuple(sorted(wanted | {*CNI_PORTS[spec.rke2.cni]} | networks))


def chrony_file(spec: StackSpec) -> str:
    """Return the chrony drop-in with the site's time servers."""
    return HEAD + "".join(f"server {name} iburst\n" for name in spec.time.servers)


def static_names(spec: StackSpec) -> list[tuple[str, str]]:
    """Return the static names with their addresses; /etc/hosts knows no `*.domain`."""
    return [item for item in sorted(spec.dns.hosts.items()) if not item[0].startswith("*")]


def hosts_file(spec: StackSpec, seen: str) -> str:
    """Return /etc/hosts with our block of static names in it and everything else as it is."""
    lines = "".join(f"{address} {name}\n" for name, address in static_names(spec))
    block = f"{BEGIN}\n{lines}{END}\n" if lines else ""
    rest = re.sub(rf"^{BEGIN}\n.*?^{END}\n", "", seen, flags=re.M | re.S)
    if rest and not rest.endswith("\n"):
        rest += "\n"
    return rest + block


def fstab_without_swap(seen: str) -> str:
    """Return /etc/fstab with its swap lines commented out."""
    lines = []
    for line in seen.splitlines(keepends=True):
        words = line.split()
        swap = len(words) > 2 and words[2] == "swap" and not words[0].startswith("#")
        lines.append(f"# stackwright: no swap under Kubernetes # {line}" if swap else line)
    return "".join(lines)


def nameservers(resolv: str) -> tuple[str, ...]:
    """Return the name servers of a resolv.conf."""
    return tuple(re.findall(r"^\s*nameserver\s+(\S+)", resolv, re.M))


def search_domains(resolv: str) -> tuple[str, ...]:
    """Return the search domains of a resolv.conf; the last line counts."""
    found = re.findall(r"^\s*(?:search|domain)\s+(.+)$", resolv, re.M)
    return tuple(found[-1].split()) if found else ()


def resolv_file(spec: StackSpec) -> str:
    """Return resolv.conf for a node whose network tool does not write it."""
    search = f"search {' '.join(spec.dns.search)}\n" if spec.dns.search else ""
    return HEAD + search + "".join(f"nameserver {address}\n" for address in spec.dns.servers)


def network_manager_dns(spec: StackSpec) -> str:
    """Return NetworkManager's global DNS setting."""
    searches = f"searches={','.join(spec.dns.search)}\n" if spec.dns.search else ""
    return f"{HEAD}[global-dns]\n{searches}[global-dns-domain-*]\nservers={','.join(spec.dns.servers)}\n"


def netconfig_file(spec: StackSpec, seen: str) -> str:
    """Return wicked's network settings with our name servers and search list in them."""
    text = seen
    for key, values in (
        ("NETCONFIG_DNS_STATIC_SERVERS", spec.dns.servers),
        ("NETCONFIG_DNS_STATIC_SEARCHLIST", spec.dns.search),
    ):
        line = f'{key}="{" ".join(values)}"'
        text, count = re.subn(rf"^{key}=.*$", line, text, flags=re.M)
        if not count:
            text += f"{line}\n"
    return text


def repository_path(name: str) -> str:
    """Return the path of one of our repository files."""
    return f"/etc/zypp/repos.d/stackwright-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.repo"


def repository_file(name: str, url: str, *, gpg_check: bool) -> str:
    """Return a zypper repository file."""
    alias = repository_path(name).rpartition("/")[2].removesuffix(".repo")
    return f"[{alias}]\nname={name}\nenabled=1\nautorefresh=1\nbaseurl={url}\ngpgcheck={int(gpg_check)}\n"
