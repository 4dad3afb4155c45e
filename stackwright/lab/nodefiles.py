"""What a fresh lab machine's disk holds: the files of SLES 15 SP7, SLES 16.0 or SL Micro that preparation looks at.

Only the first content lives here. What runs on a machine is in nodes.py and machines/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stackwright.domain.errors import StackError

Profile = Literal["sles15", "sles16", "slmicro"]

OS_RELEASE: dict[Profile, str] = {
    "sles15": 'NAME="SLES"\nVERSION="15-SP7"\nVERSION_ID="15.7"\nPRETTY_NAME="SUSE Linux Enterprise Server 15 SP7"\n'
    'ID="sles"\nID_LIKE="suse"\nANSI_COLOR="0;32"\nCPE_NAME="cpe:/o:suse:sles:15:sp7"\n',
    "sles16": 'NAME="SLES"\nVERSION="16.0"\nVERSION_ID="16.0"\nPRETTY_NAME="SUSE Linux Enterprise Server 16.0"\n'
    'ID="sles"\nID_LIKE="suse"\nCPE_NAME="cpe:/o:suse:sles:16:16.0"\n',
    "slmicro": 'NAME="SL-Micro"\nVERSION="6.1"\nVERSION_ID="6.1"\nPRETTY_NAME="SUSE Linux Micro 6.1"\n'
    'ID="sl-micro"\nID_LIKE="suse"\nCPE_NAME="cpe:/o:suse:sl-micro:6.1"\n',
}
PRODUCT: dict[Profile, tuple[str, str]] = {
    "sles15": ("SLES", "15.7"),
    "sles16": ("SLES", "16.0"),
    "slmicro": ("SL-Micro", "6.1"),
}
SWAP_UUID = "3b1f6c1e-7a0d-4f5e-9c0b-0d5c1a2b3c4d"
SWAP_UNIT = r"dev-disk-by\x2duuid-3b1f6c1e\x2d7a0d\x2d4f5e\x2d9c0b\x2d0d5c1a2b3c4d.swap"
SWAP_DEVICE = "/dev/vda3"
PACKAGES = (
    "bash",
    "coreutils",
    "openssh-server",
    "systemd",
    "kmod",
    "chrony",
    "sudo",
    "iproute2",
    "tar",
    "gzip",
    "curl",
)
PACKAGES_OF: dict[Profile, tuple[str, ...]] = {
    "sles15": ("SUSEConnect", "zypper", "wicked", "firewalld", "multipath-tools", "apparmor-parser", "iptables"),
    "sles16": ("SUSEConnect", "zypper", "NetworkManager", "firewalld", "multipath-tools", "selinux-policy", "iptables"),
    "slmicro": ("SUSEConnect", "zypper", "NetworkManager", "transactional-update", "selinux-policy", "iptables"),
}
# Units that come with a package: (unit, kind of unit, started at boot when freshly installed).
UNITS_OF_PACKAGE: dict[str, tuple[tuple[str, bool], ...]] = {
    "chrony": (("chronyd.service", True), ("chrony-wait.service", False)),
    "openssh-server": (("sshd.service", True),),
    "firewalld": (("firewalld.service", True),),
    "wicked": (("wicked.service", True),),
    "NetworkManager": (("NetworkManager.service", True),),
    "open-iscsi": (("iscsid.service", False), ("iscsid.socket", False), ("iscsi.service", False)),
    "multipath-tools": (("multipathd.service", True), ("multipathd.socket", True)),
    "systemd": (
        ("systemd-sysctl.service", True),
        ("systemd-modules-load.service", True),
        ("systemd-journald.service", True),
        ("systemd-timesyncd.service", False),
        ("tmp.mount", False),
    ),
    "apparmor-parser": (("apparmor.service", True),),
    "nm-cloud-setup": (("nm-cloud-setup.service", True), ("nm-cloud-setup.timer", True)),
    "nfs-client": (("nfs-client.target", False),),
    "nvidia-persistenced": (("nvidia-persistenced.service", False),),
}


class NodeRootError(StackError):
    """A lab machine's private root could not be made."""

    remedy = (
        "The lab needs unprivileged user namespaces and overlay mounts (Linux 5.11 or newer): set "
        "user.max_user_namespaces above 0 and, where the kernel has them, kernel.unprivileged_userns_clone=1 and "
        "kernel.apparmor_restrict_unprivileged_userns=0. In a container, allow "
        "unshare and mount, or use a virtual machine."
    )


@dataclass(frozen=True)
class LabNode:
    """One machine of the lab.

    `user` is the login user beside root; `sudo` says whether it may become root without a password.
    `disks` are data disks as (device, where it is mounted); each, and the system's, has `disk_gib`.
    `usr_local_mount`: /usr/local is a mount point, as SLES's default btrfs layout makes it.
    """

    name: str
    address: str
    ssh_port: int = 2222
    profile: Profile = "sles15"
    gpus: int = 0
    user: str = "ops"
    sudo: Literal["nopasswd", "password"] = "nopasswd"
    usr_local_mount: bool = True
    cpus: int = 16
    memory_gib: int = 128
    disk_gib: int = 960
    disks: tuple[tuple[str, str], ...] = (("/dev/disk/by-id/lab-data", "/var/lib/longhorn"),)


