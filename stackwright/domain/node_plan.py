"""Which changes a node needs, with their scripts: pure, from spec and facts. Guide: 5.1, 5.2.

What is wanted is in node_wants.py, what forbids any change in node_checks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from stackwright.domain import node_wants as wants
from stackwright.domain.kinds import Kind
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect, Step, digest_of
from stackwright.domain.shell import put_file, quote
from stackwright.domain.spec import Node, StackSpec


@dataclass(frozen=True)
class SecretRef:
    """Where a secret lives; it is opened only when the script is sent."""

    kind: Kind
    block: str
    key: str


@dataclass(frozen=True)
class NodeChange:
    """A step, the shell text that carries it out, and the secrets that it needs by shell variable.

    `alone`: the step goes as a script of its own (it takes long, or cuts the connection).
    """

    step: Step
    script: str
    secrets: Mapping[str, SecretRef] = field(default_factory=dict)
    timeout_s: float = 60.0
    alone: bool = False


def plan_node(spec: StackSpec, node: Node, facts: NodeFacts) -> tuple[NodeChange, ...]:
    """Return what must be done on a node, in order; empty when it is as the spec wants it."""
    plan = _Planner(spec, node, facts)
    return tuple(change for part in PARTS for change in part(plan))


class _Planner:
    """Spec, node and facts at hand, and a short way to say a change."""

    def __init__(self, spec: StackSpec, node: Node, facts: NodeFacts) -> None:
        self.spec, self.node, self.facts = spec, node, facts

    def change(
        self,
        what: str,
        summary: str,
        script: str,
        *,
        want: object,
        verify: str,
        effect: Effect = Effect.FILE,
        guide: str = "5.1",
        secrets: Mapping[str, SecretRef] | None = None,
        timeout_s: float = 60.0,
        alone: bool = False,
    ) -> NodeChange:
        """Return one change. Its digest covers what is wanted, not what is missing: half done, it is the same step."""
        step = Step(
            id=f"node/{self.node.name}/{what}",
            target=self.node.name,
            summary=summary,
            effect=effect,
            guide=guide,
            verify=verify,
            digest=digest_of(repr(want)),
        )
        return NodeChange(step, script, secrets or {}, timeout_s, alone)

    def text(self, path: str) -> str | None:
        """Return a watched file's text, None when it is not there."""
        return self.facts.files[path]


Changes = Iterator[NodeChange]


def _registration(plan: _Planner) -> Changes:
    """Register with SUSE, or with a server that mirrors it. The code goes over standard input only."""
    want, facts = plan.spec.registration, plan.facts
    if want.kind == "multi-linux-manager":
        yield from _multi_linux_manager(plan)
        return
    if want.kind == "none":
        return
    tool = "transactional-update --non-interactive register" if facts.transactional else "SUSEConnect"
    registered = {name for name, status in facts.products.items() if status == "Registered"}
    url = f" --url {quote(want.url)}" if want.kind == "rmt" and want.url else ""
    if not registered:
        email = f" -e {quote(want.email)}" if want.email else ""
        code = SecretRef("registration", want.code_block, "code") if want.code_block else None
        run = f"printf '%s\\n' \"$code\" | {tool} -r -{email}{url}" if code else f"{tool}{url}"
        script = _rmt_ca(plan) + run + _CONNECT_RC
        where = want.url or "SUSE Customer Center"
        yield plan.change(
            "register", f"register with {where}", script, want=(want.kind, want.url, want.email),
            verify="SUSEConnect --status says Registered", secrets={"code": code} if code else {}, timeout_s=300,
        )  # fmt: skip
    missing = [name for name in want.products if name not in registered]
    if missing:
        script = "".join(f"{tool} -p {quote(name)}{url}{_CONNECT_RC}" for name in missing)
        yield plan.change(
            "products", f"activate {', '.join(missing)}", script, want=want.products,
            verify="SUSEConnect --status lists them as Registered", timeout_s=120 + 120 * len(missing),
        )  # fmt: skip


def _rmt_ca(plan: _Planner) -> str:
    """Return the lines that bring the RMT server's CA, trusted only when it has the fingerprint of the site file."""
    want = plan.spec.registration
    if want.kind != "rmt" or not want.url or not want.ca_fingerprint or plan.text(wants.RMT_CA) is not None:
        return ""
    return _RMT_CA.format(
        url=quote(f"{want.url.rstrip('/')}/rmt.crt"),
        file=wants.RMT_CA,
        fingerprint=want.ca_fingerprint.replace(":", "").lower(),
    )


