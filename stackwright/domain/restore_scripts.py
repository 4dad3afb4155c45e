"""The scripts of a restore: what is sent to a node for each of its steps. POSIX sh and coreutils; pure.

Each notes on the node how far it is before it lets anything run on, and looks at that note before it acts.
"""

from __future__ import annotations

from collections.abc import Sequence

from stackwright.domain.bundle import SNAPSHOT, Manifest
from stackwright.domain.restore import Mark, Phase
from stackwright.domain.rke2 import note_started, role_of
from stackwright.domain.rke2_facts import DATA, JOIN
from stackwright.domain.rke2_files import FileWant, bracketed
from stackwright.domain.shell import (
    STATE,
    put_file,
    put_secret,
    quote,
    read_script,
    settled_section,
    shell_section,
    value_section,
)
from stackwright.domain.spec import Node

MARK = f"{STATE}/restore"
"""Marker on each node: bundle, number and phase of the restore that is under way."""
PLACE = f"{DATA}/stackwright-restore"
"""Where the snapshot lies while it is restored: on the disk that has room for etcd's data."""
LOG = f"{STATE}/restore.log"
"""What the cluster reset has said."""
SAID = "Managed etcd cluster membership has been reset"
"""RKE2 says so, and ends with exit code 0, when a reset has worked. Neither alone is enough."""
FENCE_TIMEOUT_S = 600.0
RESET_TIMEOUT_S = 1800


def snapshot_path(manifest: Manifest) -> str:
    """Return where a bundle's snapshot lies on the first server."""
    return f"{PLACE}/{manifest.id}"


def look_script(addresses: Sequence[str]) -> str:
    """Return the script that reads a node's marker and asks, on the way, which of these addresses answer as RKE2."""
    asks = "".join(
        f"{{ c=$({_PING} {quote(f'https://{bracketed(one)}:9345/ping')}) || c=\n"
        f'if [ "$c" = pong ]; then echo {quote(one)}; fi; }} &\n'
        for one in addresses
    )
    return read_script(settled_section() + value_section("mark", MARK) + shell_section("answering", f"{asks}wait"))


def note(mark: Mark, phase: Phase) -> str:
    """Return the line that notes a phase."""
    return put_file(MARK, f"{mark.bundle} {mark.run} {phase}\n", 0o600)


def fence_script(mark: Mark, node: Node) -> str:
    """Return the script that ends RKE2 on a server for as long as the restore lasts.

    Disabled first: a host that boots in between must not start with its data gone, which would make a new cluster.
    """
    return _FENCE.format(data=DATA, role=role_of(node), run=mark.run) + note(mark, "fenced")


def place_script(mark: Mark, files: Sequence[FileWant], manifest: Manifest) -> str:
    """Return the script that writes the first server's configuration: it joins nobody, or the reset refuses."""
    return _sum_check(manifest) + f"rm -f {JOIN}\n" + write_files(files) + note(mark, "placed")


def reset_script(mark: Mark, manifest: Manifest) -> str:
    """Return the script that resets the cluster from the snapshot, once. What a dead try has left is moved away."""
    placed = f"{mark.bundle} {mark.run} placed"
    text = _RESET.format(
        data=DATA, mark=MARK, placed=placed, log=LOG, said=SAID, file=snapshot_path(manifest), limit=RESET_TIMEOUT_S
    )
    return _sum_check(manifest) + text + note(mark, "reset")


def start_script(mark: Mark, node: Node) -> str:
    """Return the script that starts the restored server. Noted first: from then on no reset is let in."""
    return note(mark, "started") + _start(node, "start")


def rejoin_script(mark: Mark, node: Node, files: Sequence[FileWant], *, begun: bool) -> str:
    """Return the script that starts a node against the restored cluster; `begun`: a run before has done so.

    A server's start is noted first: what has joined is never taken for an empty one. An agent's restart is noted
    afterwards: it may run still from before the restore, and done once more it does no harm.
    """
    if begun:
        return _start(node, "start")
    if node.is_server:
        return write_files(files) + note(mark, "started") + _start(node, "start")
    return write_files(files) + _start(node, "restart") + note(mark, "started")


