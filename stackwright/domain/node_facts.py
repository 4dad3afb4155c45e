"""What is seen of one node in one round trip: the reading script and its parsing. What is wanted is in node_wants.py.

A fact that could not be read raises: unknown is not absent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stackwright.domain import node_wants, rke2_facts
from stackwright.domain.errors import StackError
from stackwright.domain.rke2_facts import Rke2Facts
from stackwright.domain.shell import (
    STATE,
    Section,
    file_section,
    parse_settled,
    read_script,
    run_section,
    settled_section,
    shell_section,
    value_section,
)
from stackwright.domain.spec import Node, StackSpec

Family = Literal["sles15", "sles16", "slmicro", "other"]
UNITS = (
    "chronyd.service",
    "firewalld.service",
    "NetworkManager.service",
    "nm-cloud-setup.service",
    "nm-cloud-setup.timer",
    "iscsid.service",
    "multipathd.service",
    "multipathd.socket",
    "venv-salt-minion.service",
    "rke2-server.service",
    "rke2-agent.service",
    "rancher-system-agent.service",
)
PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,NRestarts,Result"


class FactUnknownError(StackError):
    """A fact could not be read. It is not taken for absent."""

    remedy = "Run the command on the node by hand and mend what it complains about, then run the flow again."


@dataclass(frozen=True)
class UnitState:
    """One systemd unit. `load` is not-found where there is none."""

    load: str
    active: str
    sub: str
    enabled: str
    restarts: int = 0

    @property
    def exists(self) -> bool:
        return self.load not in ("not-found", "")

    @property
    def is_active(self) -> bool:
        return self.active == "active"

    @property
    def is_off(self) -> bool:
        """True when it does not run and no boot starts it."""
        return self.active not in ("active", "activating", "reloading") and self.enabled not in (
            "enabled",
            "enabled-runtime",
        )


@dataclass(frozen=True)
class GpuFacts:
    """The GPU driver as the host shows it. `driver` is its version, empty when none is loaded."""

    driver: str
    count: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeFacts:
    """One node as it was seen. `files` maps each watched path to its text, None when it is not there.

    `clock_s` is the node's clock minus the controller's, known to `clock_error_s` either way (the answer's time on its
    way); `offset_ms` its distance from true time by chrony, None when
    chrony does not run or has no source.
    """

    node: str
    family: Family
    os: str
    kernel: str
    arch: str
    hostname: str
    machine_id: str
    boot_id: str
    security: Literal["apparmor", "selinux", "none"]
    cpus: int
    memory_gib: float
    products: Mapping[str, str]
    packages: frozenset[str]
    files: Mapping[str, str | None]
    units: Mapping[str, UnitState]
    swaps: tuple[str, ...]
    swap_units: tuple[str, ...]
    modules: frozenset[str]
    sysctls: Mapping[str, str | None]
    users: frozenset[str]
    groups: frozenset[str]
    firewall: frozenset[str]
    offset_ms: float | None
    clock_s: float
    clock_error_s: float
    default_route: bool
    resolves: bool
    multipath_maps: int
    gpu: GpuFacts | None
    disks: Mapping[str, bool]
    mounts: Mapping[str, bool]
    reboot_needed: bool
    fence: int
    journal: tuple[str, ...]
    rke2: Rke2Facts = field(default_factory=Rke2Facts)

    def unit(self, name: str) -> UnitState:
        """Return a unit by its name with or without `.service`."""
        return self.units[name if "." in name else f"{name}.service"]

    @property
    def transactional(self) -> bool:
        """True where the root file system is read-only and packages need a reboot (SL Micro)."""
        return self.family == "slmicro"

    @property
    def rke2_runs(self) -> bool:
        return any(self.unit(f"rke2-{role}").active in ("active", "activating") for role in ("server", "agent"))

    @property
    def interrupted(self) -> tuple[str, ...]:
        """Steps that the node's journal has begun and never ended, latest last."""
        open_steps: list[str] = []
        for line in self.journal:
            verb, _, rest = line.partition(" ")
            step = rest.split(" ")[0]
            if verb == "begin":
                open_steps.append(step)
            elif verb == "end":  # begun anew after a death, it ends for both
                open_steps = [other for other in open_steps if other != step]
        return tuple(open_steps)


