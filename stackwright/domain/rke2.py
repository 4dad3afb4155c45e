"""RKE2 on the nodes: what must be installed, written, started or restarted, and what forbids it. Pure. Guide: 5.2.

Files are rendered in rke2_files.py, facts parsed in rke2_facts.py, journal lines understood in rke2_journal.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from stackwright.domain.cluster import NodeStatus
from stackwright.domain.effects import Reach, predict, reach_of_word
from stackwright.domain.errors import Problem
from stackwright.domain.etcd import UNSEEN
from stackwright.domain.node_facts import NodeFacts
from stackwright.domain.plan import Effect, Step, digest_of
from stackwright.domain.quorum import Member
from stackwright.domain.rke2_facts import (
    JOIN,
    REGISTRIES,
    STAGE,
    STAGED,
    STARTED,
    SURPRISE,
    TOKEN,
    ClusterFacts,
    config_files,
)
from stackwright.domain.rke2_files import (
    FIXED_KEYS,
    REGISTRATION_KEYS,
    FileWant,
    changed_keys,
    config,
    wanted_files,
)
from stackwright.domain.rke2_labels import check_labels, label_change
from stackwright.domain.shell import put_file, put_secret, quote
from stackwright.domain.spec import Node, StackSpec

IMAGES_DIR = "/var/lib/rancher/rke2/agent/images"
TARBALL = "rke2.linux-{arch}.tar.gz"
IMAGES = "rke2-images.linux-{arch}.tar.zst"
CHECKSUMS = "sha256sum-{arch}.txt"
UPGRADE_FLOW = "upgrade-cluster"


@dataclass(frozen=True)
class Rke2Change:
    """A step on one node.

    `files` are secret files by the shell variable that brings their content; `uploads` maps files of the controller to
    places on the node, sent before the script. `api` marks a step that is done through the cluster, not by the script.
    `reach` is how far a start or restart is predicted to reach.
    """

    step: Step
    script: str
    files: Mapping[str, FileWant] = field(default_factory=dict)
    uploads: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 120.0
    api: bool = False
    reach: Reach = Reach.NOTHING

    @property
    def what(self) -> str:
        """The step's kind: install, config, start, restart, note, labels or access."""
        return self.step.id.rpartition("/")[2]


def role_of(node: Node) -> str:
    """Return `server` or `agent`."""
    return "server" if node.is_server else "agent"


def members(spec: StackSpec, facts: Mapping[str, NodeFacts]) -> tuple[str, ...]:
    """Return the servers that hold a cluster's data, in the site file's order. Needs the facts of every server."""
    return tuple(node.name for node in spec.servers if facts[node.name].rke2.has_data)


def first_server(spec: StackSpec, found: tuple[str, ...]) -> str:
    """Return the server that makes the cluster, or made it: a member if there is one, else the site file's first."""
    return found[0] if found else spec.servers[0].name


def plan_rke2(spec: StackSpec, node: Node, facts: NodeFacts, cluster: ClusterFacts) -> tuple[Rke2Change, ...]:
    """Return what must be done for RKE2 on a node, in order; empty when it is as the spec wants it.

    A version that differs on a member is no step: `check_cluster` refuses it, because upgrades are another flow.
    """
    first = first_server(spec, cluster.members)
    joins = not _makes_cluster(node, first, cluster)
    plan = _Planner(spec, node, facts, cluster, joins)
    # Labels first: which ones were ours is known from config.yaml, until that is written.
    changes = [*plan.labels(), *plan.install(), *plan.config(), *plan.start(), *plan.restart()]
    if node.name == first and not cluster.has_access:
        changes.append(plan.access())
    return tuple(changes)


def _makes_cluster(node: Node, first: str, cluster: ClusterFacts) -> bool:
    """Tell whether a server is the one that makes the cluster, or made it alone. Never while another one answers: its
    servers may all be nodes that leave."""
    alone = node.name == first and not (set(cluster.members) - {node.name})
    return alone and (node.name in cluster.members or not cluster.reachable)