def back_script(mark: Mark) -> str:
    """Return the script that notes that a node is back."""
    return note(mark, "back")


def close_script() -> str:
    """Return the script that ends the restore on the first server."""
    return f"rm -rf {PLACE}\nmv -f {MARK} {MARK}-done\n"


def write_files(files: Sequence[FileWant]) -> str:
    """Return the lines that write files; those with secrets come in the variables that `variables` names."""
    folders = " ".join(sorted({quote(want.path.rpartition("/")[0]) for want in files}))
    names = {path: name for name, path in variables(files).items()}
    lines = f"mkdir -p {folders}\n"
    for want in files:
        secret = names.get(want.path)
        lines += put_secret(want.path, secret, want.mode) if secret else put_file(want.path, want.text, want.mode)
    return lines


def variables(files: Sequence[FileWant]) -> dict[str, str]:
    """Return the shell variables that bring the content of files with secrets, with the path of each."""
    return {f"file_{index}": want.path for index, want in enumerate(files) if want.is_secret}


def _start(node: Node, verb: str) -> str:
    unit = f"rke2-{role_of(node)}.service"
    act = f"{note_started(role_of(node))}systemctl --no-block {verb} {unit}\n"
    if verb == "start":
        act = f"case $(systemctl is-active {unit}) in active | activating) ;; *)\n{act};;\nesac\n"
    return f"systemctl enable {unit}\n{act}"


def _sum_check(manifest: Manifest) -> str:
    path, wanted = snapshot_path(manifest), manifest.files[SNAPSHOT].plain_sha256
    return (
        f's=$(sha256sum <{path})\nif [ "${{s%% *}}" != {wanted} ]; then\n'
        f"echo '{path} is not the snapshot of the bundle'; exit 1\nfi\n"
    )


_PING = "curl --silent --insecure --noproxy '*' --max-time 3"
_FENCE = """\
for u in rke2-server rke2-agent; do
if systemctl cat "$u.service" >/dev/null 2>&1; then systemctl disable "$u.service"; fi
done
k=
for p in /usr/local /opt/rke2 /usr; do
if [ -z "$k" ] && [ -x "$p/bin/rke2-killall.sh" ]; then k=$p/bin/rke2-killall.sh; fi
done
if [ -n "$k" ]; then "$k"; fi
if curl --silent --insecure --noproxy '*' --max-time 5 https://127.0.0.1:2379/health; then r=0; else r=$?; fi
if [ "$r" -ne 7 ]; then echo "something still listens at etcd's port 2379 (curl ends with $r)"; exit 1; fi
if [ -d {data}/server/db ]; then
if [ -e {data}/server/db-before-restore-{run} ]; then
echo "{data}/server/db-before-restore-{run} exists beside {data}/server/db: look at both, then remove one"; exit 1
fi
mv -T {data}/server/db {data}/server/db-before-restore-{run}
fi
"""
_RESET = """\
if [ "$(cat {mark})" != '{placed}' ]; then echo "the marker says: $(cat {mark}); nothing is reset"; exit 1; fi
case $(systemctl is-active rke2-server) in
active | activating) echo 'rke2-server runs; nothing is reset'; exit 1 ;;
esac
rm -rf {data}/server/db-of-dead-reset
if [ -e {data}/server/db ]; then mv -T {data}/server/db {data}/server/db-of-dead-reset; fi
b=
for p in /usr/local /opt/rke2 /usr; do
if [ -z "$b" ] && [ -x "$p/bin/rke2" ]; then b=$p/bin/rke2; fi
done
( umask 077; : >{log} )
if timeout -k 60 {limit} "$b" server --cluster-reset --cluster-reset-restore-path={file} --etcd-s3=false >{log} 2>&1
then r=0; else r=$?; fi
tail -n 30 {log}
if [ "$r" -ne 0 ]; then echo "rke2 server --cluster-reset ended with $r"; exit 1; fi
grep -qF '{said}' {log} || {{ echo 'rke2 ended well but did not say that it has reset the cluster'; exit 1; }}
rm -rf {data}/server/db-of-dead-reset
"""
