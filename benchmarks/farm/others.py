"""The same preparation with Ansible and with pyinfra, written the way their users would, and tuned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.farm.hosts import PORT, Farm
from stackwright.domain import node_wants as wants
from stackwright.domain.spec import StackSpec

VENV = Path(__file__).parent.parent.parent / "build" / "bench-venv"
VERSIONS = ("ansible-core==2.19.*", "pyinfra==3.*")
UNITS_OFF = ("firewalld.service", "multipathd.socket", "multipathd.service")


def make_venv() -> None:
    """Install both tools beside the project, not into it."""
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin" / "pip"), "install", "--quiet", *VERSIONS], check=True, stdout=sys.stderr)


def contents(spec: StackSpec) -> dict[str, str]:
    """Return the files that are written whole, by path."""
    repo = spec.packages.repositories[0]
    return {
        wants.repository_path(repo.name): wants.repository_file(repo.name, repo.url, gpg_check=repo.gpg_check),
        wants.CHRONY: wants.chrony_file(spec),
        wants.MODULES_FILE: wants.modules_file(spec),
        wants.SYSCTL_FILE: wants.sysctl_file(wants.sysctls(spec)),
        wants.NM_FILE: wants.network_manager_file(spec),
    }


def settings(spec: StackSpec) -> list[tuple[str, str]]:
    """Return the settings that are made by commands: what for, and the command."""
    modules = " ".join(wants.modules(spec))
    packages = " ".join(wants.packages(spec, "sles15", "none"))
    return [
        ("packages", f"rpm -q {packages}"),
        ("time", "systemctl enable chronyd && systemctl restart chronyd && chronyc waitsync 60 0 0 1"),
        ("swap", "swapoff -a && systemctl daemon-reload"),
        ("modules", f"modprobe -a {modules}"),
        ("sysctl", f"sysctl -q -p {wants.SYSCTL_FILE}"),
        ("user", "grep -q ^etcd: /etc/passwd || useradd -r -c 'etcd user' -s /sbin/nologin -M -U etcd"),
        ("network manager", "systemctl reload NetworkManager"),
        *((unit, f"systemctl disable --now {unit}") for unit in UNITS_OFF),
        ("iscsi", "systemctl enable --now iscsid"),
    ]


def hosts_block(spec: StackSpec) -> str:
    """Return the lines between our markers in /etc/hosts."""
    return "".join(f"{address} {name}\n" for name, address in sorted(spec.dns.hosts.items()))


def ansible(farm: Farm, spec: StackSpec) -> tuple[float, str]:
    """Run the playbook and return its wall seconds and the version's line."""
    folder = farm.folder / "ansible"
    folder.mkdir(exist_ok=True)
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.copy": {"dest": path, "content": text, "mode": "0644"}}
        for path, text in contents(spec).items()
    ]
    tasks.append({"ansible.builtin.command": "hostnamectl set-hostname {{ inventory_hostname }}"})
    block = {"path": wants.HOSTS, "block": hosts_block(spec), "marker": "# stackwright {mark}", "marker_begin": "begin"}
    tasks.append({"ansible.builtin.blockinfile": {**block, "marker_end": "end"}})
    swap = {"path": wants.FSTAB, "regexp": r"^([^#\s]\S*\s+\S+\s+swap\s.*)$"}
    tasks.append({"ansible.builtin.replace": {**swap, "replace": r"# stackwright: no swap under Kubernetes # \1"}})
    tasks += [{"ansible.builtin.shell": command} for _, command in settings(spec)]
    play = {"hosts": "all", "gather_facts": False, "strategy": "free", "tasks": tasks}
    (folder / "play.yml").write_text(json.dumps([play]))
    lines = [f"{name} ansible_host={farm.address(index)}" for index, name in enumerate(farm.names)]
    (folder / "inventory").write_text(
        "\n".join(lines) + f"\n[all:vars]\nansible_port={PORT}\nansible_user=root\n"
        f"ansible_ssh_private_key_file={farm.key}\nansible_python_interpreter=/usr/bin/python3\n"
    )
    control = (
        f"-o ControlMaster=auto -o ControlPersist=60s -o ControlPath={folder}/%C -o PreferredAuthentications=publickey"
    )
    (folder / "ansible.cfg").write_text(
        f"[defaults]\nforks={farm.count}\nhost_key_checking=False\nretry_files_enabled=False\nstdout_callback=minimal\n"
        f"local_tmp={folder}/scratch\n[ssh_connection]\npipelining=True\n"
        f"ssh_args={control} -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR\n"
    )
    argv = [str(VENV / "bin" / "ansible-playbook"), "-i", str(folder / "inventory"), str(folder / "play.yml")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_HOME": str(folder / "home")}
    try:
        return _run(argv, folder, environment)
    finally:
        for path in folder.iterdir():
            if path.is_socket():  # end the masters that ControlPersist would keep for a minute
                subprocess.run(
                    ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "x"], capture_output=True, check=False
                )


def pyinfra(farm: Farm, spec: StackSpec) -> tuple[float, str]:
    """Run the deploy and return its wall seconds and the version's line."""
    folder = farm.folder / "pyinfra"
    folder.mkdir(exist_ok=True)
    key = {"ssh_user": "root", "ssh_port": PORT, "ssh_key": str(farm.key), "ssh_strict_host_key_checking": "no"}
    hosts = [(name, {"ssh_hostname": farm.address(index), **key}) for index, name in enumerate(farm.names)]
    (folder / "inventory.py").write_text(f"hosts = {hosts!r}\n")
    lines = [
        "import io",
        "from pyinfra import host",
        "from pyinfra.operations import files, server",
        "server.shell(name='hostname', commands=[f'hostnamectl set-hostname {host.name}'])",
    ]
    for path, text in contents(spec).items():
        lines.append(f"files.put(name={path!r}, src=io.StringIO({text!r}), dest={path!r}, mode='644')")
    block = hosts_block(spec).rstrip("\n")
    lines.append(
        f"files.block(name='hosts', path={wants.HOSTS!r}, content={block!r}, marker='# stackwright {{mark}}', "
        "begin='begin', end='end', try_prevent_shell_expansion=True)"
    )
    lines.append(
        f"files.replace(name='fstab', path={wants.FSTAB!r}, text='^\\\\([^# ][^ ]* [^ ]* swap .*\\\\)$', "
        "replace='# stackwright: no swap under Kubernetes # \\\\1')"
    )
    lines += [f"server.shell(name={name!r}, commands=[{command!r}])" for name, command in settings(spec)]
    (folder / "deploy.py").write_text("\n".join(lines) + "\n")
    argv = [str(VENV / "bin" / "pyinfra"), "-y", "--parallel", str(farm.count), "inventory.py", "deploy.py"]
    return _run(argv, folder, dict(os.environ))


def _run(argv: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, str]:
    log = folder / "log"
    started = time.perf_counter()
    with log.open("wb") as sink:
        done = subprocess.run(
            argv, cwd=folder, env=environment, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, check=False
        )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(
            f"{Path(argv[0]).name} ended with {done.returncode}: {log.read_text(errors='replace')[-3000:]}"
        )
    return seconds, f"(see {log})"
