"""The spare host: what lies on it, how it is marked and wiped, and how the restored etcd is counted there. Pure.

A host is wiped only with our marker on it, which is written before anything else and taken away last: a drill that died
leaves it, and the next one begins by wiping. A host that holds RKE2 without the marker is somebody's.
"""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from stackwright.domain.drill_site import MARK
from stackwright.domain.errors import Problem
from stackwright.domain.etcd import GATEWAY_PORTS, REFUSED
from stackwright.domain.etcd_file import resource_of
from stackwright.domain.removal_facts import uninstall_script
from stackwright.domain.restore_scripts import LOG as RESTORE_LOG
from stackwright.domain.restore_scripts import MARK as RESTORE_MARK
from stackwright.domain.rke2_facts import DATA, ETC, STAGE
from stackwright.domain.shell import AnswerError, Section, put_file, quote, read_script, shell_section, value_section
from stackwright.domain.spec import StackSpec

NO_SUCH_FILE = 22  # curl's exit code with --fail: the server answers, and does not have it
PAGE = 20000  # keys asked of etcd at once
LEFT_BY_RKE2 = (DATA, ETC, "/etc/rancher/node", "/var/lib/kubelet", "/var/lib/cni", "/etc/cni")
LEFT_BY_RESTORE = (RESTORE_MARK, f"{RESTORE_MARK}-done", RESTORE_LOG, STAGE)


@dataclass(frozen=True)
class HostState:
    """What lies on the spare host. `mark` names the drill that was the last to begin there, None without a marker.

    `left` holds what of RKE2 is there; `release` is what the release's source said when it was asked for, empty where
    the controller brings the files.
    """

    mark: str | None
    left: tuple[str, ...]
    release: str = ""

    @property
    def clean(self) -> bool:
        return self.mark is None and not self.left


def host_script(spec: StackSpec) -> str:
    """Return the script that looks at the spare host, and asks for the release where the host is to fetch it."""
    names = " ".join([*LEFT_BY_RKE2[:3], "/usr/local/bin/rke2", "/opt/rke2/bin/rke2", "/usr/bin/rke2"])
    body = value_section("mark", MARK)
    body += shell_section("left", f'for f in {names}; do if [ -e "$f" ]; then echo "$f"; fi; done')
    artifacts = spec.rke2.artifacts
    if artifacts.source == "url":
        place = f"{(artifacts.url or '').rstrip('/')}/{spec.rke2.version.replace('+', '%2B')}/sha256sum-"
        body += shell_section("release", _RELEASE.replace("@PLACE@", quote(place)))
    return read_script(body)


# Whether it is there is all that is asked, so the server's certificate does not matter: what is installed is checked.
_RELEASE = """\
case $(uname -m) in aarch64) a=arm64 ;; *) a=amd64 ;; esac
curl --silent --fail --insecure --location --head --output /dev/null --max-time 30 @PLACE@$a.txt
echo $?
"""


def parse_host(seen: Mapping[str, Section], where: str) -> HostState:
    """Return what the script saw. Raises AnswerError for what could not be read."""
    for name in ("mark", "left"):
        if seen[name].rc and not seen[name].absent:
            raise AnswerError(f"`{name}` could not be read", where=where, seen=f"exit code {seen[name].rc}")
    mark = None if seen["mark"].absent else seen["mark"].out.strip()
    release = seen["release"].out.strip() if "release" in seen else ""
    return HostState(mark, tuple(seen["left"].out.split()), release)


def check_host(host: str, seen: HostState) -> list[Problem]:
    """Return what forbids to wipe the host: RKE2 on it that no drill has brought."""
    if seen.mark is not None or not seen.left:
        return []
    remedy = (
        f"Look whose it is. If it is waste, run rke2-uninstall.sh on {host} by hand: only drills are wiped for you."
    )
    what = "the host holds RKE2, and no drill has brought it there"
    return [Problem(host, what, remedy, f"nothing of RKE2, or the marker {MARK}", ", ".join(seen.left))]


def mark_script(run: str) -> str:
    """Return the step that marks the host as a drill's, before anything else is done on it."""
    names = " ".join(LEFT_BY_RKE2[:3])
    check = (
        f'for f in {names}; do\nif [ -e "$f" ] && [ ! -e {MARK} ]; then echo "$f is of no drill"; exit 1; fi\ndone\n'
    )
    return check + put_file(MARK, f"{run}\n", 0o600)