class _Planner:
    """Everything known of one node's RKE2 at hand."""

    def __init__(self, spec: StackSpec, node: Node, facts: NodeFacts, cluster: ClusterFacts, joins: bool) -> None:
        self.spec, self.node, self.facts, self.cluster = spec, node, facts, cluster
        self.role = role_of(node)
        self.unit = facts.unit(f"rke2-{self.role}")
        self.wants = wanted_files(spec, node, cluster.local_files, joins=joins)
        self.runs = self.unit.active == "active"

    def step(self, what: str, summary: str, effect: Effect, verify: str, want: object) -> Step:
        step_id = f"rke2/{self.node.name}/{what}"
        return Step(step_id, self.node.name, summary, effect, "5.2", verify, digest_of(repr(want)))

    def install(self) -> Iterator[Rke2Change]:
        want = self.spec.rke2
        is_member = self.facts.rke2.has_data or self.facts.rke2_runs
        if self.facts.rke2.version == want.version or is_member:
            return
        script, uploads = install_script(self.spec, self.node, self.facts.arch, self.cluster)
        source = want.artifacts.url or want.artifacts.folder or ""
        step = self.step(
            "install", f"install RKE2 {want.version} ({self.role}) from {source}", Effect.FILE,
            "rke2 --version says so", (want.version, want.artifacts, self.role),
        )  # fmt: skip
        yield Rke2Change(step, script, uploads=uploads, timeout_s=1800)

    def drifted(self) -> list[FileWant]:
        """Return the wanted files that the node does not have, or has otherwise."""
        seen, found = self.facts.rke2.files, []
        for want in self.wants:
            if want.path == JOIN and self.facts.rke2.has_data:
                continue  # RKE2 ignores it once there is etcd data
            have, mode = seen.get(want.path, ("", ""))
            if want.is_secret:
                same = (self.node.name, want.path) in self.cluster.secret_files
            else:
                same = have == hashlib.sha256(want.text.encode()).hexdigest()
            if not same or mode != f"{want.mode:o}":
                found.append(want)
        return found

    def strangers(self) -> list[str]:
        """Return files of ours that are no longer wanted."""
        wanted = {want.path for want in self.wants} | {JOIN}
        return [path for path in self.facts.rke2.files if path not in wanted]

    def config(self) -> Iterator[Rke2Change]:
        drifted, strangers = self.drifted(), self.strangers()
        if not drifted and not strangers:
            return
        files = {f"file_{index}": want for index, want in enumerate(drifted) if want.is_secret}
        names = {want.path: variable for variable, want in files.items()}
        folders = " ".join(sorted({str(PurePosixPath(want.path).parent) for want in self.wants}))
        script = f"mkdir -p {folders}\n"
        if self.runs or self.pods_run:  # noted before the files change: a run that dies in between owes a restart
            script += put_file(STARTED, f"pending {self.restart_reach().word}\n", 0o600)
        for want in drifted:
            is_secret = want.path in names
            script += (
                put_secret(want.path, names[want.path], want.mode)
                if is_secret
                else put_file(want.path, want.text, want.mode)
            )
        script += "".join(f"rm -f {quote(path)}\n" for path in strangers)
        if self.unit.active == "activating":  # it starts over by itself, and then reads the new files
            script += note_started(self.role)
        step = self.step(
            "config", f"write {', '.join([want.path for want in drifted] + strangers)}", Effect.FILE,
            "the files have the content and mode", self._config_digest(),
        )  # fmt: skip
        yield Rke2Change(step, script, files)

    def _config_digest(self) -> list[str]:
        # Where the cluster stands decides on these two files, not the site file: they are no part of what is approved.
        return [want.digest for want in self.wants if want.path not in (JOIN, TOKEN)] + [self.spec.rke2.token_block]

    @property
    def pods_run(self) -> bool:
        """True when the unit is down and the server's pods run on without it: then a start is like a restart."""
        return (
            self.node.is_server
            and self.facts.rke2.etcd is not None
            and self.unit.active not in ("active", "activating")
        )

    @property
    def owes_restart(self) -> bool:
        """True when the process was started with other files than lie there now."""
        return self.facts.rke2.started_sum is not None and self.facts.rke2.started_sum != self.facts.rke2.config_sum

    def restart_reach(self) -> Reach:
        """Return how far a restart reaches that brings in the present differences. Unknown counts as the worst."""
        seen = self.facts.rke2
        noted = seen.started_sum or ""
        files = [want.path for want in self.drifted()] + self.strangers()
        changed = changed_keys(seen.config, config(self.spec, self.node))
        if noted.startswith("pending "):
            reach = reach_of_word(noted.removeprefix("pending "))
        elif changed and changed <= set(REGISTRATION_KEYS) and len(files) == 1:
            reach = Reach.NOTHING
        elif self.owes_restart and not files:  # somebody changed files by hand: nobody knows which
            reach = Reach.ETCD
        else:
            reach = self._predicted(files)
        return reach if self.node.is_server else min(reach, Reach.SUPERVISOR)

    def _predicted(self, files: list[str]) -> Reach:
        seen, status = self.facts.rke2, self.cluster.nodes.get(self.node.name)
        if seen.surprise.partition(" ")[0] == seen.version and seen.surprise:
            return Reach.ETCD
        running = status.version if status is not None and status.version else seen.version
        days = seen.etcd.certificate_days if seen.etcd is not None else None
        want = config(self.spec, self.node)
        return predict(seen.config, want, files, versions=(running, seen.version), certificate_days=days)

    def start(self) -> Iterator[Rke2Change]:
        status = self.cluster.nodes.get(self.node.name)
        if (
            self.runs
            and self.unit.enabled == "enabled"
            and (self.cluster.reachable is None or _is_up(self.node, status))
        ):
            return
        script = (
            f"systemctl enable {self._unit}\n"
            f"case $(systemctl is-active {self._unit}) in active | activating) ;; *)\n"
            f"{note_started(self.role)}systemctl --no-block start {self._unit} ;;\nesac\n"
        )
        does = "start" if not self.runs else "wait for"
        reach = max(self.restart_reach(), Reach.SUPERVISOR) if self.pods_run else Reach.SUPERVISOR
        step = self.step(
            "start", f"{does} {self._unit}", reach.effect,
            "the node is Ready" + (" and its etcd member votes" if self.node.is_server else ""), self.role,
        )  # fmt: skip
        yield Rke2Change(step, script, reach=reach)

    def restart(self) -> Iterator[Rke2Change]:
        if not self.runs or not (self.owes_restart or self.drifted() or self.strangers()):
            return
        reach = self.restart_reach()
        if reach is Reach.NOTHING:
            step = self.step("note", "note that no restart is needed", Effect.FILE, "the marker says so", reach.word)
            yield Rke2Change(step, note_started(self.role))
            return
        touches = f" (touches {reach.label})" if self.node.is_server else ""
        step = self.step(
            "restart", f"restart {self._unit} to read its configuration{touches}", reach.effect,
            "the node is Ready again" + (" and its etcd member votes" if self.node.is_server else ""), reach.word,
        )  # fmt: skip
        script = f"systemctl --no-block restart {self._unit}\n{note_started(self.role)}"
        yield Rke2Change(step, script, reach=reach)

    def labels(self) -> Iterator[Rke2Change]:
        status = self.cluster.nodes.get(self.node.name)
        change = label_change(self.node, self.facts.rke2.config, status) if status is not None else None
        if not change:
            return
        step = self.step(
            "labels", change.summary, Effect.DRAIN if change.evicts else Effect.FILE, "the Node object has them",
            (sorted(self.node.labels.items()), [str(taint) for taint in self.node.taints],
             change.dropped_labels, change.dropped_taints),
        )  # fmt: skip
        yield Rke2Change(step, "", api=True)

    def access(self) -> Rke2Change:
        """Return the step that keeps the cluster's access in the site's blocks."""
        blocks = f"blocks {self.spec.rke2.kubeconfig_block} and {self.spec.rke2.token_block}"
        step = self.step(
            "access", f"keep kubeconfig and token in {blocks}", Effect.NONE, "the API answers to it", blocks
        )
        return Rke2Change(step, "", api=True)

    @property
    def _unit(self) -> str:
        return f"rke2-{self.role}.service"


