"""The machine's kernel as a shell sees it: sysctls, modules and swap, with the commands that change them.

Values are files below live/, bound over /proc/sys, /sys/module and /proc/swaps, so `cat` sees what `sysctl` does. It is
lost at power-off; modules-load.d, sysctl.d and fstab bring back what they hold.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.nodefiles import SWAP_DEVICE, SWAP_UNIT, SWAP_UUID

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine

RELEASE = "6.4.0-150700.53.3-default"
SWAPS_HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
SWAP_LINE = f"{SWAP_DEVICE}                               partition\t2097148\t\t0\t\t-2\n"
DEFAULTS = {
    "fs.file-max": "9223372036854775807",
    "fs.inotify.max_user_instances": "128",
    "fs.inotify.max_user_watches": "65536",
    "kernel.keys.root_maxbytes": "25000000",
    "kernel.keys.root_maxkeys": "1000000",
    "kernel.osrelease": RELEASE,
    "kernel.panic": "0",
    "kernel.random.entropy_avail": "256",
    "kernel.panic_on_oops": "0",
    "kernel.pid_max": "4194304",
    "kernel.threads-max": "1030000",
    "net.core.somaxconn": "4096",
    "net.ipv4.conf.all.forwarding": "0",
    "net.ipv4.conf.all.rp_filter": "2",
    "net.ipv4.conf.default.forwarding": "0",
    "net.ipv4.conf.default.rp_filter": "2",
    "net.ipv4.ip_forward": "0",
    "net.ipv4.ip_local_port_range": "32768\t60999",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.all.forwarding": "0",
    "net.ipv6.conf.default.forwarding": "0",
    "vm.max_map_count": "65530",
    "vm.nr_hugepages": "0",
    "vm.overcommit_memory": "0",
    "vm.panic_on_oom": "0",
    "vm.swappiness": "60",
}
# sysctls that exist only while a module is loaded.
OF_MODULE = {
    "br_netfilter": {
        "net.bridge.bridge-nf-call-iptables": "1",
        "net.bridge.bridge-nf-call-ip6tables": "1",
        "net.bridge.bridge-nf-call-arptables": "1",
    },
    "nf_conntrack": {"net.netfilter.nf_conntrack_max": "262144"},
}
# One value under two names.
TWINS = {"net.ipv4.ip_forward": "net.ipv4.conf.all.forwarding", "net.ipv4.conf.all.forwarding": "net.ipv4.ip_forward"}
LOADABLE = frozenset(
    [
        "br_netfilter",
        "bridge",
        "overlay",
        "nf_conntrack",
        "iptable_nat",
        "iptable_filter",
        "iptable_mangle",
        "ip6table_nat",
        "ip6table_filter",
        "ip_tables",
        "ip6_tables",
        "ip_vs",
        "ip_vs_rr",
        "ip_vs_wrr",
        "ip_vs_sh",
        "vxlan",
        "wireguard",
        "iscsi_tcp",
        "dm_crypt",
        "dm_multipath",
        "nfs",
        "nvme_tcp",
        "uio_pci_generic",
        "vfio_pci",
        "nfnetlink_queue",
        "xt_NFQUEUE",
        "nft_chain_nat",
        "xt_conntrack",
        "xt_MASQUERADE",
        "veth",
        "dummy",
        "zram",
        "nf_nat",
        "nfnetlink",
        "nf_tables",
        "xt_comment",
        "xt_set",
        "ip_set",
        "tun",
        "rbd",
        "ceph",
    ]
)
NEEDS = {
    "br_netfilter": ("bridge",),
    "ip_vs": ("nf_conntrack",),
    "ip_vs_rr": ("ip_vs",),
    "ip_vs_wrr": ("ip_vs",),
    "ip_vs_sh": ("ip_vs",),
    "iptable_nat": ("ip_tables", "nf_nat", "nf_conntrack"),
    "iptable_filter": ("ip_tables",),
    "iscsi_tcp": ("libiscsi", "scsi_transport_iscsi"),
}
AT_BOOT = ("btrfs", "ext4", "virtio_net", "virtio_blk")
GPU_MODULES = ("nvidia", "nvidia_uvm", "nvidia_modeset")


def boot_kernel(machine: Machine) -> None:
    """Set the kernel up as a boot does: defaults, modules-load.d, sysctl.d, swap of fstab, GPU driver."""
    spec, live = machine.spec, machine.live
    for key, value in DEFAULTS.items():
        _put(machine, key, value)
    _put(machine, "kernel.hostname", machine.read("/etc/hostname").strip() or spec.name)
    _put(machine, "kernel.random.boot_id", str(uuid.uuid4()))
    _put(machine, "kernel.random.uuid", str(uuid.uuid4()))
    total = spec.memory_gib * 1024 * 1024
    (live / "meminfo").write_text(
        f"MemTotal:       {total} kB\nMemFree:        {total - 900000} kB\nMemAvailable:   {total - 700000} kB\n"
        "Buffers:               0 kB\nCached:           200000 kB\n"
        "SwapTotal:             0 kB\nSwapFree:              0 kB\n"
    )
    for name in (*AT_BOOT, *(GPU_MODULES if spec.gpus else ())):
        (live / "module" / name).mkdir(exist_ok=True)
    if spec.profile == "sles15":
        (live / "module/apparmor/parameters").mkdir(parents=True)
        (live / "module/apparmor/parameters/enabled").write_text("Y\n")
    (live / "cgroup").mkdir(exist_ok=True)
    (live / "cgroup/cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
    if spec.gpus:
        (live / "module/nvidia/version").write_text("580.82.07\n")
        folder = live / "driver/nvidia"
        folder.mkdir()
        (folder / "version").write_text(
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build\nGCC version:  7.5.0\n"
        )
    load_configured_modules(machine)
    apply_configured_sysctls(machine)
    masked = machine.path(f"/etc/systemd/system/{SWAP_UNIT}").is_symlink()
    (live / "swaps").write_text(SWAPS_HEADER + (SWAP_LINE if fstab_has_swap(machine) and not masked else ""))


def load_configured_modules(machine: Machine) -> None:
    """Load what /etc/modules-load.d names, as systemd-modules-load does: unknown ones are passed over."""
    for path in sorted(machine.path("/etc/modules-load.d").glob("*.conf")):
        for line in path.read_text().splitlines():
            name = line.strip().replace("-", "_")
            if name and name[0] not in "#;" and name in LOADABLE:
                load(machine, name)


def apply_configured_sysctls(machine: Machine) -> tuple[str, str]:
    """Apply sysctl.d and sysctl.conf in their order; return what sysctl --system prints on its two outputs."""
    found: dict[str, str] = {}
    for folder in ("/usr/local/lib/sysctl.d", "/etc/sysctl.d", "/run/sysctl.d"):
        found |= {path.name: f"{folder}/{path.name}" for path in machine.path(folder).glob("*.conf")}
    files = [found[name] for name in sorted(found)]
    if machine.path("/etc/sysctl.conf").exists():
        files.append("/etc/sysctl.conf")
    out, err = "", ""
    for file in files:
        out += f"* Applying {file} ...\n"
        answer = _apply(machine, machine.read(file), quiet=False)
        out, err = out + answer.out, err + answer.err
    return out, err


def load(machine: Machine, name: str) -> None:
    """Load a module with what it needs; its sysctls appear."""
    for needed in NEEDS.get(name, ()):
        load(machine, needed)
    folder = machine.live / "module" / name
    if not folder.exists():
        folder.mkdir()
        for key, value in OF_MODULE.get(name, {}).items():
            _put(machine, key, value)


def get_sysctl(machine: Machine, key: str) -> str | None:
    """Return a sysctl's value, or None when the kernel has no such key."""
    path = _sysctl_path(machine, key)
    return path.read_text().strip() if path.is_file() else None


