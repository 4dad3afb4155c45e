"""Stand-ins for registration and packages: SUSEConnect, zypper, rpm, transactional-update.

Facts: SUSEConnect(8) and zypper(8) exit codes; SUSEConnect prints its errors on standard output.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING

from stackwright.lab.machines.hand import Answer, Call
from stackwright.lab.nodefiles import PRODUCT, UNITS_OF_PACKAGE, enable_units, unit_text

if TYPE_CHECKING:
    from stackwright.lab.nodes import Machine

PACKAGES = "/var/lib/lab/packages.json"
STAGED = "/var/lib/lab/staged.json"
REGISTERED = "/var/lib/lab/registered.json"
CREDENTIALS = "/etc/zypp/credentials.d/SCCcredentials"
AVAILABLE = frozenset(
    [
        "open-iscsi",
        "nfs-client",
        "cryptsetup",
        "device-mapper",
        "iptables",
        "apparmor-parser",
        "chrony",
        "curl",
        "tar",
        "jq",
        "rke2-selinux",
        "container-selinux",
        "policycoreutils",
        "selinux-policy",
        "firewalld",
        "multipath-tools",
        "lvm2",
        "xfsprogs",
        "e2fsprogs",
        "ethtool",
        "sudo-policy-wheel-auth-self",
        "NetworkManager",
        "nvidia-open-driver-G06-signed-cuda-kmp-default",
        "nvidia-compute-utils-G06",
        "nvidia-persistenced",
        "nv-prefer-signed-open-driver",
        "zram-generator",
        "conntrack-tools",
        "socat",
        "ca-certificates",
        "zstd",
        "gzip",
        "nvidia-open-driver-G07-signed-cuda-kmp-default",
        "nvidia-compute-utils-G07",
        "openssh-server-config-rootlogin",
        "util-linux",
    ]
)
VERSION = "1.0.0-150700.1.1"


def installed(machine: Machine) -> list[str]:
    """Return the names of the installed packages, sorted."""
    names: list[str] = json.loads(machine.read(PACKAGES, "[]"))
    return names


def apply_staged(machine: Machine) -> None:
    """Make what transactional-update prepared the running system, as its reboot does."""
    staged: list[str] = json.loads(machine.read(STAGED, "[]"))
    for name in staged:
        enable_units(machine.root, name)
    if staged:
        machine.write(PACKAGES, json.dumps(sorted({*installed(machine), *staged})))
        machine.write(STAGED, "[]")


async def _install(machine: Machine, names: list[str]) -> None:
    machine.write(PACKAGES, json.dumps(sorted({*installed(machine), *names})))
    for name in names:
        enable_units(machine.root, name)
        for unit, _ in UNITS_OF_PACKAGE.get(name, ()):
            # Through the machine's own view: its layers must not be changed from below while they are mounted.
            await machine.run(f"printf %s {shlex.quote(unit_text(unit))} > /usr/lib/systemd/system/{unit}")


def suseconnect(machine: Machine, call: Call) -> Answer:
    """`SUSEConnect`: -r CODE|-|@FILE, -e, -p, -d, --url, -s, --status-text, -l, --cleanup, --keepalive."""
    words, options = list(call.args), {}
    takes_value = {
        "-r",
        "--regcode",
        "-e",
        "--email",
        "-p",
        "--product",
        "--url",
        "--root",
        "--instance-data",
        "--namespace",
    }
    flags = {"-d", "--de-register", "-s", "--status", "--status-text", "-l", "--list-extensions", "--cleanup",
             "--keepalive", "--write-config", "--rollback",
              "--gpg-auto-import-keys", "--json", "--debug", "--version"}  # fmt: skip
    while words:
        word, has_value, value = words.pop(0).partition("=")
        if word in takes_value:
            options[word] = value if has_value else (words.pop(0) if words else "")
        elif word in flags:
            options[word] = "yes"
        else:
            return Answer(1, f"SUSEConnect: unknown option '{word}'\n")
    state = json.loads(machine.read(REGISTERED, "{}"))
    if {"-s", "--status"} & set(options):
        return Answer(0, json.dumps(_status(machine, state)) + "\n")
    if "--status-text" in options:
        return Answer(0, _status_text(machine, state))
    if "--cleanup" in options:
        machine.path(CREDENTIALS).unlink(missing_ok=True)
        machine.write(REGISTERED, "{}")
        return Answer()
    if "--keepalive" in options:
        return Answer(0) if state else Answer(71, "Error: The system is not registered\n")
    if {"-d", "--de-register"} & set(options):
        return _deregister(machine, state, options.get("-p") or options.get("--product"))
    return _register(machine, call, state, options)


def _register(machine: Machine, call: Call, state: dict[str, list[str]], options: dict[str, str]) -> Answer:
    code = options.get("-r") or options.get("--regcode") or ""
    if code == "-":
        code = call.stdin.strip()
    elif code.startswith("@"):
        path = code[1:]
        code = machine.read(path).strip()
        if not code:
            return Answer(65, f"Error: open {path}: no such file or directory\n")
    url = options.get("--url") or "https://scc.suse.com"
    name, version = PRODUCT[machine.spec.profile]
    product = options.get("-p") or options.get("--product") or f"{name}/{version}/x86_64"
    if not re.fullmatch(r"[^/]+/[^/]+/[^/]+", product):
        return Answer(
            1, "Please provide the product identifier in this format: <internal name>/<version>/<architecture>.\n"
        )
    if not state and "--url" not in options and not code.startswith("LAB-"):
        return Answer(67, "Error: Registration server returned 'Unknown Registration Code.' (422)\n" if code else
                      "Error: Please register your system using the --regcode parameter, "
                      "or provide the --url parameter to register against RMT.\n")  # fmt: skip
    products = state.setdefault("products", [])
    base = f"{name}/{version}/x86_64"
    if base not in products:
        products.append(base)
    if product not in products:
        if not product.split("/")[1].startswith(version.split(".")[0]):
            return Answer(
                67, f"Error: Registration server returned 'No product found on server for: {product}' (422)\n"
            )
        products.append(product)
    machine.write(REGISTERED, json.dumps(state))
    machine.write(CREDENTIALS, f"username=SCC_{machine.name}\npassword=lab\n", 0o600)
    if "--url" in options:
        machine.write("/etc/SUSEConnect", f"---\nurl: {url}\n")
    return Answer(
        0,
        f"Registering system to {'SUSE Customer Center' if 'scc' in url else 'registration proxy ' + url}\n\n"
        "Successfully registered system\n",
    )


def _deregister(machine: Machine, state: dict[str, list[str]], product: str | None) -> Answer:
    if not state:
        return Answer(69, "Error: The system is not registered\n")
    if product:
        if product == state["products"][0]:
            return Answer(70, "Error: Can not de-register the base product alone\n")
        state["products"] = [name for name in state["products"] if name != product]
        machine.write(REGISTERED, json.dumps(state))
    else:
        machine.path(CREDENTIALS).unlink(missing_ok=True)
        machine.write(REGISTERED, "{}")
    return Answer(0, "Successfully deregistered system\n")


def _status(machine: Machine, state: dict[str, list[str]]) -> list[dict[str, str]]:
    name, version = PRODUCT[machine.spec.profile]
    rows = []
    for product in state.get("products") or [f"{name}/{version}/x86_64"]:
        identifier, number, arch = product.split("/")
        row = {"identifier": identifier, "version": number, "arch": arch}
        if state:
            row |= {"status": "Registered", "regcode": "LAB-REDACTED", "subscription_status": "ACTIVE", "type": "full"}
        else:
            row["status"] = "Not Registered"
        rows.append(row)
    return rows


def _status_text(machine: Machine, state: dict[str, list[str]]) -> str:
    rule = "-" * 42
    return "Installed Products:\n" + rule + "\n" + "".join(
        f"\n  {row['identifier']}\n  ({row['identifier']}/{row['version']}/{row['arch']})\n\n"
        f"  {row['status']}\n\n{rule}\n"
        for row in _status(machine, state)
    )  # fmt: skip


async def zypper(machine: Machine, call: Call) -> Answer:
    """`zypper`: install, remove, info, lr, ar, rr, ref, al, rl, ll, search; global options; the real exit codes."""
    words = [word for word in call.args if word not in ("--non-interactive", "-n", "--quiet", "-q", "-x", "--xmlout",
             "--no-gpg-checks", "--gpg-auto-import-keys", "--no-refresh", "--no-color")]  # fmt: skip
    interactive = not {"--non-interactive", "-n"} & set(call.args)
    if not words:
        return Answer(2, "Usage:\n  zypper [--GLOBAL-OPTIONS] <COMMAND> [--COMMAND-OPTIONS] [ARGUMENTS]\n")
    verb, rest = words[0], words[1:]
    if verb.startswith("-"):
        return Answer(2, err=f"Unknown option '{verb}'\n")
    provoked = machine.provoked.get("zypper", [])
    late = provoked.pop(0) if provoked else 0
    if late not in (0, 102, 103, 107):
        return Answer(late, err=_zypper_error(late))
    names = [word for word in rest if not word.startswith("-")]
    if verb in ("install", "in"):
        return await _zypper_install(machine, rest, names, interactive=interactive, late=late)
    if verb in ("remove", "rm"):
        machine.write(PACKAGES, json.dumps([name for name in installed(machine) if name not in names]))
        return Answer(0 if names else 2)
    if verb in ("refresh", "ref"):
        return (
            Answer(0, "All repositories have been refreshed.\n")
            if _repos(machine)
            else Answer(6, "Warning: There are no enabled repositories defined.\n")
        )
    if verb in ("addrepo", "ar"):
        return _zypper_add_repo(machine, names)
    if verb in ("removerepo", "rr"):
        for name in names:
            machine.path(f"/etc/zypp/repos.d/{name}.repo").unlink(missing_ok=True)
        return Answer()
    if verb in ("repos", "lr"):
        return Answer(0, _list_repos(machine)) if _repos(machine) else Answer(6, "Warning: No repositories defined.\n")
    if verb in ("addlock", "al", "removelock", "rl", "locks", "ll"):
        return _zypper_locks(machine, verb, names)
    if verb in ("info", "if", "search", "se"):
        known = set(installed(machine))
        rows = (f"Information for package {name}:\nName           : {name}\nVersion        : {VERSION}\n"
                f"Installed      : {'Yes' if name in known else 'No'}\n"
                for name in names if name in known | AVAILABLE)  # fmt: skip
        found = "".join(rows)
        return Answer(0 if found or verb in ("info", "if") else 104, found)
    return Answer(2, err=f"Unknown command '{verb}'\n")


async def _zypper_install(
    machine: Machine, rest: list[str], names: list[str], *, interactive: bool, late: int
) -> Answer:
    if machine.spec.profile == "slmicro":
        return Answer(
            8, "This is a transactional-server, please use transactional-update to update or modify the system.\n"
        )
    known = set(installed(machine))
    wanted = [name.split("=")[0] for name in names]
    missing = [name for name in wanted if name not in known]
    if interactive and missing and not {"-y", "--no-confirm"} & set(rest):
        return Answer(4, "Continue? [y/n/v/...? shows all options] (y): \n", "Cannot read input: bad stream or EOF.\n")
    absent = [name for name in missing if name not in AVAILABLE or not _repos(machine)]
    if absent:
        return Answer(104, "".join(f"No provider of '{name}' found.\n" for name in absent))
    await _install(machine, missing)
    if not missing:
        return Answer(0, "".join(f"'{name}' is already installed.\n" for name in wanted) + "\nNothing to do.\n")
    return Answer(
        late, f"The following {len(missing)} NEW packages are going to be installed:\n  {' '.join(missing)}\n"
    )


def _zypper_add_repo(machine: Machine, names: list[str]) -> Answer:
    if len(names) != 2:
        return Answer(2, err="Required argument missing.\n")
    url, alias = names
    if machine.path(f"/etc/zypp/repos.d/{alias}.repo").exists():
        return Answer(4, err=f"Repository named '{alias}' already exists. Please use another alias.\n")
    machine.write(
        f"/etc/zypp/repos.d/{alias}.repo", f"[{alias}]\nname={alias}\nenabled=1\nautorefresh=0\nbaseurl={url}\n"
    )
    return Answer(0, f"Repository '{alias}' successfully added\n")


def _zypper_locks(machine: Machine, verb: str, names: list[str]) -> Answer:
    locks = re.findall(r"^solvable_name: (\S+)", machine.read("/etc/zypp/locks"), re.M)
    if verb in ("locks", "ll"):
        rows = "".join(f"{index} | {name} | package | (any)\n" for index, name in enumerate(locks, 1))
        return Answer(
            0, f"\n# | Name | Type | Repository\n{rows}" if locks else "\nThere are no package locks defined.\n"
        )
    kept = sorted({*locks, *names} if verb in ("addlock", "al") else set(locks) - set(names))
    text = "".join(f"\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: {name}\n" for name in kept)
    machine.write("/etc/zypp/locks", text)
    return Answer(0, "Specified locks have been successfully changed.\n")


def _zypper_error(code: int) -> str:
    return {
        7: "System management is locked by the application with pid 4711 (zypper).\n"
        "Close this application before trying again.\n",
        104: "No provider found.\n",
    }.get(code, "")


def _repos(machine: Machine) -> list[str]:
    files = sorted(path.stem for path in machine.path("/etc/zypp/repos.d").glob("*.repo"))
    modules: list[str] = json.loads(machine.read(REGISTERED, "{}")).get("products", [])
    return [*files, *(product.split("/")[0] for product in modules)]


def _list_repos(machine: Machine) -> str:
    rows = "".join(
        f"{index} | {name} | {name} | Yes | (r ) Yes | No\n" for index, name in enumerate(_repos(machine), 1)
    )
    return f"#  | Alias | Name | Enabled | GPG Check | Refresh\n---+-------\n{rows}"


def rpm(machine: Machine, call: Call) -> Answer:
    """`rpm`: -q NAME..., -qa, --queryformat/--qf with %{NAME} and %{VERSION}, --quiet."""
    words, form, names, flags = list(call.args), "%{NAME}-" + VERSION + ".x86_64\\n", [], set()
    while words:
        word = words.pop(0)
        if word in ("--queryformat", "--qf"):
            form = words.pop(0) if words else ""
        elif word in ("-q", "-qa", "--query", "-a", "--all", "--quiet", "--import", "-qi", "--whatprovides"):
            flags.add(word)
        elif word.startswith("-"):
            return Answer(1, err=f"rpm: {word}: unknown option\n")
        else:
            names.append(word)
    if "--import" in flags:
        return Answer()
    if not flags & {"-q", "-qa", "--query", "-qi"}:
        return Answer(1, err="rpm: no operation given\n")
    known = installed(machine)
    listed = [name for name in known if not names or name in names] if flags & {"-qa", "-a", "--all"} else names
    code, out = 0, ""
    for name in listed:
        if name in known:
            version = "580.82.07" if name.startswith(("nvidia", "nv-")) else VERSION.split("-")[0]
            line = form.replace("%{NAME}", name).replace("%{name}", name).replace("%{VERSION}", version)
            out += line.replace("%{RELEASE}", VERSION.split("-")[1]).replace("\\n", "\n")
        else:
            code, out = code + 1, out + f"package {name} is not installed\n"
    return Answer(code, "" if "--quiet" in flags else out)


def transactional_update(machine: Machine, call: Call) -> Answer:
    """`transactional-update`: [--continue] [-n] pkg install P..., register ARGS; takes effect at the next boot."""
    words = [
        word
        for word in call.args
        if word not in ("--continue", "-n", "--non-interactive", "--no-selfupdate", "-d", "--drop-if-no-change")
    ]
    if words[:1] == ["register"]:
        return suseconnect(machine, Call("SUSEConnect", tuple(words[1:]), call.stdin))
    if words[:1] == ["reboot"]:
        return Answer()
    if words[:1] != ["pkg"] or words[1:2] not in (["install"], ["in"]):
        return Answer(1, "Syntax: transactional-update [option...] [general-command...] [package-command]\n")
    names = [word for word in words[2:] if not word.startswith("-")]
    if absent := [name for name in names if name not in AVAILABLE and name not in installed(machine)]:
        return Answer(1, f"No provider of '{absent[0]}' found.\nERROR: zypper install failed with exit code 104.\n")
    before = json.loads(machine.read(STAGED, "[]")) if "--continue" in call.args else []
    machine.write(STAGED, json.dumps(sorted({*before, *names} - set(installed(machine)))))
    return Answer(
        0, "Please reboot your machine to activate the changes and avoid data loss.\ntransactional-update finished\n"
    )
