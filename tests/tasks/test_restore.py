"""A restore's steps on hosts whose scripts run for real, with stubs for systemctl, curl and rke2: what they refuse,
and that a death between any two of them is gone on from without a second reset. The real thing: tests/rung."""

from __future__ import annotations

import base64
import hashlib
import io
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from stackwright.clients.site import Site
from stackwright.domain import shell
from stackwright.domain.bundle import SNAPSHOT, BundleError, BundleState, Manifest, NodeNote, SnapshotNote, StoredFile
from stackwright.domain.drill_compare import Restored, RestoredNode
from stackwright.domain.errors import FencedError, NodeUnreachableError, RemoteStepError, StackError
from stackwright.domain.quorum import QuorumError
from stackwright.domain.restore import Mark, reset_step
from stackwright.domain.restore_scripts import SAID, reset_script
from stackwright.domain.rke2_facts import DATA, JOIN, TOKEN, Rke2Facts
from stackwright.domain.token_archive import archive_block, parse_archive, token_hash
from tasks import restore as restoring
from tasks.restore import _send, fence_server, read_mark, rejoin_agent, rejoin_server, restore_first
from tasks.restore_end import clean_cluster, close_restore, keep_access
from tasks.restore_proof import expected
from tasks.restore_site import BundleSecrets, bundle_config, ca_hash_of, with_bundle
from tasks.scripts import replacing
from tests.domain.nodes_seen import VERSION, etcd_view, make_spec, prepared, status
from tests.fakes.shells import LocalShell
from tests.tasks.lab_site import MemorySecrets
from tests.tasks.test_nodes import Held

CONTENT = b"an etcd snapshot" * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()
FULL = f"K10{'a' * 64}::server:old-secret"
STUBS = {
    "systemctl": """\
case $1 in
is-active) cat "$D/active" 2>/dev/null || echo inactive ;;
enable | disable) echo "$1" >"$D/enabled" ;;
cat) ;;
--no-block) echo active >"$D/active"; echo "$2" >>"$D/started" ;;
esac
""",
    "curl": 'exit "$(cat "$D/curl" 2>/dev/null || echo 7)"\n',
    "timeout": 'while [ "${1#-}" != "$1" ]; do shift 2; done; shift; exec "$@"\n',
    "rke2": 'echo reset >>"$D/resets"; mkdir -p "$D/data/server/db"; cat "$D/says"; exit "$(cat "$D/code")"\n',
    "rke2-killall.sh": 'echo inactive >"$D/active"\n',
}