def note_started(role: str) -> str:
    """Return the lines that note which configuration the process is started with."""
    files = " ".join(config_files(role))
    return (
        f'set --\nfor f in {files}; do if [ -e "$f" ]; then set -- "$@" "$f"; fi; done\n'
        's=$(sha256sum "$@")\ns=$(printf \'%s\\n\' "$s" | sha256sum)\n'
        f"printf '%s\\n' \"${{s%% *}}\" >{STARTED}.new\nmv -f {STARTED}.new {STARTED}\n"
    )


def note_surprise(node: Node, version: str, seen: Reach) -> Rke2Change:
    """Return the step that notes on a server that a restart has touched more than was predicted."""
    summary = f"note that a restart touched {seen.label}"
    step_id = f"rke2/{node.name}/surprise"
    step = Step(step_id, node.name, summary, Effect.FILE, "5.2", "the marker says so", digest_of(version, seen.word))
    return Rke2Change(step, put_file(SURPRISE, f"{version} {seen.word}\n", 0o600))


def install_script(spec: StackSpec, node: Node, arch: str, cluster: ClusterFacts) -> tuple[str, dict[str, str]]:
    """Return the installing script and the controller's files that must be on the node first: staging, then running."""
    gather, uploads = stage_script(spec, arch, cluster)
    return gather + run_installer(node, arch), uploads


