"""The preflight's script for one host: all probes at once, each with its own time limit, in one round trip.

It changes nothing: what it writes are its probes' answers in a folder of its own, and on servers one file of a mebibyte
that the disk is timed with; both are always removed. POSIX sh, coreutils and curl; ports are opened with the shell's
own /dev/tcp where it has one (SLES's sh is bash), else with curl. No secret is in the text: logins are put in as shell
variables by `with_logins`, on the wire, and reach curl over its standard input.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from stackwright.domain import node_wants
from stackwright.domain.preflight import wants
from stackwright.domain.shell import quote, read_script, run_section, shell_section, value_section
from stackwright.domain.spec import Node, StackSpec

FSYNC_WRITES = 100
PEERS_AT_ONCE = 8
WRITE_BYTES = 2300  # what etcd writes at once. etcd documentation: hardware, disks
RIVALS = (
    "docker.service", "containerd.service", "crio.service", "kubelet.service", "k3s.service", "k3s-agent.service",
    "snap.microk8s.daemon-kubelite.service",
)  # fmt: skip
LEFTOVERS = (
    "/etc/kubernetes", "/var/lib/kubelet/pki", "/etc/rancher/k3s", "/var/lib/rancher/k3s", "/var/lib/etcd",
    "/etc/cni/net.d", "/var/lib/docker",
)  # fmt: skip
TOOLS = "curl tar gzip getent flock timeout sha256sum"
PATHS = ("/", "/var", "/var/lib/rancher", "/var/lib/kubelet")


@dataclass(frozen=True)
class Blob:
    """One blob that hosts fetch from a registry and check the digest of; `ca` is its CA file's path, if any."""

    key: str
    url: str
    digest: str
    ca: str = ""


def disk_paths(spec: StackSpec, node: Node) -> tuple[str, ...]:
    """Return the paths whose file systems are measured."""
    own = [disk.mount for disk in node.disks]
    if spec.layers.storage.enabled:
        own.append(spec.layers.storage.data_path)
    return tuple(dict.fromkeys((*PATHS, *own)))


def preflight_script(
    spec: StackSpec, node: Node, cas: Mapping[str, str] | None = None, blobs: Sequence[Blob] = ()
) -> str:
    """Return the script of one host. `cas` holds the CA files' texts by path; `blobs` is what to fetch."""
    texts = dict(cas or {})
    fetches = [one for one in wants.fetches(spec) if not one.ca or one.ca in texts]
    parts = [_SETUP, *(_ca(index, texts[path]) for index, path in enumerate(sorted(texts)))]
    place = {path: index for index, path in enumerate(sorted(texts))}
    proxy = _proxy(spec)
    slow = [("tcp", _tcp(spec, node)), ("dns", _dns(spec)), ("ping", _ping(spec, node))]
    slow += [("udp", _udp(spec, node)), ("time", "chronyc -n sources")]
    slow += [(f"fetch_{index}", _fetch(one, place, proxy)) for index, one in enumerate(fetches)]
    slow += [(f"blob_{index}", _blob(index, one, place, proxy)) for index, one in enumerate(blobs)]
    parts += [f"sw_p_{name}() {{\n{body}\n}}\nsw_bg {name}\n" for name, body in slow]
    parts += _quick(spec, node)
    # The disk is timed after the quick looks, while the network's answers are on their way.
    if node.is_server:
        parts.append(shell_section("fsync", _FSYNC.format(count=FSYNC_WRITES, size=WRITE_BYTES)))
    parts.append("sw_wait_all\n")
    parts += [f"sw_got {name}\n" for name, _ in slow]
    return read_script("".join(parts) + 'rm -rf "$sw_p"\n')


def with_logins(script: str, logins: Mapping[int, tuple[SecretStr, SecretStr]]) -> str:
    """Return the script with the logins of its blobs as shell variables, for the wire alone: never log or keep it."""
    lines = []
    for index, (user, password) in logins.items():
        pair = f"{user.get_secret_value()}:{password.get_secret_value()}"
        escaped = pair.replace("\\", "\\\\").replace('"', '\\"')
        line = f'user = "{escaped}"'
        lines.append(f"sw_login_{index}={quote(line)}\n")
    return "".join(lines) + script