class StubShell(LocalShell):
    """A host in a folder: RKE2's places lie in it, and what it runs are the stubs."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, folder)
        self.dies_after = ""
        self._bin = folder / "opt/bin"
        self._bin.mkdir(parents=True)
        for program, body in STUBS.items():
            path = self._bin / program
            path.write_text(f"#!/bin/sh\nD={folder}\n{body}")
            path.chmod(0o755)
        (folder / "data/server/db/snapshots").mkdir(parents=True)
        self.says(f"level=info msg={SAID}, restart without --cluster-reset flag now.")

    def says(self, text: str, code: int = 0) -> None:
        (self.folder / "says").write_text(text + "\n")
        (self.folder / "code").write_text(str(code))

    @property
    def resets(self) -> int:
        path = self.folder / "resets"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def apply(self, batch, timeout_s=None):
        outcomes = super().apply(batch, timeout_s)
        if self.dies_after and self.dies_after in batch.commands[0].id:
            raise NodeUnreachableError("the controller dies here", where=self.name)
        return outcomes

    def put(self, local, remote, mode=0o644):
        path = Path(self._moved(remote))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(local).read_bytes())
        path.chmod(mode)
        return True

    def _moved(self, text: str) -> str:
        places = {DATA: "data", "/etc/rancher/rke2": "etc", "/etc/default": "default", "/usr/local": "opt"}
        for place, inside in places.items():
            text = text.replace(place, str(self.folder / inside))
        return text

    def _run(self, script: str) -> str:
        text = script.replace(f"PATH={shell.PATHS}", f"PATH={self._bin}:/usr/bin:/bin")
        return super()._run(self._moved(text))


@dataclass
class Bundle:
    manifest: Manifest
    state: BundleState
    content: bytes = CONTENT

    @contextmanager
    def snapshot(self):
        yield io.BytesIO(self.content)


class Kube:
    """Nodes and what was deleted."""

    def __init__(self, *nodes):
        self.have = list(nodes)
        self.deleted = []

    def nodes(self):
        return self.have

    def delete(self, api_version, kind, name, ns=None):
        self.deleted.append(f"{kind}/{name}")
        return True


class Case:
    """The site north with its three servers and two agents, a bundle, and what is seen of each node."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.spec = make_spec()
        self.folder = folder
        self.hosts: dict[str, StubShell] = {}
        self.rke2 = {node.name: Rke2Facts(version=VERSION, has_password=True) for node in self.spec.nodes}
        self.kube = Kube(*(status(node.name, server=node.is_server) for node in self.spec.nodes))
        self.kept = MemorySecrets({
            ("secret-text", self.spec.rke2.token_block): {"value": SecretStr("K10b::server:younger")},
            ("ssh-key", self.spec.ssh.key_block): {"private_key": SecretStr("none")},
        })  # fmt: skip
        self.gates = []
        files = {SNAPSHOT: StoredFile(1, "c", len(CONTENT), SUM)}
        manifest = Manifest(
            id="20261126T100000Z-0a1b2c3d", site="north", cluster_id="uid", created_at="2026-11-26T10:00:00+00:00",
            rke2_version=VERSION, snapshot=SnapshotNote("snap", "s2", "", 1, 1, {}), token_hash=token_hash(FULL),
            encryption_sha256="", known_sha256="", nodes=(), certificates=(), files=files,
        )  # fmt: skip
        self.bundle = Bundle(manifest, BundleState(SecretStr("seal"), SecretStr(FULL), SecretStr("")))
        monkeypatch.setattr(
            restoring, "look", lambda site, node, shell: prepared(self.spec, node.name, rke2=self.rke2[node.name])
        )
        monkeypatch.setattr(restoring, "wait_until_back", self._gate)
        self.plain = Site(self.spec, self.kept, self, lambda: self.kube, None, None, folder / "work")
        self.site = self.inside()

    def inside(self) -> Site:
        """Return the site with the bundle's secrets, with no access kept yet."""
        return replace(with_bundle(self.plain, self.bundle.state), kube=lambda: self.kube)

    def _gate(self, site, node, shell, facts, servers, *, keeps_access=False):
        self.gates.append((node.name, [one.name for one in servers]))

    @contextmanager
    def open(self, node):
        yield self.host(node.name)

    def host(self, name) -> StubShell:
        if name not in self.hosts:
            place = self.folder / name
            place.mkdir()
            self.hosts[name] = StubShell(name, place)
        return self.hosts[name]

    def node(self, name):
        return next(node for node in self.spec.nodes if node.name == name)

    def fence(self, *names, lease=None, **how):
        for name in names:
            fence_server(self.site, self.node(name), lease or Held(), self.bundle, **how)

    def first(self, lease=None):
        restore_first(self.site, self.node("s1"), lease or Held(), self.bundle)

    def text(self, name, path):
        return Path(self.host(name)._moved(path)).read_text()


@pytest.fixture
def case(tmp_path, monkeypatch):
    return Case(tmp_path, monkeypatch)


SERVERS = ("s1", "s2", "s3")


def test_a_fence_ends_rke2_disables_it_and_keeps_the_old_data(case):
    """The second run does nothing: its marker says that it is done."""
    (case.host("s1").folder / "active").write_text("active\n")
    case.fence("s1")
    folder = case.host("s1").folder
    assert (folder / "active").read_text() == "inactive\n" and (folder / "enabled").read_text() == "disable\n"
    assert not (folder / "data/server/db").exists()
    assert (folder / "data/server/db-before-restore-1/snapshots").is_dir()
    sent = list(case.host("s1").batches)
    case.fence("s1", lease=Held(2))
    assert case.host("s1").batches == sent


