"""Stand-ins for small commands: clock, host name, firewall, network, users, SELinux, certificates, GPUs, reboot.

systemctl and journalctl are in systemd.py, packages in packages.py, the kernel's in kernel.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.machines.kernel import set_sysctl

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine

FIREWALL = "/etc/firewalld/lab.json"
GPU_NAME = "NVIDIA H100 80GB HBM3"
DRIVER = "580.82.07"


async def hostnamectl(machine: Machine, call: Call) -> Answer:
    """`hostnamectl`: set-hostname NAME, hostname [NAME], status, --static."""
    words = [word for word in call.args if not word.startswith("-")]
    if len(words) == 2 and words[0] in ("set-hostname", "hostname"):
        name = words[1]
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", name):
            return Answer(1, err=f"Could not set static hostname: Invalid static hostname '{name}'\n")
        machine.write("/etc/hostname", f"{name}\n")
        set_sysctl(machine, "kernel.hostname", name)
        await machine.run(f"hostname {shlex.quote(name)}")
        return Answer()
    name = machine.read("/etc/hostname").strip()
    if words == ["hostname"] or "--static" in call.args:
        return Answer(0, f"{name}\n")
    if words not in ([], ["status"]):
        return Answer(1, err=f"Unknown command verb {words[0]}.\n")
    pretty = re.search(r'PRETTY_NAME="(.*)"', machine.read("/etc/os-release"))
    return Answer(0, f" Static hostname: {name}\nOperating System: {pretty.group(1) if pretty else ''}\n")


def timedatectl(machine: Machine, call: Call) -> Answer:
    """`timedatectl`: status, show [-p NAME] [--value], set-ntp, set-timezone."""
    synced = "yes" if _synchronised(machine) else "no"
    words = [word for word in call.args if not word.startswith("-")]
    if words[:1] == ["show"]:
        values = {"Timezone": "UTC", "NTP": synced, "NTPSynchronized": synced}
        wanted = re.findall(r"(?:-p|--property=?) ?(\w+)", " ".join(call.args))
        lines = (
            value if "--value" in call.args else f"{key}={value}"
            for key, value in values.items()
            if not wanted or key in wanted
        )
        return Answer(0, "".join(f"{line}\n" for line in lines))
    if words[:1] in (["set-ntp"], ["set-timezone"]):
        return Answer()
    if words and words[0] != "status":
        return Answer(1, err=f"Unknown command verb {words[0]}.\n")
    return Answer(
        0,
        f"               Time zone: UTC (UTC, +0000)\nSystem clock synchronized: {synced}\n"
        "             NTP service: active\n",
    )


def _synchronised(machine: Machine) -> bool:
    return machine.systemd.is_active("chronyd.service") and bool(_time_servers(machine))


def _time_servers(machine: Machine) -> list[str]:
    text = machine.read("/etc/chrony.conf")
    if re.search(r"^include /etc/chrony\.d", text, re.M):
        text += "\n".join(path.read_text() for path in sorted(machine.path("/etc/chrony.d").glob("*.conf")))
    return re.findall(r"^(?:server|pool)\s+(\S+)", text, re.M)


def chronyc(machine: Machine, call: Call) -> Answer:
    """`chronyc`: tracking, sources, activity, waitsync, makestep, -n, -c."""
    words = [word for word in call.args if not word.startswith("-")]
    verb = words[0] if words else ""
    if verb not in ("tracking", "sources", "activity", "waitsync", "makestep"):
        return Answer(1, "Unrecognized command\n")
    if not machine.systemd.is_active("chronyd.service"):
        return Answer(1, "506 Cannot talk to daemon\n")
    servers = _time_servers(machine)
    offset = machine.clock_offset_s
    if verb == "sources":
        rows = "".join(
            f"^{'*' if index == 0 else '+'} {name:<29}2   6   377    35   +21us[  +30us] +/-   12ms\n"
            for index, name in enumerate(servers)
        )
        head = "MS Name/IP address         Stratum Poll Reach LastRx Last sample\n" + "=" * 79 + "\n"
        return Answer(0, head + rows)
    if verb == "activity":
        count = len(servers)
        return Answer(0, f"200 OK\n{count} sources online\n0 sources offline\n"
                      "0 sources doing burst (return to online)\n"
                      "0 sources doing burst (return to offline)\n0 sources with unknown address\n")  # fmt: skip
    if verb == "makestep":
        machine.clock_offset_s = 0.0
        return Answer(0, "200 OK\n")
    if verb == "waitsync":
        done = bool(servers)
        return Answer(0 if done else 1, f"try: 1, refid: C0000235, correction: {abs(offset):.9f}, skew: 0.010\n")
    direction = "fast" if offset > 0 else "slow"
    status = "Normal" if servers else "Not synchronised"
    return Answer(
        0,
        f"Reference ID    : C0000235 ({servers[0] if servers else ''})\nStratum         : 3\n"
        f"System time     : {abs(offset) or 0.000021:.9f} seconds {direction} of NTP time\n"
        f"Last offset     : +0.000021000 seconds\nRMS offset      : 0.000030000 seconds\nLeap status     : {status}\n",
    )


def firewall_cmd(machine: Machine, call: Call) -> Answer:
    """`firewall-cmd`: --state, --reload, --permanent, --zone=Z, --add-/--remove-/--query-/--list- ports and sources."""
    if not machine.systemd.is_active("firewalld.service"):
        return Answer(252, err="FirewallD is not running\n")
    stored = json.loads(machine.read(FIREWALL, "{}"))
    zone, permanent, out, code = "public", "--permanent" in call.args, "", 0
    live = machine.systemd.firewall
    for word in call.args:
        if word.startswith("--zone="):
            zone = word.removeprefix("--zone=")
    rules = stored if permanent else live
    for word in call.args:
        found = re.fullmatch(r"--(add|remove|query)-(port|source|service|masquerade)(?:=(.+))?", word)
        listed = re.fullmatch(r"--list-(ports|sources|services)", word)
        if found:
            verb, kind, value = found.group(1), found.group(2), found.group(3) or "yes"
            if kind == "port" and not re.fullmatch(r"\d+(-\d+)?/(tcp|udp)", value):
                return Answer(102, err=f"Error: INVALID_PORT: '{value}' is invalid\n")
            bucket = rules.setdefault(f"{zone}.{kind}", [])
            if verb == "query":
                code, out = (0, out + "yes\n") if value in bucket else (1, out + "no\n")
                continue
            if verb == "add" and value not in bucket:
                bucket.append(value)
            if verb == "remove" and value in bucket:
                bucket.remove(value)
            out += "success\n"
        elif listed:
            out += " ".join(rules.get(f"{zone}.{listed.group(1)[:-1]}", [])) + "\n"
        elif word == "--state":
            out += "running\n"
        elif word == "--reload":
            live.clear()
            live.update(json.loads(json.dumps(stored)))
            out += "success\n"
        elif word != "--permanent" and not word.startswith("--zone="):
            return Answer(
                2,
                err="usage: 'firewall-cmd --help' for usage information or see firewall-cmd(1) man page\n"
                f"firewall-cmd: error: unrecognized arguments: {word}\n",
            )
    if permanent:
        machine.write(
            FIREWALL, json.dumps({key: sorted(value) for key, value in stored.items() if value}, sort_keys=True)
        )
    return Answer(code, out)


def nmcli(machine: Machine, call: Call) -> Answer:
    """`nmcli`: general reload and general status."""
    if not machine.systemd.is_active("NetworkManager.service"):
        return Answer(8, err="Error: NetworkManager is not running.\n")
    return Answer(0, "" if "reload" in call.args else "STATE      CONNECTIVITY\nconnected  full\n")


def ip(machine: Machine, call: Call) -> Answer:
    """`ip`: the default route and the machine's one interface; everything else is refused."""
    words = [word for word in call.args if not word.startswith("-")]
    address = machine.spec.address
    if words[:1] and "route".startswith(words[0]) and words[1:2] != ["add"]:
        default = f"default via {address.rpartition('.')[0]}.254 dev eth0 proto dhcp src {address} metric 100\n"
        return Answer(0, default if not machine.systemd.no_default_route else "")
    if words[:1] and "link".startswith(words[0]):
        return Answer(0, "2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc mq state UP mode DEFAULT\n")
    if words[:1] and "address".startswith(words[0]):
        return Answer(0, f"2: eth0    inet {address}/24 brd {address.rpartition('.')[0]}.255 scope global eth0\n")
    return Answer(255, err=f'Object "{words[0] if words else ""}" is unknown, try "ip help".\n')


