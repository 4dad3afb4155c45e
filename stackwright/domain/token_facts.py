"""What is seen of a cluster's server token: only hashes leave the nodes and the blocks. Pure.

Where RKE2 takes a token from: config.yaml, config.yaml.d, files that they name, the unit's environment. RKE2
documentation, server configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stackwright.domain.errors import StackError
from stackwright.domain.rke2_facts import CONFIG, ETC, TOKEN
from stackwright.domain.shell import STATE, Section, read_script, settled_section, shell_section, value_section
from stackwright.domain.token_archive import HASH_DIGITS

ROTATED = f"{STATE}/token-rotated"
"""Marker on the server that was asked: hash of the token that the datastore is known to have taken."""
ENV_FILES = (
    "/etc/default/rke2-*",
    "/etc/sysconfig/rke2-*",
    "/usr/local/lib/systemd/system/rke2-*.env",
    "/etc/systemd/system/rke2-*.env",
    "/usr/lib/systemd/system/rke2-*.env",
)


@dataclass(frozen=True)
class Setting:
    """One place that gives a node a token. `hash` is that of its secret part, empty for what is no token itself."""

    path: str
    key: str
    hash: str

    @property
    def ours(self) -> bool:
        return (self.path, self.key) == (TOKEN, "token")


@dataclass(frozen=True)
class NodeToken:
    """The token settings of one node, and the marker of a rotation that was asked for there."""

    settings: tuple[Setting, ...] = ()
    rotated: str = ""

    @property
    def hash(self) -> str:
        """Hash of the token in our own file; empty where there is none."""
        return next((one.hash for one in self.settings if one.ours), "")


@dataclass(frozen=True)
class TokenFacts:
    """One look at the token. Hashes are the short ones by which snapshots name their token.

    `present` is the token block's, `following` that of the block that keeps the next one (empty without), `archived`
    maps the hash of each earlier token to the time of its retirement, oldest first. `servers` are the hashes of the
    servers' own token files, empty where there is none.
    """

    present: str
    following: str
    archived: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, NodeToken] = field(default_factory=dict)
    servers: Mapping[str, str] = field(default_factory=dict)


def following_block(token_block: str) -> str:
    """Return the name of the block that keeps the next token from before its first use."""
    return f"{token_block}-next"


def token_script() -> str:
    """Return the reading script of one node."""
    envs = " ".join(ENV_FILES)
    body = _SETTINGS.replace("@CONFIG@", CONFIG).replace("@ETC@", ETC).replace("@ENVS@", envs)
    return read_script(
        settled_section()
        + shell_section("settings", body.replace("@DIGITS@", str(HASH_DIGITS)))
        + value_section("rotated", ROTATED)
    )


def parse_token(seen: Mapping[str, Section], where: str) -> NodeToken:
    """Return one node's settings. Raises StackError when they could not be read: unknown is not absent."""
    settings, rotated = seen["settings"], seen["rotated"]
    if settings.rc or (rotated.rc and not rotated.absent):
        code = settings.rc or rotated.rc
        raise StackError("the token settings could not be read", where=where, seen=f"exit code {code}")
    rows = [line.split(" ", 2) for line in settings.out.splitlines() if line.strip()]
    found = tuple(Setting(path, key, mark.strip()) for key, mark, path in rows)
    return NodeToken(found, "" if rotated.absent else rotated.out.strip())


# The secret part is what comes after the last colon: of both forms of a token. Its hash alone is printed.
_SETTINGS = """\
for f in @CONFIG@ @ETC@/config.yaml.d/*.yaml; do
[ -e "$f" ] || continue
for k in token token-file agent-token agent-token-file; do
grep -q "^[\\"']\\{0,1\\}$k[\\"']\\{0,1\\}[+]\\{0,1\\}[[:space:]]*:" "$f" || continue
v=$(grep "^[\\"']\\{0,1\\}$k[\\"']\\{0,1\\}[+]\\{0,1\\}[[:space:]]*:" "$f" | tail -n 1)
v=${v##*:}
v=$(printf %s "$v" | tr -d " \\t\\r\\"'")
s=$(printf %s "$v" | sha256sum | cut -c 1-@DIGITS@)
echo "$k $s $f"
done
done
for f in @ENVS@; do
[ -e "$f" ] || continue
for k in RKE2_TOKEN RKE2_TOKEN_FILE RKE2_AGENT_TOKEN RKE2_AGENT_TOKEN_FILE K3S_TOKEN K3S_TOKEN_FILE; do
if grep -q "^[[:space:]]*$k=" "$f"; then echo "$k - $f"; fi
done
done
"""
