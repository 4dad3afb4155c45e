"""What is seen of RKE2 on one node, and of the cluster as a whole. Read with the node's other facts, in one script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.errors import StackError
from stackwright.domain.etcd import EtcdView, etcd_script, parse_etcd
from stackwright.domain.shell import STATE, Section, file_section, shell_section, value_section
from stackwright.domain.spec import Node

ETC = "/etc/rancher/rke2"
DATA = "/var/lib/rancher/rke2"
CONFIG = f"{ETC}/config.yaml"
TOKEN = f"{ETC}/config.yaml.d/10-token.yaml"
JOIN = f"{ETC}/config.yaml.d/20-join.yaml"
REGISTRIES = f"{ETC}/registries.yaml"
REGISTRY_CA = f"{ETC}/registry-ca.pem"
PSA = f"{ETC}/psa.yaml"
PASSWORD = "/etc/rancher/node/password"  # noqa: S105 - the file that tells the cluster that this is the node it knows
STARTED = f"{STATE}/rke2-started"
"""Marker: sum of the configuration that the running process was started with."""
STAGE = f"{STATE}/stage"
STAGED = f"{STAGE}/release"
"""Marker: the release whose files lie in the stage, whole and checked."""
RELEASE = f"{STATE}/rke2-release"
"""Marker: the release with which the upgrade has restarted the process last."""
SURPRISE = f"{STATE}/rke2-surprise"
"""Marker: the release whose restart touched more of this server than was predicted, and what."""
SECRET_KEYS = ("token", "agent-token", "etcd-s3-access-key", "etcd-s3-secret-key")


def env_file(role: str) -> str:
    """Return the path of the unit's environment file, where proxies go."""
    return f"/etc/default/rke2-{role}"


def config_files(role: str) -> tuple[str, ...]:
    """Return every file that RKE2 reads when it starts, in a fixed order."""
    return (CONFIG, TOKEN, JOIN, REGISTRIES, REGISTRY_CA, PSA, env_file(role))


@dataclass(frozen=True)
class Rke2Facts:
    """RKE2 on one node. Hashes are SHA-256 in hex; no secret is kept.

    `files` maps each configuration file that exists to its hash and mode; `config` is config.yaml without secret keys.
    `started_sum` is the sum of all files when the process was started, None when nobody noted it. `etcd` is None where
    it was looked for and none runs; one that should answer and does not is a view that is not readable. `surprise` is
    what the marker of that name says, empty without one.
    """

    binary: str = ""
    version: str = ""
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_sum: str = ""
    started_sum: str | None = None
    has_data: bool = False
    has_token: bool = False
    has_password: bool = False
    ca_hash: str = ""
    token_ca_hash: str = ""
    token_hash: str = ""
    staged: str = ""
    """Release whose checked files lie in the stage; empty when none do."""
    outdated: bool = False
    """True when the running process was started from a program that has been replaced on disk since."""
    restarted_with: str = ""
    """Release with which the upgrade has restarted the process last; empty when it never did."""
    free_gib: float = 0.0
    """Free space where RKE2 keeps its data and images."""
    etcd: EtcdView | None = None
    surprise: str = ""


@dataclass(frozen=True)
class ClusterFacts:
    """The cluster as its API shows it, and what the plan needs from the controller's own disk and blocks.

    `reachable` is None when there is no cluster access yet, False when the API did not answer. `nodes` is empty then.
    `members` are the servers that hold cluster data; `token_hash` is the SHA-256 of the token block's secret part,
    empty when there is no block. `artifacts` are the files of the controller's artifact folder.
    `secret_files` holds (node, path) of the files with secrets whose content on the node is what the blocks say now.
    `local_files` maps paths that the site file names to their text.
    """

    reachable: bool | None = None
    nodes: Mapping[str, NodeStatus] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    has_access: bool = False
    token_hash: str = ""
    artifacts: tuple[str, ...] = ()
    secret_files: frozenset[tuple[str, str]] = frozenset()
    local_files: Mapping[str, str] = field(default_factory=dict)


class Looker(Protocol):
    """Access to sections that raises for what could not be read."""

    def section(self, name: str) -> Section: ...
    def text(self, name: str, ok: tuple[int, ...] = (0,)) -> str: ...
    def optional(self, name: str) -> str | None: ...


def sections(node: Node) -> str:
    """Return the part of the reading script that looks at RKE2."""
    role = "server" if node.is_server else "agent"
    parts = shell_section("rke2_program", _PROGRAM)
    parts += shell_section("rke2_files", _FILES.format(files=" ".join(config_files(role))))
    parts += shell_section("rke2_password", f"if [ -e {PASSWORD} ]; then echo yes; fi")
    parts += file_section("rke2_config", CONFIG) + value_section("rke2_started", STARTED)
    parts += value_section("rke2_staged", STAGED) + value_section("rke2_release", RELEASE)
    parts += shell_section("rke2_process", _PROCESS.format(role=role))
    parts += shell_section("rke2_room", _ROOM.format(data=DATA))
    parts += value_section("rke2_surprise", SURPRISE)
    if node.is_server:
        parts += shell_section("rke2_data", _DATA.format(data=DATA))
        live = _LIVE.format(address=node.address) + etcd_script(DATA, node.address)
        parts += shell_section("rke2_live", live)
    return parts