def _multi_linux_manager(plan: _Planner) -> Changes:
    want = plan.spec.registration
    if plan.facts.unit("venv-salt-minion").is_active or not want.url or not want.bootstrap_script:
        return
    url = f"{want.url.rstrip('/')}/pub/bootstrap/{want.bootstrap_script}"
    script = (
        "t=$(mktemp -d)\ntrap 'rm -rf \"$t\"' EXIT\n"
        f'curl --silent --show-error --fail --output "$t/bootstrap.sh" {quote(url)}\n'
        'bash "$t/bootstrap.sh"\n'
    )
    yield plan.change(
        "register", f"register with {want.url}", script, want=url,
        verify="venv-salt-minion is active", timeout_s=1200, alone=True,
    )  # fmt: skip


def _repositories(plan: _Planner) -> Changes:
    for repo in plan.spec.packages.repositories:
        path = wants.repository_path(repo.name)
        text = wants.repository_file(repo.name, repo.url, gpg_check=repo.gpg_check)
        if plan.text(path) != text:
            yield plan.change(
                f"repository-{path.rpartition('/')[2].removesuffix('.repo')}", f"add repository {repo.name}",
                put_file(path, text), want=text, verify=f"{path} has the content",
            )  # fmt: skip


def _packages(plan: _Planner) -> Changes:
    facts, limit = plan.facts, plan.spec.packages.lock_timeout_s
    wanted = wants.packages(plan.spec, facts.family, facts.security)
    missing = [name for name in wanted if name not in facts.packages]
    if not missing:
        return
    names = " ".join(quote(name) for name in missing)
    if facts.transactional:
        run = f"transactional-update --non-interactive --continue pkg install --auto-agree-with-licenses {names}"
        script = f"touch /run/reboot-needed\n{run}\n"
    else:
        script = _ZYPPER.format(limit=limit, names=names)
    yield plan.change(
        "packages", f"install {', '.join(missing)}", script, want=wanted,
        verify="rpm -q finds them", timeout_s=limit + 1800, alone=True,
    )  # fmt: skip
    if facts.transactional and not facts.reboot_needed:
        yield _reboot(plan, "packages take effect at the next boot of a read-only root", "reboot-packages")


def _pending_reboot(plan: _Planner) -> Changes:
    if plan.facts.reboot_needed:
        yield _reboot(plan, "an earlier step or update asks for it (/run/reboot-needed)", "reboot-packages")


def _reboot(plan: _Planner, why: str, what: str = "reboot") -> NodeChange:
    # A moment's delay lets the script answer before the link goes.
    script = "touch /run/reboot-needed\n( sleep 1; systemctl reboot ) >/dev/null 2>&1 9>&- &\n"
    return plan.change(
        what,
        f"reboot: {why}",
        script,
        want=what,
        verify="another boot id, and the node answers",
        effect=Effect.REBOOT,
        alone=True,
    )


def _hostname(plan: _Planner) -> Changes:
    if plan.facts.hostname != plan.node.name:
        yield plan.change(
            "hostname", f"set the host name to {plan.node.name} (was {plan.facts.hostname})",
            f"hostnamectl set-hostname {quote(plan.node.name)}\n", want=plan.node.name, verify="uname -n says so",
        )  # fmt: skip


def _hosts(plan: _Planner) -> Changes:
    seen = plan.text(wants.HOSTS) or ""
    text = wants.hosts_file(plan.spec, seen)
    if text != seen:
        yield plan.change(
            "hosts", f"{len(wants.static_names(plan.spec))} static name(s) in {wants.HOSTS}",
            put_file(wants.HOSTS, text), want=wants.static_names(plan.spec),
            verify=f"{wants.HOSTS} has the block",
        )  # fmt: skip


def _resolver(plan: _Planner) -> Changes:
    """Set name servers where the node's own network tool keeps them. SLES 16 and SL Micro: NetworkManager."""
    want, facts = plan.spec.dns, plan.facts
    seen = plan.text(wants.RESOLV) or ""
    if not want.servers:
        return
    if wants.nameservers(seen) == want.servers and (not want.search or wants.search_domains(seen) == want.search):
        return
    if facts.unit("NetworkManager").is_active:
        script = put_file(wants.NM_DNS_FILE, wants.network_manager_dns(plan.spec)) + "systemctl reload NetworkManager\n"
    elif plan.text(wants.NETCONFIG) is not None:
        script = put_file(wants.NETCONFIG, wants.netconfig_file(plan.spec, plan.text(wants.NETCONFIG) or ""))
        script += "netconfig update -f\n"
    else:
        script = put_file(wants.RESOLV, wants.resolv_file(plan.spec))
    yield plan.change(
        "resolver",
        f"name servers {', '.join(want.servers)}",
        script,
        want=want.servers + want.search,
        verify=f"{wants.RESOLV} names them",
    )