def stage_script(spec: StackSpec, arch: str, cluster: ClusterFacts) -> tuple[str, dict[str, str]]:
    """Return the script that brings a release's files to the node's stage, and the controller's files to send first.

    Everything is checked against the release's own sums; the stage is marked as whole only then. Nothing that runs is
    touched.
    """
    want = spec.rke2.artifacts
    short = _short(arch)
    tarball, sums, images = (text.format(arch=short) for text in (TARBALL, CHECKSUMS, IMAGES))
    names = [tarball, sums, *([images] if want.images else [])]
    uploads: dict[str, str] = {}
    if want.source == "folder" and want.on_nodes:
        gather = f"rm -rf {STAGE}\nmkdir -p {STAGE}\ncp -f {quote(want.folder or '')}/* {STAGE}/\n"
    elif want.source == "folder":
        listed = cluster.artifacts or ("install.sh", *names)
        uploads = {f"{want.folder}/{name}": f"{STAGE}/{name}" for name in listed}
        gather = ""
    else:
        ca = f"--cacert {STAGE}/ca.pem " if want.ca_file else ""
        base, version = (want.url or "").rstrip("/"), spec.rke2.version.replace("+", "%2B")
        gather = f"rm -rf {STAGE}\nmkdir -p {STAGE}\n"
        gather += put_file(f"{STAGE}/ca.pem", cluster.local_files[want.ca_file]) if want.ca_file else ""
        fetch = f"curl --silent --show-error --fail --location --retry 3 --max-time 1500 {ca}--output"
        gather += f"{fetch} {STAGE}/install.sh {quote(f'{base}/install.sh')}\n"
        gather += "".join(f"{fetch} {STAGE}/{name} {quote(f'{base}/{version}/{name}')}\n" for name in names)
    return gather + _VERIFY.format(
        stage=STAGE, sums=sums, arch=short, marker=STAGED, version=spec.rke2.version
    ), uploads


def run_installer(node: Node, arch: str) -> str:
    """Return the script that hands the staged files to the vendor's installer, always as a tarball.

    SLES 16 would take RPMs, and the two cannot be mixed on a host. Where it goes is for that script to decide:
    /opt/rke2 where /usr/local is a mount point or read-only. A process that runs goes on with its old program.
    """
    return _INSTALL.format(stage=STAGE, images_dir=IMAGES_DIR, role=role_of(node), arch=_short(arch))