def wipe_script() -> str:
    """Return the step that takes all of a drill away, its marker last. Does nothing without the marker but fail.

    RKE2's own script goes first; what it leaves, because it is gone itself after a death in the middle, goes after it.
    """
    names = " ".join(quote(name) for name in (*LEFT_BY_RKE2, *LEFT_BY_RESTORE))
    return (
        f"[ -e {MARK} ] || {{ echo 'the host is not marked as one of a drill'; exit 1; }}\n"
        + "for p in /usr/local /opt/rke2 /usr; do\n"
        + '[ -x "$p/bin/rke2-killall.sh" ] || continue\n'
        + '( cd / && INSTALL_RKE2_ROOT="$p" "$p/bin/rke2-killall.sh" ) || :\ndone\n'
        + f"( {uninstall_script().rstrip()} ) || :\n"
        + f"rm -rf {names}\n"
        + f'for f in {names}; do if [ -e "$f" ]; then echo "$f cannot be removed"; exit 1; fi; done\n'
        + f"rm -f {MARK}\n"
    )


# --- counting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EtcdCount:
    """What etcd holds: its present revision, and its keys as of the one that was asked for, or of now (not `exact`)."""

    revision: int
    exact: bool
    keys: int
    counts: Mapping[str, int]


def count_script(revision: int) -> str:
    """Return the script that lists the keys of the etcd on the host as of a revision; of now, where it is compacted.

    Keys alone leave etcd, a page at a time; they come compressed.
    """
    text = _COUNT.replace("@DATA@", DATA).replace("@PORTS@", GATEWAY_PORTS).replace("@REFUSED@", str(REFUSED))
    return read_script(shell_section("keys", text.replace("@PAGE@", str(PAGE)).replace("@REVISION@", str(revision))))


def parse_count(seen: Mapping[str, Section], where: str) -> EtcdCount:
    """Return the count. Raises AnswerError for an answer that is not whole."""
    section = seen["keys"]
    try:
        lines = gzip.decompress(base64.b64decode(section.out)).decode("ascii").splitlines()
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise AnswerError("etcd's keys could not be read", where=where, seen=type(error).__name__) from error
    if section.rc or not lines or lines[-1] != "end":
        seen_last = lines[-1][:120] if lines else f"exit code {section.rc}"
        raise AnswerError("etcd's keys could not be read", where=where, wanted="all keys", seen=seen_last)
    counts: dict[str, int] = {}
    keys, revision, exact = 0, 0, True
    for line in lines:
        word, _, value = line.partition(" ")
        if word == "now":
            revision = int(value)
        elif word == "compacted":
            keys, counts, exact = 0, {}, False
        elif word == "key":
            keys += 1
            kind = resource_of(base64.b64decode(value).decode("utf-8", "replace"))
            if kind:
                counts[kind] = counts.get(kind, 0) + 1
    return EtcdCount(revision, exact, keys, counts)


# The gateway's base64: LQ== is `-` (no key of anybody), AA== the empty byte (all keys from there on).
_COUNT = """\
t=@DATA@/server/tls/etcd
f=$(mktemp) || exit
trap 'rm -f "$f" "$f.keys"' EXIT
ask() {
curl --silent --noproxy '*' --max-time 120 --cacert $t/server-ca.crt --cert $t/server-client.crt \\
--key $t/server-client.key --data "$1" --output "$f" $g/kv/range
}
all() {
rc=1
for p in @PORTS@; do
g=https://127.0.0.1:$p/v3
rc=0; ask '{"key":"LQ==","count_only":true}' || rc=$?
[ $rc -eq @REFUSED@ ] || break
done
[ $rc -eq 0 ] || { echo "curl ends with $rc"; return; }
echo "now $(sed -n 's/.*"revision":"\\([0-9]*\\)".*/\\1/p' "$f")"
r=@REVISION@
k=AA==
while :; do
q='"range_end":"AA==","keys_only":true,"limit":"@PAGE@"'
ask "{\\"key\\":\\"$k\\",$q,\\"revision\\":\\"$r\\"}" || { echo "curl ends with $?"; return; }
case $(head -c 400 "$f") in
*'revision has been compacted'*)
[ "$r" != 0 ] || { echo 'compacted at once'; return; }
r=0; k=AA==; echo compacted; continue ;;
*'"error"'*) head -c 200 "$f" | tr '\\n' ' '; echo; return ;;
esac
tr ',{' '\\n\\n' <"$f" | sed -n 's/^"key":"\\([^"]*\\)".*/key \\1/p' >"$f.keys"
cat "$f.keys"
case $(tail -c 200 "$f") in *'"more":true'*) ;; *) break ;; esac
k=$({ tail -n 1 "$f.keys" | cut -d ' ' -f 2 | base64 -d; printf '\\0'; } | base64 -w 0)
done
echo end
}
all | gzip -c | base64
"""