def set_sysctl(machine: Machine, key: str, value: str) -> None:
    """Set a sysctl as the kernel or a program in it would, without a command."""
    _put(machine, key, value)


def sysctl(machine: Machine, call: Call) -> Answer:
    """`sysctl`: -n, -w, -p, -e, -q, -a, --system."""
    flags: set[str] = set()
    words: list[str] = []
    for word in call.args:
        if word in ("--system", "--all", "--write", "--load", "--values", "--quiet", "--ignore"):
            flags.add({"--system": "S"}.get(word, word[2] if word != "--values" else "n").replace("l", "p"))
        elif re.fullmatch(r"-[nwpeqaN]+", word):
            flags |= set(word[1:])
        elif word.startswith("-") and word != "-":
            return Answer(1, err=f"sysctl: unrecognized option '{word}'\n")
        else:
            words.append(word)
    if "S" in flags:
        out, err = apply_configured_sysctls(machine)
        return Answer(0 if not err else 255, "" if "q" in flags else out, err)
    if "p" in flags:
        texts = [call.stdin if word == "-" else machine.read(word) for word in words or ["/etc/sysctl.conf"]]
        return _apply(machine, "\n".join(texts), quiet="q" in flags)
    if "a" in flags:
        base = machine.live / "sysctl"
        keys = sorted(str(path.relative_to(base)).replace("/", ".") for path in base.rglob("*") if path.is_file())
        return Answer(0, "".join(f"{key} = {get_sysctl(machine, key)}\n" for key in keys))
    code, out, err = 0, "", ""
    for word in words:
        key, has_value, value = word.partition("=")
        if has_value or "w" in flags:
            answer = _write_key(machine, key.strip(), value.strip(), quiet="q" in flags, bare="n" in flags)
        else:
            answer = _read_key(machine, key, bare="n" in flags)
        if "e" in flags and answer.code:
            continue
        code, out, err = code or answer.code, out + answer.out, err + answer.err
    return Answer(code, out, err)