def test_a_working_etcd_is_not_fenced_off_unless_that_was_asked_for(case):
    case.rke2["s1"] = replace(case.rke2["s1"], etcd=etcd_view("s1"))
    with pytest.raises(QuorumError, match="healthy quorum"):
        case.fence("s1")
    assert case.host("s1").batches == []
    case.fence("s1", anyway=True)
    assert case.host("s1").batches == [["restore/s1/fence"]]


def test_a_port_that_still_listens_stops_the_fence_before_data_is_moved(case):
    (case.host("s1").folder / "curl").write_text("35")
    with pytest.raises(RemoteStepError, match="still listens"):
        case.fence("s1")
    assert (case.host("s1").folder / "data/server/db/snapshots").is_dir()


def test_the_first_server_is_not_reset_before_all_are_fenced(case):
    case.fence("s1", "s2")
    with pytest.raises(StackError, match="s3: the server is not fenced"):
        case.first()
    assert case.host("s1").resets == 0


def test_a_fence_of_another_restore_is_none(case):
    """s3 was fenced by an earlier restore of this bundle: it may have come back since."""
    case.fence(*SERVERS)
    state = case.host("s3").folder / "state/restore"
    state.write_text(state.read_text().replace(" 1 ", " 0 "))
    with pytest.raises(StackError, match="not fenced"):
        case.first()


def test_the_first_server_gets_the_bundles_token_joins_nobody_and_is_started_after_the_reset(case):
    """Its configuration holds the short token of the bundle, not the block's; the snapshot is for root alone."""
    case.fence(*SERVERS)
    join = Path(case.host("s1")._moved(JOIN))
    join.parent.mkdir(parents=True)
    join.write_text("server: https://k8s.example.com:9345\n")
    case.first()
    host = case.host("s1")
    assert not join.exists() and "old-secret" in case.text("s1", TOKEN) and "K10" not in case.text("s1", TOKEN)
    snapshot = host.folder / f"data/stackwright-restore/{case.bundle.manifest.id}"
    assert snapshot.read_bytes() == CONTENT and snapshot.stat().st_mode & 0o777 == 0o600
    assert host.resets == 1 and (host.folder / "started").read_text() == "start\n"
    assert case.gates == [("s1", ["s1"])] and "Lease/stackwright-north" in case.kube.deleted
    assert "old-secret" not in "".join(path.read_text() for path in (host.folder / "state").glob("restore*"))


BAD = {
    "wrong token": ("bootstrap data already found and encrypted with different token", 1, "wrong-token"),
    "damage": ("expected sha256 [1], got [2]", 1, "flipped-byte"),
    "older release": ("invalid downgrade; server version is lower", 1, "wrong-version"),
    "exit code alone": ("level=info msg=hello", 0, "restore-failed"),
    "the words alone": (SAID, 1, "restore-failed"),
}


@pytest.mark.parametrize(("says", "code", "reason"), BAD.values(), ids=BAD)
def test_a_reset_counts_only_with_exit_code_and_words(case, says, code, reason):
    """Nothing is started, the reason is named, and another try begins with the reset."""
    case.fence(*SERVERS)
    case.host("s1").says(says, code)
    with pytest.raises(BundleError) as caught:
        case.first()
    assert caught.value.reason == reason
    assert not (case.host("s1").folder / "started").exists()
    case.host("s1").says(f"{SAID}, restart without it")
    case.first()
    assert case.host("s1").resets == 2 and (case.host("s1").folder / "started").exists()


def test_a_snapshot_that_changed_on_its_way_is_not_restored(case):
    case.fence(*SERVERS)
    case.bundle.content = CONTENT[:-1] + b"x"
    with pytest.raises(RemoteStepError, match="is not the snapshot of the bundle"):
        case.first()
    assert case.host("s1").resets == 0


@pytest.mark.parametrize("step", ["fence", "place", "reset", "start"])
def test_a_death_after_any_step_is_gone_on_from_without_a_second_reset(case, step):
    case.fence("s2", "s3") if step != "fence" else None
    host = case.host("s1")
    host.dies_after = f"/{step}"
    with pytest.raises(NodeUnreachableError):
        case.fence("s1")
        case.first()
    host.dies_after = ""
    case.fence(*SERVERS, lease=Held(7))
    case.first(Held(7))
    case.first(Held(8))
    assert host.resets == 1 and (host.folder / "started").read_text() == "start\n"