def parse(node: Node, look: Looker) -> Rke2Facts:
    """Return RKE2's facts."""
    program = look.text("rke2_program").splitlines()
    rows = [line.split(" ") for line in look.text("rke2_files").splitlines()]
    sums = {row[1]: row[2] for row in rows if row[0] == "sum"}
    modes = {row[1]: row[2] for row in rows if row[0] == "mode"}
    started = look.optional("rke2_started")
    data: dict[str, str] = {}
    live: dict[str, str] = {}
    if node.is_server:
        data = dict(line.partition(" ")[::2] for line in look.text("rke2_data").splitlines())
        live = dict(line.partition(" ")[::2] for line in look.text("rke2_live").splitlines())
    return Rke2Facts(
        binary=program[0] if program else "",
        version=_version(program[1] if len(program) > 1 else ""),
        files={path: (sums[path], modes.get(path, "")) for path in sums if path != "all"},
        config=_config(look.optional("rke2_config") or "", node.name),
        config_sum=sums.get("all", ""),
        started_sum=started.strip() if started is not None else None,
        has_data=data.get("data") == "yes",
        has_token="token" in data,
        has_password="yes" in look.text("rke2_password"),
        ca_hash=live.get("ca", ""),
        token_ca_hash=data.get("token_ca", ""),
        token_hash=data.get("token", ""),
        staged=(look.optional("rke2_staged") or "").strip(),
        restarted_with=(look.optional("rke2_release") or "").strip(),
        outdated="deleted" in look.text("rke2_process"),
        free_gib=round(int(look.text("rke2_room")) / (1 << 20), 1),
        etcd=parse_etcd(look.text("rke2_live")) if node.is_server else None,
        surprise=(look.optional("rke2_surprise") or "").strip(),
    )


def _version(text: str) -> str:
    found = re.search(r"v\d+\.\d+\.\d+\S*\+rke2r\d+", text)
    return found.group(0) if found else ""


def _config(text: str, where: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        # The parser's message would quote the file, and a foreign file may hold a token.
        raise StackError(f"{CONFIG} is not YAML", where=where, remedy="Mend or remove the file on the node.") from None
    if not isinstance(content, dict):
        raise StackError(f"{CONFIG} holds no settings", where=where, remedy="Mend or remove the file on the node.")
    return {key: value for key, value in content.items() if key not in SECRET_KEYS}


_PROGRAM = """\
for p in /usr/local /opt/rke2 /usr; do
if [ -x "$p/bin/rke2" ]; then echo "$p/bin/rke2"; "$p/bin/rke2" --version | head -n 1; exit 0; fi
done
"""
# The kernel marks a program file that was replaced while a process still runs it.
_PROCESS = """\
p=$(systemctl show -p MainPID --value rke2-{role}.service)
case $p in '' | 0) ;; *) readlink "/proc/$p/exe" || : ;; esac
"""
# Free KiB where the data lie, or will lie: the nearest folder above that exists.
_ROOM = """\
d={data}
while [ ! -d "$d" ]; do d=${{d%/*}}; d=${{d:-/}}; done
set -- $(df -Pk "$d" | tail -n 1)
echo "$4"
"""
# One sum over all files, with their names, is what the process was started with.
_FILES = """\
set --
for f in {files}; do if [ -e "$f" ]; then set -- "$@" "$f"; fi; done
if [ $# -gt 0 ]; then
s=$(sha256sum "$@") || exit
printf '%s\\n' "$s" | while read -r sum name; do echo "sum $name $sum"; done
stat -c 'mode %n %a' "$@" || exit
s=$(printf '%s\\n' "$s" | sha256sum); echo "sum all ${{s%% *}}"
fi
"""
# Of the token only its CA hash and the hash of its secret part leave the node.
_DATA = """\
if [ -d {data}/server/db/etcd ]; then echo "data yes"; fi
if [ -e {data}/server/token ]; then
t=; read -r t <{data}/server/token
case $t in K10*) a=${{t#K10}}; echo "token_ca ${{a%%::*}}" ;; esac
s=$(printf %s "${{t##*:}}" | sha256sum); echo "token ${{s%% *}}"
fi
"""
_LIVE = """\
u=$(systemctl is-active rke2-server)
c=.
case $u in
active | activating) c=$(curl --silent --insecure --fail --max-time 5 https://{address}:9345/cacerts; echo .) ;;
esac
if [ "$c" != . ]; then s=$(printf %s "${{c%.}}" | sha256sum); echo "ca ${{s%% *}}"; fi
"""