def write_disk(node: LabNode, root: Path, authorized_key: str) -> None:
    """Fill a fresh machine's persistent folders: /etc, /var, /opt, /root, /srv, /home and /usr/local."""
    for name in ("etc", "var", "opt", "root", "srv", "home", "usr-local"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for relative, text in _etc(node).items():
        _write(root / "etc" / relative, text)
    (root / "etc/shadow").chmod(0o600)
    for folder in ("sudoers.d", "chrony.d", "modules-load.d", "sysctl.d", "modprobe.d", "zypp/repos.d"):
        (root / "etc" / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    for folder in ("lib", "log", "tmp", "cache", "spool", "lib/lab"):
        (root / "var" / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("bin", "sbin", "lib", "share"):
        (root / "usr-local" / folder).mkdir(exist_ok=True)
    for home in (root / "root", root / "home" / node.user):
        _write(home / ".ssh/authorized_keys", authorized_key.strip() + "\n")
        (home / ".ssh").chmod(0o700)
        (home / ".ssh/authorized_keys").chmod(0o600)
    packages = sorted({*PACKAGES, *PACKAGES_OF[node.profile], *(_gpu_packages() if node.gpus else ())})
    _write(root / "var/lib/lab/packages.json", json.dumps(packages))
    for package in packages:
        enable_units(root, package)
    (root / "etc/NetworkManager/conf.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/alternatives").mkdir()
    host = Path("/etc/alternatives")
    for link in host.iterdir() if host.is_dir() else ():
        if link.is_symlink():  # Debian's awk and others are links through this folder
            (root / "etc/alternatives" / link.name).symlink_to(link.readlink())


def enable_units(root: Path, package: str) -> None:
    """Enable the units that a package starts at boot by its preset."""
    for unit, at_boot in UNITS_OF_PACKAGE.get(package, ()):
        link = root / "etc/systemd/system/multi-user.target.wants" / unit
        if at_boot and not link.is_symlink():
            link.symlink_to(f"/usr/lib/systemd/system/{unit}")


def unit_text(unit: str) -> str:
    """Return the unit file of a unit that the operating system brings."""
    name = unit.rpartition(".")[0]
    if not unit.endswith(".service"):
        return f"[Unit]\nDescription={name}\n\n[Install]\nWantedBy=multi-user.target\n"
    once = name.startswith("systemd-") or name in ("chrony-wait", "apparmor", "wicked", "nm-cloud-setup")
    kind = "Type=oneshot\nRemainAfterExit=yes\n" if once and name != "systemd-journald" else "Type=simple\n"
    return (
        f"[Unit]\nDescription={name}\n\n[Service]\n{kind}ExecStart=/usr/lib/stackwright-lab/{name}\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _gpu_packages() -> tuple[str, ...]:
    return ("nvidia-open-driver-G06-signed-cuda-kmp-default", "nvidia-compute-utils-G06", "nvidia-persistenced")


def _etc(node: LabNode) -> dict[str, str]:
    user = node.user
    people = "" if user == "root" else f"{user}:x:1000:1000::/home/{user}:/bin/bash\n"
    # SLES 15 asks for the target's password, SLES 16 for the user's own: neither lets `sudo -n` through by itself.
    policy = "Defaults targetpw\nALL ALL=(ALL) ALL\n" if node.profile == "sles15" else "%wheel ALL=(ALL:ALL) ALL\n"
    files = {
        "os-release": OS_RELEASE[node.profile],
        "hostname": f"{node.name}\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost ipv6-localhost ipv6-loopback\n",
        "resolv.conf": "nameserver 192.0.2.53\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"
        "services: files\nprotocols: files\n",
        "host.conf": "multi on\n",
        "passwd": f"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/var/lib/nobody:/bin/bash\n{people}",
        "group": "root:x:0:\nwheel:x:497:\nusers:x:100:\n" + ("" if user == "root" else f"{user}:x:1000:\n"),
        "shadow": "root:*:20000::::::\n",
        "shells": "/bin/sh\n/bin/bash\n",
        "fstab": f"UUID=11f0c7a4-0000-4000-8000-000000000001 / btrfs defaults 0 0\n"
        f"UUID={SWAP_UUID} swap swap defaults 0 0\n",
        "machine-id": f"{int.from_bytes(node.name.encode(), 'big'):032x}"[-32:] + "\n",
        "chrony.conf": "pool 2.suse.pool.ntp.org iburst\ndriftfile /var/lib/chrony/drift\nmakestep 1.0 3\nrtcsync\n"
        "include /etc/chrony.d/*.conf\n",
        "sudoers": f"{policy}#includedir /etc/sudoers.d\n",
        "profile": "# nothing\n",
        "ld.so.conf": "/usr/local/lib\ninclude /etc/ld.so.conf.d/*.conf\n",
        "default/.keep": "",
        "sysconfig/.keep": "",
        "ssl/.keep": "",
        "pki/trust/anchors/.keep": "",
        "selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n"
        if node.profile != "sles15"
        else "SELINUX=disabled\n",
    }
    if node.sudo == "nopasswd" and user != "root":
        files[f"sudoers.d/{user}"] = f"{user} ALL=(ALL) NOPASSWD: ALL\nDefaults:{user} !targetpw\n"
    cache = Path("/etc/ld.so.cache")
    if cache.exists():  # the host's libraries are the node's: its loader needs the host's map
        files["ld.so.cache"] = cache.read_bytes().decode("latin-1")
    return files


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("latin-1") if path.name == "ld.so.cache" else text.encode())