def _read_key(machine: Machine, key: str, *, bare: bool) -> Answer:
    value = get_sysctl(machine, key)
    if value is None:
        return _no_key(key)
    return Answer(0, f"{value}\n" if bare else f"{_dotted(key)} = {value}\n")


def _write_key(machine: Machine, key: str, value: str, *, quiet: bool, bare: bool = False) -> Answer:
    old = get_sysctl(machine, key)
    if old is None:
        return _no_key(key)
    if re.fullmatch(r"-?\d+", old) and not re.fullmatch(r"-?\d+", value):
        return Answer(255, err=f'sysctl: setting key "{_dotted(key)}": Invalid argument\n')
    _put(machine, key, value)
    return Answer(0, "" if quiet else f"{value}\n" if bare else f"{_dotted(key)} = {value}\n")


def _apply(machine: Machine, text: str, *, quiet: bool) -> Answer:
    code, out, err = 0, "", ""
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        tolerant = line.startswith("-")
        key, has_value, value = line.lstrip("-").partition("=")
        if not has_value:
            err += f"sysctl: {line}: invalid syntax, continuing...\n"
            code = 255
            continue
        answer = _write_key(machine, key.strip(), value.strip(), quiet=quiet)
        if answer.code and tolerant:
            continue
        code, out, err = code or answer.code, out + answer.out, err + answer.err
    return Answer(code, out, err)


def _no_key(key: str) -> Answer:
    return Answer(
        255, err=f"sysctl: cannot stat /proc/sys/{_dotted(key).replace('.', '/')}: No such file or directory\n"
    )


def _dotted(key: str) -> str:
    return key.replace("/", ".")


def _sysctl_path(machine: Machine, key: str) -> Path:
    return machine.live / "sysctl" / _dotted(key).replace(".", "/")


def _put(machine: Machine, key: str, value: str) -> None:
    for name in (key, TWINS.get(_dotted(key))):
        if name:
            path = _sysctl_path(machine, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value + "\n")


def modprobe(machine: Machine, call: Call) -> Answer:
    """`modprobe`: -a, -r, -q, -v, -n. Several names without -a: the rest are parameters, as the real one has it."""
    flags = {word for word in call.args if word.startswith("-")}
    if unknown := flags - {
        "-a",
        "--all",
        "-r",
        "--remove",
        "-q",
        "--quiet",
        "-v",
        "--verbose",
        "-n",
        "--dry-run",
        "-b",
        "--",
    }:
        return Answer(1, err=f"modprobe: unrecognized option '{sorted(unknown)[0]}'\n")
    names = [word.replace("-", "_") for word in call.args if not word.startswith("-")]
    if not names:
        return Answer(1, err="modprobe: ERROR: missing parameters. See -h.\n")
    if not flags & {"-a", "--all", "-r", "--remove"}:
        names = names[:1]
    code, err = 0, ""
    for name in names:
        here = machine.live / "module" / name
        if flags & {"-r", "--remove"}:
            if here.exists():
                here.rmdir()
        elif name in LOADABLE or here.exists():
            if not flags & {"-n", "--dry-run"}:
                load(machine, name)
        elif not flags & {"-q", "--quiet"}:
            code, err = 1, err + f"modprobe: FATAL: Module {name} not found in directory /lib/modules/{RELEASE}\n"
        else:
            code = 1
    return Answer(code, err=err)