def test_a_cluster_that_was_started_is_never_reset_again(case):
    """Whatever the controller believes: the node's own marker and its unit are looked at by the script."""
    case.fence(*SERVERS)
    case.first()
    host = case.host("s1")
    with replacing(case.node("s1"), []), pytest.raises(RemoteStepError, match="nothing is reset"):
        mark = Mark(case.bundle.manifest.id, 1, "placed")
        _send(
            case.site,
            host,
            Held(),
            reset_step(case.bundle.manifest, case.node("s1")),
            reset_script(mark, case.bundle.manifest),
        )
    assert host.resets == 1


def test_a_reset_outside_of_the_guard_is_refused(case):
    with pytest.raises(QuorumError, match="not let in by the quorum guard"):
        _send(case.site, case.host("s1"), Held(), reset_step(case.bundle.manifest, case.node("s1")), "true")


def test_the_others_come_back_empty_one_by_one_and_agents_are_restarted(case):
    case.fence(*SERVERS)
    case.first()
    rejoin_server(case.site, case.node("s2"), Held(), case.bundle, [case.node("s1")])
    rejoin_agent(case.site, case.node("w1"), Held(), case.bundle)
    assert case.gates[1:] == [("s2", ["s1", "s2"]), ("w1", [])]
    assert "9345" in case.text("s2", JOIN) and FULL in case.text("s2", TOKEN)
    started = {name: (case.host(name).folder / "started").read_text().split() for name in ("s2", "w1")}
    assert started == {"s2": ["start"], "w1": ["restart"]}
    sent = list(case.host("s2").batches)
    rejoin_server(case.site, case.node("s2"), Held(2), case.bundle, [case.node("s1")])
    assert case.host("s2").batches == sent, "the second run changes nothing"


def test_a_server_that_was_not_fenced_does_not_rejoin(case):
    case.fence("s1")
    with pytest.raises(StackError, match="not fenced"):
        rejoin_server(case.site, case.node("s2"), Held(), case.bundle, [case.node("s1")])


def test_only_a_new_host_has_the_lost_ones_password_forgotten(case):
    case.fence(*SERVERS)
    rejoin_server(case.site, case.node("s2"), Held(), case.bundle, [])
    assert case.kube.deleted == []
    case.rke2["s3"] = replace(case.rke2["s3"], has_password=False)
    rejoin_server(case.site, case.node("s3"), Held(), case.bundle, [])
    assert case.kube.deleted == ["Secret/s3.node-password.rke2"]


def test_a_later_run_fences_this_one_off(case):
    """Each node looks at the number: one that has slept changes nothing any more."""
    case.fence("s1", "s2", lease=Held(5))
    (case.host("s2").folder / "state/fence").write_text("9\n")
    with pytest.raises(FencedError):
        rejoin_server(case.site, case.node("s2"), Held(5), case.bundle, [case.node("s1")])
    assert case.gates == []


def test_nodes_that_are_gone_are_removed_and_those_that_report_are_left(case):
    case.site = replace(case.site, clock=Still())
    case.kube.have += [status("old", ready=False), status("stranger")]
    assert clean_cluster(case.site, Held(), case.bundle) == ("old",)
    assert case.kube.deleted == ["Secret/old.node-password.rke2", "Node/old"]


class Still:
    """A clock that goes on only while somebody waits."""

    def __init__(self):
        self.at = 1.8e9

    def now(self):
        return self.at

    def wait(self, seconds):
        self.at += seconds


def test_the_access_is_kept_at_the_end_alone_and_a_younger_token_is_archived(case, monkeypatch):
    """Until then the site's own blocks are as they were: a drill uses the same steps."""
    case.fence(*SERVERS)
    case.first()
    block = case.spec.rke2.token_block
    assert case.kept.text("secret-text", block) == "K10b::server:younger"
    saved = {"kubeconfig": SecretStr("restored")}

    def save(site, shell):
        site.secrets.write("secret-text", block, {"value": SecretStr(FULL)})
        site.secrets.write("cluster-access", case.spec.rke2.kubeconfig_block, saved)

    monkeypatch.setattr("tasks.restore_end.save_access", save)
    keep_access(case.site, Held(), case.bundle)
    assert case.kept.text("secret-text", block) == FULL
    assert case.kept.text("cluster-access", case.spec.rke2.kubeconfig_block, "kubeconfig") == "restored"
    kept = parse_archive(case.kept.text("secret-text", archive_block(block)))
    assert [entry.token.get_secret_value() for entry in kept] == ["K10b::server:younger"]