def _quick(spec: StackSpec, node: Node) -> list[str]:
    paths = " ".join(quote(path) for path in disk_paths(spec, node))
    rivals = " ".join(RIVALS)
    return [
        shell_section("disks", _DISKS.format(paths=paths, option="-Pk")),
        shell_section("inodes", _DISKS.format(paths=paths, option="-Pi")),
        shell_section("file_systems", _FILE_SYSTEMS.format(paths=paths)),
        value_section("cgroup", "/sys/fs/cgroup/cgroup.controllers"),
        shell_section("modules", _MODULES.format(names=" ".join(node_wants.modules(spec)))),
        value_section("fips", "/proc/sys/crypto/fips_enabled"),
        value_section("entropy", "/proc/sys/kernel/random/entropy_avail"),
        shell_section("zypper", _ZYPPER),
        run_section("rivals", "systemctl", "show", "-p", "Id,LoadState,ActiveState", *rivals.split()),
        shell_section("leftovers", _LEFTOVERS.format(paths=" ".join(LEFTOVERS))),
        shell_section("listening", _LISTENING),
        run_section("links", "ip", "-o", "link", "show"),
        run_section("addresses", "ip", "-o", "-4", "addr", "show"),
        run_section("routes", "ip", "-o", "route", "show"),
        shell_section("cpu_flags", "grep -m 1 -o -w -E 'avx2' /proc/cpuinfo || :"),
        value_section("nvidia_module", "/sys/module/nvidia/version"),
        shell_section("tools", f"for t in {TOOLS}; do command -v $t >/dev/null || echo $t; done"),
    ]  # fmt: skip


def _ca(index: int, text: str) -> str:
    data = base64.b64encode(text.encode()).decode()
    return f'printf %s {data} | base64 -d >"$sw_p/ca{index}.pem"\n'


def _proxy(spec: StackSpec) -> str:
    address = spec.rke2.proxy.https or spec.rke2.proxy.http
    if not address:
        return ""
    return f"--proxy {quote(address)} --noproxy {quote(','.join(spec.rke2.proxy.no_proxy) or 'localhost')} "


def _curl(place: Mapping[str, int], ca: str, proxy: str) -> str:
    trust = f'--cacert "$sw_p/ca{place[ca]}.pem" ' if ca in place else ""
    return f"curl -sS --connect-timeout 4 --max-time {wants.REACH_S} {proxy}{trust}"


def _fetch(one: wants.Fetch, place: Mapping[str, int], proxy: str) -> str:
    return f"{_curl(place, one.ca, proxy)}-L -o /dev/null -w '%{{http_code}}' {quote(one.url)} 2>&1"


def _blob(index: int, one: Blob, place: Mapping[str, int], proxy: str) -> str:
    """Fetch a blob and answer with its sum; -f turns a refusal into curl's exit code 22."""
    curl = f"{_curl(place, one.ca, proxy)}-fL --config - {quote(one.url)}"
    return f'printf "%s\\n" "${{sw_login_{index}:-}}" | {curl} 2>"$sw_p/blob{index}.err" | sha256sum'


def _tcp(spec: StackSpec, node: Node) -> str:
    """Open every port: all at once, or with curl some peers at once and all ports of a peer in one process."""
    peers: dict[tuple[str, str], list[int]] = {}
    for one in wants.targets(spec, node):
        peers.setdefault((one.peer, one.address), []).append(one.port)
    words = [f"{quote(peer)} {quote(address)} {' '.join(map(str, ports))}" for (peer, address), ports in peers.items()]
    opened = "".join(f"sw_ask {text}\n" for text in words)
    lines = []
    for index, text in enumerate(words, 1):
        lines.append(f"sw_curl {text} &")
        if index % PEERS_AT_ONCE == 0:
            lines.append("wait")
    asked = f"sw_all() {{\n{opened}}}\nsw_round 2; sw_round 4"
    return "\n".join([f'if [ -n "$sw_net" ]; then\n{asked}\nelse', *lines, "wait\nfi"])


def _dns(spec: StackSpec) -> str:
    names = " ".join(quote(name) for name in wants.looked_up(spec))
    return _DNS.format(names=names)


def _ping(spec: StackSpec, node: Node) -> str:
    peers = wants.pinged(spec, node)
    if not peers:
        return ":"
    lines = [f"sw_ping {quote(one.name)} {quote(one.address)}" for one in peers]
    ends = [f"sw_pinged {quote(one.name)}" for one in peers]
    return "\n".join(
        ["command -v ping >/dev/null || return 127", f"sw_mtu {quote(peers[0].address)}", *lines, "wait", *ends]
    )