def _short(arch: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(arch, arch)


_VERIFY = """\
cd {stage}
for f in rke2.linux-{arch}.tar.gz rke2-images*.linux-{arch}.*; do
[ -e "$f" ] || continue
s=$(sha256sum "$f")
grep -q "^${{s%% *}}  *[*]*$f$" {sums} || {{ echo "$f does not have the checksum of {sums}"; exit 1; }}
done
printf '%s\\n' {version} >{marker}
"""
_INSTALL = """\
cd {stage}
export TMPDIR=/var/tmp INSTALL_RKE2_METHOD=tar INSTALL_RKE2_TYPE={role} INSTALL_RKE2_ARTIFACT_PATH={stage}
sh ./install.sh
for f in rke2-images-*.linux-{arch}.*; do
[ -e "$f" ] || continue
mkdir -p {images_dir}
mv -f "$f" {images_dir}/
done
cd /
rm -rf {stage}
"""


def _is_up(node: Node, status: NodeStatus | None) -> bool:
    """Tell whether the cluster holds the node for joined: Ready and, for a server, voting."""
    return status is not None and status.ready and (status.etcd_voter or not node.is_server)


def etcd_members(
    spec: StackSpec, cluster: ClusterFacts, facts: Mapping[str, NodeFacts] | None = None
) -> tuple[Member, ...]:
    """Return the etcd members that the cluster knows, as the quorum guard wants them."""
    found = []
    for name, status in sorted(cluster.nodes.items()):
        if "etcd" not in status.roles and "control-plane" not in status.roles:
            continue
        seen = facts[name].rke2 if facts and name in facts else None
        found.append(
            Member(
                name,
                voter=status.etcd_voter,
                ready=status.ready,
                etcd=seen.etcd if seen else UNSEEN,
                has_data=seen.has_data if seen else True,
            )
        )
    return tuple(found)


# --- what forbids a plan ---------------------------------------------------------------------------------------------


def check_cluster(
    spec: StackSpec, facts: Mapping[str, NodeFacts], cluster: ClusterFacts, *, upgrading: bool = False
) -> list[Problem]:
    """Return what forbids to go on: other versions, another cluster, keys that cannot change, a strange token.

    `upgrading` leaves the versions to the upgrade's own rules.
    """
    problems: list[Problem] = []
    for node in spec.nodes:
        if node.name in facts:
            seen = facts[node.name]
            problems += [] if upgrading else _version(spec, node, seen, cluster)
            problems += _fixed(spec, node, seen)
            known = bool(cluster.reachable) or not (seen.rke2_runs or seen.rke2.has_data)
            problems += check_labels(node, seen.rke2.config, known=known)
    problems += [*_one_cluster(facts), *_token(spec, facts, cluster)]
    return problems


def _version(spec: StackSpec, node: Node, facts: NodeFacts, cluster: ClusterFacts) -> Iterator[Problem]:
    want = spec.rke2.version
    remedy = f"Write the running version into rke2.version, or run the flow {UPGRADE_FLOW}."
    is_member = facts.rke2.has_data or facts.rke2_runs
    if is_member and facts.rke2.version and facts.rke2.version != want:
        what = "the installed RKE2 is another version than the site file's"
        yield Problem(node.name, what, remedy, want, facts.rke2.version)
    status = cluster.nodes.get(node.name)
    if status is not None and status.version and status.version != want and facts.rke2.version == want:
        what = "the running RKE2 is another version than the installed one: an upgrade was interrupted"
        yield Problem(node.name, what, f"Run the flow {UPGRADE_FLOW}: it continues there.", want, status.version)


def _fixed(spec: StackSpec, node: Node, facts: NodeFacts) -> Iterator[Problem]:
    if not facts.rke2.has_data:
        return
    want = config(spec, node)
    for key in FIXED_KEYS:
        seen = facts.rke2.config.get(key)
        if seen is not None and seen != want.get(key):
            remedy = "Write the present value into the site file: a running cluster cannot change it."
            yield Problem(node.name, f"`{key}` cannot be changed", remedy, str(want.get(key)), str(seen))


def _one_cluster(facts: Mapping[str, NodeFacts]) -> Iterator[Problem]:
    hashes: dict[str, str] = {}
    for name, seen in facts.items():
        found = seen.rke2.token_ca_hash or seen.rke2.ca_hash
        if found:
            first = hashes.setdefault("ca", found)
            if first != found:
                remedy = "Find out which is yours; remove the other with rke2-uninstall.sh. Nothing is wiped for you."
                yield Problem(
                    name, "the servers belong to two clusters", remedy, f"CA {first[:12]}", f"CA {found[:12]}"
                )


def _token(spec: StackSpec, facts: Mapping[str, NodeFacts], cluster: ClusterFacts) -> Iterator[Problem]:
    if not cluster.token_hash:
        return
    for node in spec.servers:
        seen = facts[node.name].rke2.token_hash if node.name in facts else ""
        if seen and seen != cluster.token_hash:
            remedy = f"Put the content of {node.name}:/var/lib/rancher/rke2/server/token into the block."
            what = f"the token of block {spec.rke2.token_block} is not the cluster's"
            yield Problem(node.name, what, remedy, "the same token", "another one")


def expected_hashes(files: tuple[FileWant, ...], renders: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """Return, for each secret file, the SHA-256 sums that count as current. `renders` maps its path to its texts."""
    return {
        want.path: frozenset(hashlib.sha256(text.encode()).hexdigest() for text in renders.get(want.path, ()))
        for want in files
        if want.is_secret
    }


SECRET_PATHS = (TOKEN, REGISTRIES)