def node_script(spec: StackSpec, node: Node) -> str:
    """Return the script that reads everything of a node at once."""
    parts = [
        settled_section(),
        file_section("os_release", "/etc/os-release"),
        run_section("uname", "uname", "-r", "-m", "-n"),
        value_section("machine_id", "/etc/machine-id"),
        value_section("boot_id", "/proc/sys/kernel/random/boot_id"),
        shell_section("security", _SECURITY),
        run_section("nproc", "nproc"),
        shell_section("memory", "read -r _ kib _ </proc/meminfo; echo $kib"),
        run_section("packages", "rpm", "-q", "--qf", r"%{NAME}\n", *node_wants.known_packages(spec)),
        run_section("units", "systemctl", "show", "-p", PROPERTIES, *UNITS),
        file_section("swaps", "/proc/swaps"),
        run_section("swap_units", "systemctl", "list-unit-files", "--type=swap", "--no-legend", "--no-pager"),
        shell_section("modules", _MODULES.format(names=" ".join(node_wants.modules(spec)))),
        run_section("users", "cut", "-d:", "-f1", "/etc/passwd"),
        run_section("groups", "cut", "-d:", "-f1", "/etc/group"),
        run_section("chrony", "chronyc", "tracking"),
        run_section("clock", "date", "+%s.%N"),
        run_section("route", "ip", "route", "show", "default"),
        run_section("resolve", "getent", "hosts", spec.rke2.registration_address),
        shell_section("reboot_needed", "if [ -e /run/reboot-needed ]; then echo yes; fi"),
        value_section("fence", f"{STATE}/fence"),
        shell_section("journal", f"if [ -e {STATE}/journal ]; then tail -n 200 {STATE}/journal; fi"),
    ]
    if node_wants.needs_iscsi(spec):
        parts.append(
            shell_section("multipath", 'for map in /dev/mapper/mpath*; do [ -e "$map" ] && echo "$map"; done; :')
        )
    parts += [file_section(f"file_{index}", path) for index, path in enumerate(watched_files(spec))]
    parts += [
        value_section(f"sysctl_{index}", f"/proc/sys/{key.replace('.', '/')}")
        for index, key in enumerate(node_wants.sysctls(spec))
    ]
    if spec.registration.kind in ("scc", "rmt"):
        parts.append(run_section("registration", "SUSEConnect", "--status"))
    if spec.firewall.mode == "open-ports":
        parts.append(shell_section("firewall", _FIREWALL))
    if node.gpu is not None:
        parts.append(shell_section("gpu", _GPU[node.gpu.vendor]))
    for index, disk in enumerate(node.disks):
        parts.append(run_section(f"disk_{index}", "test", "-e", disk.device))
        parts.append(run_section(f"mount_{index}", "mountpoint", "-q", disk.mount))
    return read_script("".join(parts) + rke2_facts.sections(node))


def watched_files(spec: StackSpec) -> tuple[str, ...]:
    """Return the text files that plans compare, in the order of their sections."""
    return (*node_wants.FIXED_FILES, *(node_wants.repository_path(repo.name) for repo in spec.packages.repositories))