def _udp(spec: StackSpec, node: Node) -> str:
    port = wants.OVERLAY_PORT[spec.rke2.cni]
    lines = [f"sw_udp {quote(one.name)} {quote(one.address)} {port} &" for one in wants.pinged(spec, node)]
    ends = [f"sw_udped {quote(one.name)} {port}" for one in wants.pinged(spec, node)]
    return "\n".join(['[ -n "$sw_net" ] || return 127', *lines, "wait", *ends])


# Probes run in subshells that write to files of their own, and are read without a process: on a host with hundreds of
# peers, processes are what a look costs. `sw_limit` ends those that have not ended in time.
_SETUP = """\
sw_p=$(mktemp -d) || return
trap 'rm -rf "$sw_p"' EXIT
trap 'exit 143' HUP INT TERM
sw_net=
case $( ( : </dev/tcp/127.0.0.1/1 ) 2>&1) in *refused* | '') sw_net=1 ;; esac
sw_bg() { { sw_rc=0; sw_p_$1 >"$sw_p/$1" || sw_rc=$?; echo $sw_rc >"$sw_p/$1.rc"; } & sw_pids="${sw_pids-} $!"; }
sw_wait_all() { for pid in $sw_pids; do wait "$pid"; done; }
sw_got() {
printf '\\036%s\\n' "$1"; cat "$sw_p/$1"
sw_v=; read -r sw_v <"$sw_p/$1.rc"; printf '\\036= %s\\n' "${sw_v:-143}"
}
sw_text() { sw_o=; while IFS= read -r sw_l || [ -n "$sw_l" ]; do sw_o="$sw_o$sw_l "; done <"$1"; }
sw_limit() { # SECONDS PIDS: wait for them, end what is left then
sw_s=$1; shift
( sleep "$sw_s"; kill -9 "$@" ) >/dev/null 2>&1 &
sw_w=$!
for pid; do wait "$pid"; done
kill "$sw_w"
} 2>/dev/null
sw_round() { # all ports that gave no answer yet; the second time with more patience: a busy host is no closed port
sw_k= sw_again=$1 sw_phase=start; sw_all
if [ -n "$sw_k" ]; then sw_limit "$1" $sw_k; fi
if [ "$1" != 2 ]; then sw_phase=say; sw_all; fi
}
sw_ask() {
sw_n=$1 sw_a=$2; shift 2
for p; do
f="$sw_p/tcp.$sw_n.$p"
if [ $sw_phase = start ]; then
if [ -s "$f" ]; then continue; fi
( : <"/dev/tcp/$sw_a/$p" && echo open >&2 ) 2>"$f" &
sw_k="$sw_k $!"
else sw_text "$f"; sw_say "$p"; fi
done
}
sw_say() {
case $sw_o in
open*) sw_c=open ;;
*refused*) sw_c=refused ;;
*"not known"* | *"name resolution"*) sw_c=unresolved ;;
*unreachable* | *"No route"*) sw_c=unreachable ;;
*) sw_c=timeout ;;
esac
echo "$sw_n $1 $sw_c"
}
sw_curl() { # all ports of a peer in one process; what gave no answer is asked once more
sw_n=$1 sw_a=$2; shift 2
sw_try 3 "$@" >"$sw_p/tcp.$sw_n"
sw_m=; for p; do grep -q "^$sw_n $p " "$sw_p/tcp.$sw_n" || sw_m="$sw_m $p"; done
if [ -n "$sw_m" ]; then sw_try 5 $sw_m >>"$sw_p/tcp.$sw_n"; fi
cat "$sw_p/tcp.$sw_n"
}
sw_try() {
sw_t=$1 sw_u=; shift
for p; do sw_u="$sw_u https://$sw_a:$p"; done
timeout 20 curl -sSvk --connect-timeout "$sw_t" --max-time "$sw_t" $sw_u </dev/null 2>&1 | while read -r line; do
case $line in
*"connect to "*" port "*refused*) sw_c=refused ;;
*"connect to "*" port "*unreachable* | *"connect to "*" port "*"No route"*) sw_c=unreachable ;;
*"Connected to "*" port "*) sw_c=open ;;
*"not resolve host"*) for p; do echo "$sw_n $p unresolved"; done; break ;;
*) continue ;;
esac
line=${line#* port }; echo "$sw_n ${line%%[!0-9]*} $sw_c"
done
}
sw_udp() { { exec 3<>"/dev/udp/$2/$3"; echo x >&3; sleep 1; echo x >&3; } 2>"$sw_p/udp.$1"; }
sw_udped() {
sw_text "$sw_p/udp.$1"
case $sw_o in *refused*) sw_o=refused ;; *unreachable* | *"No route"*) sw_o=unreachable ;; *) sw_o=silent ;; esac
echo "$1 $2 $sw_o"
}
sw_mtu() { # of the link towards an address
sw_m=
sw_l=$(ip -o route get "$1"); sw_l=${sw_l#*dev }; sw_l=${sw_l%% *}
for word in $(ip -o link show dev "$sw_l"); do
[ "$sw_m" = next ] && { sw_m=$word; break; }
[ "$word" = mtu ] && sw_m=next
done
case $sw_m in '' | *[!0-9]*) sw_m=0 ;; esac
[ "$sw_m" -gt 9216 ] && sw_m=1500
sw_s=$((sw_m > 100 ? sw_m - 28 : 56))
}
sw_ping() {
timeout 12 ping -n -q -c 5 -i 0.2 -W 1 -M do -s "$sw_s" "$2" >"$sw_p/big.$1" 2>&1 &
timeout 12 ping -n -q -c 5 -i 0.2 -W 1 -s 56 "$2" >"$sw_p/small.$1" 2>&1 &
}
sw_pinged() {
sw_text "$sw_p/big.$1"; sw_b=$sw_o
sw_text "$sw_p/small.$1"
echo "$1 $sw_m $sw_b |small| $sw_o"
}
"""
_DNS = """\
sw_k= sw_i=0
for n in {names}; do
sw_i=$((sw_i + 1))
( getent ahosts "$n" >"$sw_p/dns.$sw_i"; echo $? >"$sw_p/dns.$sw_i.rc" ) &
sw_k="$sw_k $!"
done
sw_limit 6 $sw_k
sw_i=0
for n in {names}; do
sw_i=$((sw_i + 1)) sw_c=124 sw_o=
[ ! -e "$sw_p/dns.$sw_i.rc" ] || read -r sw_c <"$sw_p/dns.$sw_i.rc"
while read -r a b c; do case $b in STREAM) sw_o="$sw_o $a" ;; esac; done <"$sw_p/dns.$sw_i"
echo "$n $sw_c$sw_o"
done
:
"""
_MODULES = """\
for m in {names}; do
[ -d "/sys/module/$m" ] || modinfo -n "$m" >/dev/null || echo "$m"
done
"""
_PATHS = """\
set --
for p in {paths}; do
q=$p; while [ ! -e "$q" ]; do q=${{q%/*}}; q=${{q:-/}}; done
set -- "$@" "$q"
done
"""
_DISKS = f"""{_PATHS}\
df {{option}} "$@" | {{{{
read -r head
for p in {{paths}}; do read -r s t u a rest; echo "$p $s $t $a"; done
}}}}
"""
_FILE_SYSTEMS = f"""{_PATHS}\
stat -f -c %T "$@" | for p in {{paths}}; do read -r kind; echo "$p $kind"; done
"""
_ZYPPER = """\
p=; if [ -e /run/zypp.pid ]; then read -r p </run/zypp.pid; fi
case $p in '' | *[!0-9]*) ;; *) if [ -d "/proc/$p" ]; then echo "$p"; fi ;; esac
:
"""
_LEFTOVERS = """\
for p in {paths}; do
if [ -d "$p" ]; then for f in "$p"/*; do if [ -e "$f" ]; then echo "$p"; break; fi; done; fi
done
:
"""
# Not read by the shell line by line: it would ask the kernel for the whole table anew at each line.
_LISTENING = """\
cat /proc/net/tcp /proc/net/tcp6 | grep -E '^ *[0-9]+: [0-9A-F]+:[0-9A-F]+ [0-9A-F]+:0000 0A ' |
while read -r _ local rest; do echo "$local"; done
:
"""
# dd's own seconds leave out the start of the process and the opening of the file.
_FSYNC = """\
d=/var/lib/rancher; while [ ! -d "$d" ]; do d=${{d%/*}}; d=${{d:-/}}; done
f=$d/.stackwright-fsync.$$
trap 'rm -f "$f"' EXIT
trap 'exit 143' HUP INT TERM
rm -f "$d"/.stackwright-fsync.*
( set -C; umask 077; : >"$f" ) || exit
dd if=/dev/zero of="$f" bs=1M count=1 conv=fsync 2>/dev/null || exit
i=0
while [ $i -lt {count} ]; do
dd if=/dev/zero of="$f" bs={size} count=1 seek=$i oflag=dsync conv=notrunc 2>&1 | tail -n 1
i=$((i + 1))
done
"""