def lsmod(machine: Machine, call: Call) -> Answer:
    """`lsmod`."""
    if call.args:
        return Answer(1, err="Usage: lsmod\n")
    names = sorted(path.name for path in (machine.live / "module").iterdir())
    return Answer(0, "Module                  Size  Used by\n" + "".join(f"{name:<24}16384  0\n" for name in names))


def modinfo(machine: Machine, call: Call) -> Answer:
    """`modinfo`: -F filename, -n."""
    names = [word for word in call.args if not word.startswith("-") and word not in ("filename", "version")]
    code, out, err = 0, "", ""
    for name in names:
        known = name.replace("-", "_")
        if known in LOADABLE or (machine.live / "module" / known).exists():
            bare = any(word.startswith(("-F", "-n", "--field", "--filename")) for word in call.args)
            out += f"{'' if bare else 'filename:       '}/lib/modules/{RELEASE}/kernel/{known}.ko.zst\n"
        else:
            code, err = 1, err + f"modinfo: ERROR: Module {name} not found.\n"
    return Answer(code, out, err)


def fstab_has_swap(machine: Machine) -> bool:
    lines = (line.split() for line in machine.read("/etc/fstab").splitlines() if not line.lstrip().startswith("#"))
    return any(len(fields) > 2 and fields[2] == "swap" for fields in lines)


def swapon(machine: Machine, call: Call) -> Answer:
    """`swapon`: -a, -s, --show[=COLUMNS], --noheadings, --bytes."""
    swaps = machine.live / "swaps"
    lines = swaps.read_text().splitlines()[1:]
    if {"-a", "--all"} & set(call.args):
        if fstab_has_swap(machine) and not lines:
            swaps.write_text(SWAPS_HEADER + SWAP_LINE)
        return Answer()
    if "-s" in call.args or "--summary" in call.args:
        return Answer(0, swaps.read_text() if lines else "")
    unknown = [word for word in call.args if not re.match(r"--(show|noheadings|bytes|raw)(=|$)", word)]
    if unknown:
        return Answer(1, err=f"swapon: cannot open {unknown[0]}: No such file or directory\n")
    if not lines:
        return Answer()
    head = "" if "--noheadings" in call.args else "NAME      TYPE      SIZE USED PRIO\n"
    only_name = any(word.upper() == "--SHOW=NAME" for word in call.args)
    rows = (line.split()[0] if only_name else f"{line.split()[0]} partition   2G   0B   -2" for line in lines)
    return Answer(0, ("" if not head else "NAME\n" if only_name else head) + "".join(f"{row}\n" for row in rows))


def swapoff(machine: Machine, call: Call) -> Answer:
    """`swapoff`: -a, or devices."""
    swaps = machine.live / "swaps"
    names = [word for word in call.args if not word.startswith("-")]
    if not call.args:
        return Answer(1, err="swapoff: bad usage\nTry 'swapoff --help' for more information.\n")
    active = len(swaps.read_text().splitlines()) > 1
    known = (SWAP_DEVICE, f"UUID={SWAP_UUID}", f"/dev/disk/by-uuid/{SWAP_UUID}")
    for name in names:
        if name not in known or not active:
            return Answer(4, err=f"swapoff: {name}: swapoff failed: Invalid argument\n")
    # Written in place: the file is bound over /proc/swaps, and a new file would not be.
    swaps.write_text(SWAPS_HEADER)
    return Answer()


def zramctl(machine: Machine, call: Call) -> Answer:
    """`zramctl`: no machine of the lab has a zram device."""
    return Answer()