def parse_node_facts(
    spec: StackSpec, node: Node, seen: Mapping[str, Section], asked: float, answered: float
) -> NodeFacts:
    """Return the facts of a reading script's answer; the times are the controller's clock before and after it.

    Raises FactUnknownError for what could not be read.
    """
    parse_settled(seen, node.name)
    look = _Looker(node, seen)
    os_release = dict(re.findall(r'^(\w+)="?(.*?)"?$', look.text("os_release"), re.M))
    hostname, kernel, arch = _uname(look)
    chrony = seen["chrony"]
    files = {path: look.optional(f"file_{index}") for index, path in enumerate(watched_files(spec))}
    return NodeFacts(
        node=node.name,
        family=family_of(os_release),
        os=str(os_release.get("PRETTY_NAME") or os_release.get("ID")),
        kernel=kernel,
        arch=arch,
        hostname=hostname,
        machine_id=look.text("machine_id").strip(),
        boot_id=look.text("boot_id").strip(),
        security=look.word("security", ("apparmor", "selinux", "none")),  # type: ignore[arg-type]  # one of the three
        cpus=int(look.text("nproc")),
        memory_gib=round(int(look.text("memory")) / (1 << 20), 1),
        products=_products(look) if "registration" in seen else {},
        packages=_packages(look),
        files=files,
        units=_units(look),
        swaps=tuple(line.split()[0] for line in look.text("swaps").splitlines()[1:]),
        swap_units=_swap_units(look),
        modules=frozenset(look.text("modules").split()),
        sysctls={
            key: None if (value := look.optional(f"sysctl_{index}")) is None else " ".join(value.split())
            for index, key in enumerate(node_wants.sysctls(spec))
        },
        users=frozenset(look.text("users").split()),
        groups=frozenset(look.text("groups").split()),
        firewall=frozenset(look.text("firewall").split()) if "firewall" in seen else frozenset(),
        offset_ms=_offset_ms(chrony.out) if chrony.rc == 0 else None,
        clock_s=float(look.text("clock")) - (asked + answered) / 2,
        clock_error_s=(answered - asked) / 2,
        default_route=bool(look.text("route").strip()),
        resolves=seen["resolve"].rc == 0,
        multipath_maps=len(look.text("multipath").split()) if "multipath" in seen else 0,
        gpu=_gpu(look) if node.gpu else None,
        disks={disk.device: seen[f"disk_{index}"].rc == 0 for index, disk in enumerate(node.disks)},
        mounts={disk.mount: seen[f"mount_{index}"].rc == 0 for index, disk in enumerate(node.disks)},
        reboot_needed="yes" in look.text("reboot_needed"),
        fence=int((look.optional("fence") or "0").strip() or 0),
        journal=tuple(look.text("journal").splitlines()),
        rke2=rke2_facts.parse(node, look),
    )


def family_of(os_release: Mapping[str, str]) -> Family:
    """Return which of the supported systems this is; `other` for all else."""
    name, version = os_release.get("ID", ""), os_release.get("VERSION_ID", "")
    if name in ("sl-micro", "sle-micro", "slem"):
        return "slmicro"
    if name in ("sles", "sles_sap"):
        major = version.partition(".")[0]
        if major == "15":
            return "sles15"
        if major == "16":
            return "sles16"
    return "other"


class _Looker:
    """Access to sections that raises where a fact could not be read."""

    def __init__(self, node: Node, seen: Mapping[str, Section]) -> None:
        self._node, self._seen = node, seen

    def section(self, name: str) -> Section:
        if name not in self._seen:
            raise FactUnknownError(f"`{name}` was not answered", where=self._node.name, wanted="an answer", seen="none")
        return self._seen[name]

    def text(self, name: str, ok: tuple[int, ...] = (0,)) -> str:
        section = self.section(name)
        if section.rc not in ok:
            seen = "there is none" if section.absent else f"exit code {section.rc}"
            raise FactUnknownError(
                f"`{name}` could not be read", where=self._node.name, wanted="exit code 0", seen=seen
            )
        return section.out

    def optional(self, name: str) -> str | None:
        return None if self.section(name).absent else self.text(name)

    def word(self, name: str, words: tuple[str, ...]) -> str:
        found = self.text(name).strip()
        if found not in words:
            raise FactUnknownError(
                f"`{name}` is not understood", where=self._node.name, wanted=" or ".join(words), seen=found
            )
        return found


def _uname(look: _Looker) -> tuple[str, str, str]:
    words = look.text("uname").split()  # uname prints in its own order: name, release, machine
    if len(words) != 3:
        raise FactUnknownError("`uname` is not understood", wanted="three words", seen=" ".join(words))
    return words[0], words[1], words[2]