def _time(plan: _Planner) -> Changes:
    if not plan.spec.time.servers:
        return
    text, unit = wants.chrony_file(plan.spec), plan.facts.unit("chronyd")
    if plan.text(wants.CHRONY) == text and unit.is_active and unit.enabled == "enabled":
        return
    script = (
        put_file(wants.CHRONY, text)
        + "systemctl enable chronyd\nsystemctl restart chronyd\n"
        # Wait for a first measurement: at most 60 tries, one a second.
        + "chronyc waitsync 60 0 0 1 >/dev/null || { echo 'chrony reached no time server'; exit 1; }\n"
    )
    yield plan.change(
        "time", f"synchronise time with {', '.join(plan.spec.time.servers)}", script, want=text,
        verify="chronyc tracking: Normal, small offset", effect=Effect.SERVICE_RESTART, timeout_s=120,
    )  # fmt: skip


def _swap(plan: _Planner) -> Changes:
    """Switch swap off now and at every boot. RKE2 does not complain about swap by itself. Guide: 5.2."""
    facts, fstab = plan.facts, plan.text(wants.FSTAB) or ""
    text = wants.fstab_without_swap(fstab)
    zram = "zram-generator" in facts.packages and plan.text(wants.ZRAM_FILE) != wants.HEAD
    if not (facts.swaps or text != fstab or facts.swap_units or zram):
        return
    script = "swapoff -a\n"
    if text != fstab:
        script += put_file(wants.FSTAB, text)
    if zram:  # an empty file in /etc hides the generator's own default
        script += put_file(wants.ZRAM_FILE, wants.HEAD)
    if facts.swap_units:
        script += f"systemctl mask {' '.join(quote(unit) for unit in facts.swap_units)}\n"
    seen = ", ".join(facts.swaps) or "only after a reboot"
    yield plan.change(
        "swap", f"switch swap off now and at boot (on: {seen})", script + "systemctl daemon-reload\n",
        want="off", verify="/proc/swaps is empty, /etc/fstab names none", guide="5.2", timeout_s=300,
    )  # fmt: skip


def _modules(plan: _Planner) -> Changes:
    names, text = wants.modules(plan.spec), wants.modules_file(plan.spec)
    missing = [name for name in names if name not in plan.facts.modules]
    if missing or plan.text(wants.MODULES_FILE) != text:
        yield plan.change(
            "modules", f"load kernel modules {', '.join(missing) or '(at boot)'}",
            put_file(wants.MODULES_FILE, text) + f"modprobe -a {' '.join(names)}\n",
            want=names, verify="/sys/module has them", guide="5.2",
        )  # fmt: skip


def _sysctl(plan: _Planner) -> Changes:
    want = wants.usable_sysctls(plan.spec, plan.facts.sysctls)
    text = wants.sysctl_file(want)
    off = [key for key, value in want.items() if plan.facts.sysctls.get(key) != value]
    if off or plan.text(wants.SYSCTL_FILE) != text:
        # Only our own file is loaded: a restart of systemd-sysctl could undo what RKE2 has set.
        yield plan.change(
            "sysctl", f"set {', '.join(off) or 'kernel settings for the next boot'}",
            put_file(wants.SYSCTL_FILE, text) + f"sysctl -q -p {wants.SYSCTL_FILE}\n",
            want=want, verify="/proc/sys has the values", guide="5.2",
        )  # fmt: skip


def _cis(plan: _Planner) -> Changes:
    if plan.spec.rke2.profile == "none" or not plan.node.is_server:
        return
    if "etcd" in plan.facts.users and "etcd" in plan.facts.groups:
        return
    group = "-g etcd" if "etcd" in plan.facts.groups else "-U"
    add = f"useradd -r -c 'etcd user' -s /sbin/nologin -M {group} etcd\n"
    script = add if "etcd" not in plan.facts.users else "groupadd -r etcd\n"
    yield plan.change(
        "cis-user", "create user and group etcd", script, want="etcd", verify="/etc/passwd has them", guide="5.2"
    )


def _network_manager(plan: _Planner) -> Changes:
    """Keep NetworkManager off the CNI's interfaces. Where RKE2 already runs, only a reboot makes it let go of them."""
    facts = plan.facts
    cloud = [unit for unit in ("nm-cloud-setup.service", "nm-cloud-setup.timer")
             if facts.unit(unit).exists and not facts.unit(unit).is_off]  # fmt: skip
    text = wants.network_manager_file(plan.spec)
    missing = facts.unit("NetworkManager").exists and plan.text(wants.NM_FILE) != text
    if not (cloud or missing):
        return
    script = put_file(wants.NM_FILE, text) if missing else ""
    if cloud:
        script += f"systemctl disable --now {' '.join(cloud)}\n"
    if missing and facts.unit("NetworkManager").is_active and not facts.rke2_runs:
        script += "systemctl reload NetworkManager\n"
    yield plan.change(
        "network-manager", "keep NetworkManager off the pod network's interfaces", script,
        want=text, verify=f"{wants.NM_FILE} has the content", guide="5.2",
    )  # fmt: skip
    if missing and facts.unit("NetworkManager").is_active and facts.rke2_runs:
        yield _reboot(plan, "NetworkManager holds interfaces of the running pod network")