def getenforce(machine: Machine, call: Call) -> Answer:
    """`getenforce`."""
    found = re.search(r"^SELINUX=(\w+)", machine.read("/etc/selinux/config"), re.M)
    return Answer(0, f"{(found.group(1) if found else 'disabled').capitalize()}\n")


def restorecon(machine: Machine, call: Call) -> Answer:
    """`restorecon`: the lab has no labels to restore."""
    return Answer()


def update_ca_certificates(machine: Machine, call: Call) -> Answer:
    """`update-ca-certificates`: bundle the anchors into the place where the machine's curl looks."""
    if any(word not in ("-f", "--fresh", "-v", "--verbose") for word in call.args):
        return Answer(1, err=f"unknown option {call.args[0]}\n")
    anchors = sorted(machine.path("/etc/pki/trust/anchors").glob("*.[pc][er][mt]"))
    bundle = "".join(path.read_text() for path in anchors)
    for place in ("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/ca-bundle.pem"):
        machine.write(place, bundle)
    return Answer()


def reboot(machine: Machine, call: Call) -> Answer:
    """`reboot`, `shutdown -r`: the machine goes down a moment after the command has answered."""
    if call.name == "shutdown" and not {"-r", "--reboot"} & set(call.args):
        return Answer(1, err="the lab's machines only reboot (shutdown -r)\n")
    if machine.reboot_asked is not None:
        asyncio.get_running_loop().call_later(0.05, machine.reboot_asked, machine.name)
    return Answer()