def _packages(look: _Looker) -> frozenset[str]:
    # rpm's exit code is the number of packages that are not installed; 127 is "no rpm".
    section = look.section("packages")
    if section.rc >= 100 or (section.rc and not section.out):
        look.text("packages")
    return frozenset(line for line in section.out.splitlines() if line and " " not in line)


def _products(look: _Looker) -> dict[str, str]:
    """Return identifier/version/arch -> status. Registration codes in the answer are dropped here."""
    text = look.text("registration")
    try:
        rows = json.loads(text)
    except ValueError:
        raise FactUnknownError(
            "`SUSEConnect --status` is not JSON", wanted="a list", seen=f"{len(text)} characters"
        ) from None
    return {f"{row['identifier']}/{row['version']}/{row['arch']}": row.get("status", "") for row in rows}


def _units(look: _Looker) -> dict[str, UnitState]:
    blocks = [block for block in look.text("units").split("\n\n") if block.strip()]
    if len(blocks) != len(UNITS):
        raise FactUnknownError(
            "`systemctl show` is not understood", wanted=f"{len(UNITS)} units", seen=str(len(blocks))
        )
    states = {}
    for name, block in zip(UNITS, blocks, strict=True):
        have = dict(line.partition("=")[::2] for line in block.strip().splitlines())
        states[name] = UnitState(
            load=have.get("LoadState", ""),
            active=have.get("ActiveState", ""),
            sub=have.get("SubState", ""),
            enabled=have.get("UnitFileState", ""),
            restarts=int(have.get("NRestarts") or 0),
        )
    return states


def _swap_units(look: _Looker) -> tuple[str, ...]:
    # systemctl ends with 1 where no unit file matches; a bus that does not answer fails the section of units too.
    lines = look.text("swap_units", ok=(0, 1)).splitlines()
    return tuple(words[0] for words in map(str.split, lines) if words and "masked" not in words[1:2])


def _offset_ms(text: str) -> float | None:
    found = re.search(r"^System time\s*: ([0-9.]+) seconds (slow|fast)", text, re.M)
    leap = re.search(r"^Leap status\s*: (.+)$", text, re.M)
    if not found or not leap or leap.group(1).strip() == "Not synchronised":
        return None
    return float(found.group(1)) * (1000 if found.group(2) == "fast" else -1000)


def _gpu(look: _Looker) -> GpuFacts:
    lines = look.text("gpu").splitlines()
    driver = next((line.removeprefix("driver ").strip() for line in lines if line.startswith("driver ")), "")
    models = tuple(line.removeprefix("gpu ").strip() for line in lines if line.startswith("gpu "))
    return GpuFacts(driver, len(models), models)


_SECURITY = """\
if [ -e /sys/fs/selinux/enforce ]; then echo selinux
elif command -v getenforce >/dev/null && [ "$(getenforce)" != Disabled ]; then echo selinux
elif [ -e /sys/module/apparmor/parameters/enabled ]; then echo apparmor
else echo none; fi
"""
_MODULES = """\
for m in {names}; do
if [ -d "/sys/module/$m" ]; then echo "$m"; else case $(modinfo -F filename "$m") in *builtin*) echo "$m" ;; esac; fi
done
:
"""
_FIREWALL = """\
systemctl is-active --quiet firewalld || exit 0
firewall-cmd --permanent --list-ports || exit
firewall-cmd --permanent --zone=trusted --list-sources
"""
_NVIDIA = """\
if [ -d /sys/module/nvidia ]; then
echo "driver $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)"
nvidia-smi --query-gpu=name --format=csv,noheader | while read -r model; do echo "gpu $model"; done
fi
:
"""
_OTHER_GPU = """\
for m in {modules}; do
if [ -d "/sys/module/$m" ]; then
v=$m; [ -e "/sys/module/$m/version" ] && read -r v <"/sys/module/$m/version"
echo "driver $v"
for card in /dev/dri/renderD*; do [ -e "$card" ] && echo "gpu $card"; done
fi
done
:
"""
_GPU = {"nvidia": _NVIDIA, "amd": _OTHER_GPU.format(modules="amdgpu"), "intel": _OTHER_GPU.format(modules="i915 xe")}