def test_a_closed_restore_leaves_no_clear_copy_and_the_next_one_begins_anew(case):
    case.fence(*SERVERS)
    case.first()
    close_restore(case.site, Held(), case.bundle)
    host = case.host("s1")
    assert not (host.folder / "data/stackwright-restore").exists() and read_mark(host).bundle == ""
    (host.folder / "data/server/db").mkdir(exist_ok=True)
    case.fence("s1", lease=Held(9))
    assert (host.folder / "data/server/db-before-restore-9").is_dir()


def test_the_bundles_files_are_read_as_rke2_merges_them():
    def b64(text):
        return SecretStr(base64.b64encode(text.encode()).decode())

    etc = "/etc/rancher/rke2"
    files = {
        f"{etc}/config.yaml": b64("cni: canal\ntoken: planted\ncluster-cidr: 10.1.0.0/16\n"),
        f"{etc}/config.yaml.d/90-own.yaml": b64("cluster-cidr: 10.2.0.0/16\n"),
        f"{etc}/registries.yaml": b64("mirrors: {}\n"),
    }
    state = BundleState(SecretStr(""), SecretStr(FULL), SecretStr(""), files)
    assert bundle_config(state) == {"cni": "canal", "cluster-cidr": "10.2.0.0/16"}
    assert ca_hash_of(state.token) == "a" * 64 and ca_hash_of(SecretStr("short")) == ""


def test_registry_logins_come_from_the_bundle_only_where_the_site_has_none(case):
    text = "configs:\n  r.example.com:\n    auth: {username: u, password: planted}\n"
    files = {"/etc/rancher/rke2/registries.yaml": SecretStr(base64.b64encode(text.encode()).decode())}
    state = BundleState(SecretStr(""), SecretStr(FULL), SecretStr(""), files)
    spec = make_spec(
        rke2__registries={
            "mirrors": {"docker.io": ["https://r.example.com"]},
            "credentials": {"r.example.com": "login"},
        }
    )
    site = Site(spec, case.kept, None, None, None, None, case.folder)
    assert with_bundle(site, state).secrets.read("registry", "login")["password"].get_secret_value() == "planted"
    case.kept.write("registry", "login", {"username": SecretStr("u"), "password": SecretStr("own")})
    assert with_bundle(site, state).secrets.read("registry", "login")["password"].get_secret_value() == "own"


def test_what_is_written_into_the_bundles_secrets_stays_there():
    behind = MemorySecrets()
    secrets = BundleSecrets(behind, {("cluster-access", "k"): None})
    secrets.write("cluster-access", "k", {"kubeconfig": SecretStr("x")})
    assert secrets.read("cluster-access", "k") and behind.kept == {}
    secrets.pass_on("cluster-access", "k")
    assert behind.text("cluster-access", "k", "kubeconfig") == "x"
    with pytest.raises(StackError, match="nothing is kept"):
        secrets.pass_on("secret-text", "none")


def test_the_proof_asks_for_what_a_continued_restore_can_show(case):
    """A Node that was removed meanwhile is not missed; a server that says the site file's newer release is no fault."""
    notes = (NodeNote("s1", "u1", "192.0.2.11", True), NodeNote("old", "u0", "192.0.2.77", True))
    made = replace(case.bundle.manifest, nodes=notes, rke2_version="v1.33.9+rke2r1")
    seen = Restored("uid", {"s2": RestoredNode("u2", VERSION)}, 9, {}, True, "", 0)
    wanted = expected(case.spec, made, seen)
    assert [note.name for note in wanted.nodes] == ["s1"] and wanted.rke2_version == VERSION
    older = replace(seen, nodes={"s2": RestoredNode("u2", "v1.33.9+rke2r1")})
    assert expected(case.spec, made, older).rke2_version == "v1.33.9+rke2r1"