def _firewall(plan: _Planner) -> Changes:
    mode, unit = plan.spec.firewall.mode, plan.facts.unit("firewalld")
    if mode == "disabled" and unit.exists and not unit.is_off:
        yield plan.change(
            "firewall", "switch firewalld off: it conflicts with the pod network",
            "systemctl disable --now firewalld\n",
            want=mode, verify="firewalld is inactive and disabled", effect=Effect.SERVICE_RESTART,
        )  # fmt: skip
    if mode == "open-ports" and unit.is_active:
        missing = [port for port in wants.ports(plan.spec, plan.node) if port not in plan.facts.firewall]
        if missing:
            script = "".join(f"firewall-cmd --permanent {_firewall_word(port)}\n" for port in missing)
            yield plan.change(
                "firewall", f"let in {', '.join(missing)}", script + "firewall-cmd --reload\n",
                want=wants.ports(plan.spec, plan.node), verify="firewall-cmd lists them", effect=Effect.SERVICE_RESTART,
            )  # fmt: skip


def _firewall_word(port: str) -> str:
    if port.endswith(("/tcp", "/udp")):
        return f"--add-port={quote(port)}"
    return f"--zone=trusted --add-source={quote(port)}"


def _storage(plan: _Planner) -> Changes:
    """iscsid on, multipathd off: it would take SUSE Storage's devices. SUSE Storage documentation: requirements."""
    if not wants.needs_iscsi(plan.spec):
        return
    iscsid = plan.facts.unit("iscsid.service")
    if not iscsid.is_active or iscsid.enabled != "enabled":
        yield plan.change(
            "iscsi", "start iscsid, now and at boot", "systemctl enable --now iscsid\n",
            want="on", verify="iscsid is active and enabled", guide="5.4",
        )  # fmt: skip
    taken = [unit for unit in ("multipathd.socket", "multipathd.service")
             if plan.facts.unit(unit).exists and not plan.facts.unit(unit).is_off]  # fmt: skip
    if taken:
        yield plan.change(
            "multipath", "switch multipathd off", f"systemctl disable --now {' '.join(taken)}\n",
            want="off", verify="multipathd is inactive and disabled", effect=Effect.SERVICE_RESTART, guide="5.4",
        )  # fmt: skip


PARTS: tuple[Callable[[_Planner], Changes], ...] = (
    _registration, _repositories, _packages, _pending_reboot, _hostname, _hosts, _resolver, _time, _swap, _modules,
    _sysctl, _cis, _network_manager, _firewall, _storage,
)  # fmt: skip

# SUSEConnect says on standard output what was wrong; 64 is a server that does not answer. connect-ng: SUSEConnect(8).
_CONNECT_RC = ' || { rc=$?; echo "SUSEConnect ended with $rc"; exit $rc; }\n'
_RMT_CA = """\
t=$(mktemp)
curl --silent --show-error --fail --insecure --output "$t" {url}
f=$(openssl x509 -in "$t" -noout -fingerprint -sha256)
f=$(printf %s "${{f#*=}}" | tr -d : | tr A-F a-f)
if [ "$f" != {fingerprint} ]; then rm -f "$t"; echo "the RMT server's CA has the fingerprint $f"; exit 1; fi
chmod 0644 "$t"
mv -f "$t" {file}
update-ca-certificates
"""
# zypper: 7 is a lock held by another zypper; 100 to 103 and 106 are not failures. zypper(8), exit codes.
_ZYPPER = """\
n=0
while :; do
rc=0
zypper --non-interactive install --auto-agree-with-licenses {names} || rc=$?
[ "$rc" -eq 7 ] || break
p=; [ -e /run/zypp.pid ] && read -r p </run/zypp.pid
c=unknown; [ -n "$p" ] && [ -e "/proc/$p/comm" ] && read -r c <"/proc/$p/comm"
if [ "$n" -ge {limit} ]; then echo "zypper is locked by process ${{p:-unknown}} ($c) since $n s"; exit 7; fi
n=$((n + 5))
sleep 5
done
case $rc in
0 | 100 | 101 | 103 | 106) ;;
102) touch /run/reboot-needed ;;
*) echo "zypper ended with $rc"; exit "$rc" ;;
esac
"""