def useradd(machine: Machine, call: Call) -> Answer:
    """`useradd`: -r -c -s -M -U -g -u -d -m NAME."""
    words, name, options = list(call.args), "", {}
    while words:
        word = words.pop(0)
        if word in ("-r", "-M", "-U", "-m", "-N", "--system", "--no-create-home", "--user-group"):
            options[word] = "yes"
        elif word in ("-c", "-s", "-g", "-u", "-d", "--comment", "--shell", "--gid"):
            options[word] = words.pop(0) if words else ""
        elif word.startswith("-"):
            return Answer(2, err=f"useradd: unrecognized option '{word}'\n")
        else:
            name = word
    passwd = machine.read("/etc/passwd")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*", name):
        return Answer(3 if name else 2, err=f"useradd: invalid user name '{name}': use --badname to ignore\n")
    if re.search(rf"^{name}:", passwd, re.M):
        return Answer(9, err=f"useradd: user '{name}' already exists\n")
    group = options.get("-g") or options.get("--gid")
    if group and not re.search(rf"^{group}:", machine.read("/etc/group"), re.M):
        return Answer(6, err=f"useradd: group '{group}' does not exist\n")
    number = options.get("-u") or str(499 - passwd.count("\n"))
    if not group and {"-U", "--user-group"} & set(options):
        made = groupadd(machine, Call("groupadd", ("-r", "-g", number, name)))
        if made.code:
            return Answer(made.code, err=made.err.replace("groupadd", "useradd"))
    home, shell = options.get("-d", f"/home/{name}"), options.get("-s") or options.get("--shell") or "/bin/bash"
    comment = options.get("-c") or options.get("--comment") or ""
    machine.write("/etc/passwd", f"{passwd}{name}:x:{number}:{number}:{comment}:{home}:{shell}\n")
    return Answer()


def groupadd(machine: Machine, call: Call) -> Answer:
    """`groupadd`: -r -g GID NAME."""
    words = [word for word in call.args if not word.startswith("-")]
    name, groups = words[-1] if words else "", machine.read("/etc/group")
    if re.search(rf"^{re.escape(name)}:", groups, re.M):
        return Answer(9, err=f"groupadd: group '{name}' already exists\n")
    number = words[0] if len(words) == 2 else str(499 - groups.count("\n"))
    machine.write("/etc/group", f"{groups}{name}:x:{number}:\n")
    return Answer()


def nvidia_smi(machine: Machine, call: Call) -> Answer:
    """`nvidia-smi`: -L, --query-gpu=... --format=csv[,noheader][,nounits]."""
    if not (machine.live / "module/nvidia").exists():
        return Answer(
            9,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
            "Make sure that the latest NVIDIA driver is installed and running.\n\n",
        )
    count = machine.spec.gpus
    if "-L" in call.args:
        rows = (f"GPU {index}: {GPU_NAME} (UUID: GPU-{machine.name}-{index:04d})\n" for index in range(count))
        return Answer(0, "".join(rows))
    for word in call.args:
        if word.startswith("--query-gpu="):
            fields = word.removeprefix("--query-gpu=").split(",")
            values = {"name": GPU_NAME, "driver_version": DRIVER, "count": str(count), "memory.total": "81559 MiB"}
            if unknown := [field for field in fields if field not in (*values, "index", "uuid")]:
                return Answer(2, f'Field "{unknown[0]}" is not a valid field to query.\n\n')
            head = "" if "noheader" in " ".join(call.args) else ", ".join(fields) + "\n"
            rows = (
                ", ".join(
                    {**values, "index": str(index), "uuid": f"GPU-{machine.name}-{index:04d}"}[field]
                    for field in fields
                )
                for index in range(count)
            )
            return Answer(0, head + "".join(f"{row}\n" for row in rows))
    return Answer(0, f"NVIDIA-SMI {DRIVER}   Driver Version: {DRIVER}   CUDA Version: 13.0\n")
