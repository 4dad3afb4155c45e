"""The preflight's script against real shells and the lab's machines: what it measures, and that it leaves nothing."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from stackwright.clients import oci
from stackwright.clients.x509 import inspect_pair
from stackwright.domain import shell
from stackwright.domain.errors import PlanRefusedError
from stackwright.domain.plan import Effect, Plan, Step
from stackwright.domain.preflight import BY_ID, CHECKS, FIRST, checks_of, wants
from stackwright.domain.preflight.disks import fsync_p99_ms
from stackwright.domain.preflight.model import judge
from stackwright.domain.preflight.network import paths
from stackwright.domain.preflight.script import Blob, preflight_script, with_logins
from stackwright.domain.preflight.seen import Host
from stackwright.domain.preflight.shapes import look_at_block
from stackwright.lab.net import Authority
from tasks import preflight
from tasks.preflight import look_at_host, read_case
from tasks.preflight_controller import look_at_ca, look_from_controller, look_up, tool_version
from tests.domain.preflight_seen import NOW_S, fact, healthy, make_spec
from tests.tasks.lab_site import MemorySecrets, site_of, spec_of

PLANTED = 'planted-pass"word\\8'
OFF = ("cert_manager", "metallb", "rancher", "rancher_backup", "storage", "security", "registry", "observability",
       "gpu_operator", "suse_ai", "clearml")  # fmt: skip


@pytest.fixture(params=["bash", "dash"])
def sh(request, tmp_path):
    """A shell as the hosts' sh, found first on the script's path too: bash is SLES's, dash has no /dev/tcp."""
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"no {request.param} here")
    place = tmp_path / "bin"
    place.mkdir()
    (place / "sh").symlink_to(found)
    return place


def started(script: str, place: Path) -> subprocess.Popen:
    """Start a script, in a process group of its own."""
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        [str(place / "sh"), "-s"], stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True
    )
    process.stdin.write(script.encode())
    process.stdin.close()
    return process


def run(script: str, place: Path, scratch: Path, timeout_s: float = 60) -> tuple[dict[str, shell.Section], str]:
    scratch.mkdir(exist_ok=True)
    text = script.replace(f"PATH={shell.PATHS}", f"PATH={place}:{shell.PATHS} TMPDIR={scratch}")
    text = text.replace("d=/var/lib/rancher;", f"d={scratch};")
    done = subprocess.run(
        [str(place / "sh"), "-s"], input=text, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    return shell.parse_read(done.stdout), done.stdout + done.stderr


def local_spec(**changes):
    """A site whose hosts are this machine's loopback: nothing outside is asked."""
    nodes = [{"name": f"s{i}", "address": f"127.81.4.{i}", "roles": ["server"]} for i in (1, 2)]
    layers = {name: {"enabled": False} for name in OFF}
    return make_spec(nodes=nodes, layers=layers, tenants=[], backup=None, registration={"kind": "none"}, packages={},
                     charts={}, dns={"hosts": {"k8s.example.com": "127.81.4.9"}},
                     rke2={"version": "v1.34.10+rke2r1", "registration_address": "k8s.example.com",
                           "artifacts": {"source": "folder", "folder": "/srv", "images": True}}, **changes)  # fmt: skip


# --- the script -----------------------------------------------------------------------------------------------------


def test_every_probe_answers_and_nothing_stays(sh, tmp_path):
    """All sections come back, ports without a listener are refused, the disk is timed; no file is left."""
    spec = local_spec()
    seen, _ = run(preflight_script(spec, spec.nodes[0]), sh, tmp_path / "scratch")
    host = Host(spec.nodes[0], None, seen)
    words = {row[2] for row in host.rows("tcp")}
    assert words == {"refused"}
    assert len(host.rows("tcp")) == len(wants.targets(spec, spec.nodes[0]))
    assert fsync_p99_ms(host) > 0
    assert host.rows("disks")[0][0] == "/" and int(host.rows("disks")[0][2]) > 0
    assert {row[0] for row in host.rows("dns")} == set(wants.looked_up(spec))
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (seen["udp"].rc == 127) is (sh.joinpath("sh").resolve().name == "dash")


def test_an_open_port_is_told_from_one_that_nobody_listens_on(sh, tmp_path):
    """A listener that takes the connection and says nothing is open; the port beside it is refused."""
    spec = local_spec()
    with socket.create_server(("127.81.4.2", 9345)):
        seen, _ = run(preflight_script(spec, spec.nodes[0]), sh, tmp_path / "scratch")
    rows = {(row[0], row[1]): row[2] for row in Host(spec.nodes[0], None, seen).rows("tcp")}
    assert rows["s2", "9345"] == "open"
    assert rows["s2", "2379"] == "refused"


def test_a_port_that_swallows_connections_is_a_timeout(sh, tmp_path):
    """A listener whose queue is full drops what comes, as a filter does: no answer within the limits, twice."""
    spec = local_spec()
    with socket.socket() as full:
        full.bind(("127.81.4.2", 2379))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.81.4.2", 2379))
        seen, _ = run(preflight_script(spec, spec.nodes[0]), sh, tmp_path / "scratch")
        for one in waiting:
            one.close()
    rows = {(row[0], row[1]): row[2] for row in Host(spec.nodes[0], None, seen).rows("tcp")}
    assert rows.get(("s2", "2379"), "timeout") == "timeout"
    assert rows["s2", "2380"] == "refused"


def test_a_blob_is_fetched_with_its_login_and_no_secret_is_seen(sh, tmp_path):
    """The login is in no script text, no argument of any process and no output; the digest is the file's."""
    served = tmp_path / "blob"
    served.write_text("the image's configuration")
    digest = (
        "sha256:"
        + subprocess.run(["sha256sum", str(served)], capture_output=True, text=True, check=True).stdout.split()[0]
    )
    spec = local_spec()
    blob = Blob("mirror/x:1", f"file://{served}", digest)
    script = preflight_script(spec, spec.nodes[0], {}, [blob])
    assert PLANTED not in script
    sent = with_logins(script, {0: (SecretStr("user"), SecretStr(PLANTED))})
    watched = script_arguments(sent, sh, tmp_path / "scratch")
    seen, output = run(sent, sh, tmp_path / "scratch")
    assert f"sha256:{seen['blob_0'].out.split()[0]}" == digest
    for place in (output, *watched):
        assert "planted-pass" not in place
    assert "planted-pass" not in "".join(section.out for section in seen.values())


def script_arguments(script: str, place: Path, scratch: Path) -> list[str]:
    """Return the arguments of every process that ran while the script did, curl's among them."""
    scratch.mkdir(exist_ok=True)
    text = script.replace(f"PATH={shell.PATHS}", f"PATH={place}:{shell.PATHS} TMPDIR={scratch}")
    text = text.replace("d=/var/lib/rancher;", f"d={scratch};")
    process = started(text, place)
    seen: set[str] = set()
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended between the two looks
        time.sleep(0.02)
    return sorted(seen)


def test_a_login_is_quoted_for_curl():
    """Quotes and backslashes of a password reach curl as they are."""
    text = with_logins("rest", {0: (SecretStr("u"), SecretStr(PLANTED))})
    value = subprocess.run(
        ["sh", "-c", text.replace("rest", 'printf %s "$sw_login_0"')], capture_output=True, text=True, check=True
    )
    assert value.stdout == 'user = "u:planted-pass\\"word\\\\8"'


def test_a_killed_script_leaves_no_file(sh, tmp_path):
    """Cut in the middle of the disk's timing, the file and the folder go."""
    spec = local_spec()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    script = preflight_script(spec, spec.nodes[0]).replace(
        f"PATH={shell.PATHS}", f"PATH={sh}:{shell.PATHS} TMPDIR={scratch}"
    )
    script = script.replace("d=/var/lib/rancher;", f"d={scratch};").replace("-lt 100 ]", "-lt 100000 ]")
    process = started(script, sh)
    deadline = time.monotonic() + 60
    while not list(scratch.glob(".stackwright-fsync.*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(scratch.glob(".stackwright-fsync.*"))
    subprocess.run(["kill", "-TERM", "--", f"-{process.pid}"], check=True)
    process.wait(60)
    while list(scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(scratch.iterdir()) == []


# --- the lab's machines ---------------------------------------------------------------------------------------------


@pytest.fixture
def site(make_lab, tmp_path):
    lab = make_lab({"name": "n1"}, {"name": "n2"})
    layers = {name: {"enabled": False} for name in OFF}
    spec = spec_of(lab, roles={"n1": ["server"], "n2": ["worker"]}, layers=layers, rke2__allow_single_server=True)
    secrets = MemorySecrets({
        ("ssh-key", "ssh"): {"private_key": SecretStr((lab.folder / "key").read_text())},
        ("registration", "suse-registration"): {"code": SecretStr("LAB-PLANTED-REGCODE")},
        ("registry", "lab-registry"): {"username": SecretStr("lab"), "password": SecretStr("planted-registry")},
    })  # fmt: skip
    return lab, site_of(lab, spec, tmp_path / "work", secrets)


@pytest.mark.lab
def test_a_lab_machine_answers_and_nothing_changes(site):
    """Sizes, clocks, files and ports of the machine are its own; the look changes neither files nor units."""
    lab, place = site
    before = lab.call(_snapshot(lab, "n1"))
    case = read_case(place, cluster=False)
    found = {(one.check.id, one.subject): one.outcome for one in judge(case, CHECKS)}
    for check in ("host/os", "disk/rancher", "etcd/fsync", "network/mtu-path", "host/cgroup", "rke2/artifacts"):
        subject = next(subject for name, subject in found if name == f"preflight/{check}")
        assert found[f"preflight/{check}", subject].verdict == "pass", (check, found[f"preflight/{check}", subject])
    assert "864 GiB" in found["preflight/disk/rancher", "n1"].seen
    assert lab.call(_snapshot(lab, "n1")) == before


async def _snapshot(lab, name):
    return lab.nodes.snapshot(name)


@pytest.mark.lab
def test_a_slow_disk_and_a_slow_link_are_measured(site):
    """The measured values are the machine's: slow while the faults stand, quick without them."""
    lab, place = site

    def measured():
        lab.call(lab.nodes.look_at_faults())
        case = read_case(place, cluster=False)
        found = judge(case, [BY_ID["preflight/etcd/fsync"]])
        return found[0].outcome, paths(case.hosts["n1"])[0].rtt_ms

    lab.inject(kind="slow-disk", node="n1", seconds=0.08)
    lab.inject(kind="slow-link", node="n1", seconds=0.09)
    disk, rtt_ms = measured()
    assert disk.verdict == "fail" and "80" in disk.seen and rtt_ms == 90
    lab.inject()
    disk, rtt_ms = measured()
    assert disk.verdict == "pass" and rtt_ms < 1


@pytest.mark.lab
def test_a_host_that_is_cut_off_is_told_and_the_other_is_judged(site):
    """One host without a network is one failure; the other's answers are there."""
    lab, place = site
    lab.call(lab.nodes.cut_link("n2"))
    case = read_case(place, cluster=False)
    assert case.hosts["n2"].facts is None and case.hosts["n2"].lost
    assert case.hosts["n1"].sections["disks"].rc == 0
    lost = [
        one.subject
        for one in judge(case, CHECKS)
        if one.check.id == "preflight/host/reachable" and one.outcome.verdict == "fail"
    ]
    assert lost == ["n2"]


@pytest.mark.lab
def test_a_registry_that_nobody_serves_is_a_failure_with_its_reason(site):
    """This small lab has no registry: the image cannot be had, from the controller and from each host."""
    _, place = site
    seen = look_from_controller(place, cluster=False)
    image = next(iter(seen.pulls.values()))
    assert image.status == 0 and image.error
    host = look_at_host(place, place.spec.nodes[0], seen)
    found = [one for one in judge_one(place, seen, host) if one.check.id == "preflight/registries/reached"]
    assert found[0].outcome.verdict == "fail" and "no connection" in found[0].outcome.seen


def judge_one(place, seen, host):
    from stackwright.domain.preflight.seen import Case

    hosts = {node.name: Host(node, lost="not asked") for node in place.spec.nodes} | {host.node.name: host}
    return judge(Case(place.spec, hosts, seen), CHECKS)


# --- the controller's own look --------------------------------------------------------------------------------------


def test_blocks_are_judged_without_being_shown():
    """A missing field, a placeholder, a space around, an expired token: each is named, its text never."""
    token = "eyJhbGciOiJub25lIn0.eyJleHAiOjE3MDAwMDAwMDB9.x"
    cases = {
        "none": ("registration", None, "exists"),
        "empty": ("registration", {"code": " "}, "empty"),
        "space": ("registration", {"code": "PLANTED-SECRET "}, "has a space or a line end around it"),
        "placeholder": ("secret-text", {"value": "<YOUR_TOKEN>"}, "is a placeholder"),
        "short": ("secret-text", {"value": "abc"}, "is shorter than 8 characters"),
        "quotes": ("registry", {"username": "u", "password": "'PLANTED-SECRET'"}, "stands in quotes"),
        "expired": ("registry", {"username": "u", "password": token}, "is a token that has expired"),
        "key": ("ssh-key", {"private_key": "PLANTED-SECRET"}, "is no private key"),
    }
    for name, (kind, fields, wanted) in cases.items():
        secret = None if fields is None else {key: SecretStr(text) for key, text in fields.items()}
        seen = look_at_block(kind, secret, NOW_S)
        assert "PLANTED" not in repr(seen), name
        if wanted == "exists":
            assert not seen.exists
        elif wanted == "empty":
            assert seen.empty == ("code",)
        else:
            assert any(flaw.endswith(wanted) for flaw in seen.flaws), (name, seen)
    good = look_at_block("registry", {"username": SecretStr("lab"), "password": SecretStr("long-enough-9")}, NOW_S)
    assert good.exists and not good.empty and not good.flaws


def test_a_certificate_and_its_key_are_compared():
    """The right key fits, another's does not; names, chain and days are read; the key's text is nowhere."""
    ours, other = Authority("ours"), Authority("other")
    certificate, key = ours.issue("web", ["web.example.com"], days=90)
    seen = inspect_pair(certificate, key)
    assert seen.key_fits and seen.chain_ok and seen.names == ("web.example.com",) and not seen.is_ca
    assert inspect_pair(ours.certificate, ours.key).is_ca
    assert not inspect_pair(certificate, other.key).key_fits
    end = "-----END CERTIFICATE-----\n"
    foreign = certificate.split(end)[0] + end + other.certificate
    assert not inspect_pair(foreign, key).chain_ok
    assert inspect_pair("nothing", key).error and inspect_pair(certificate, "nothing").error
    assert key.splitlines()[1] not in repr(seen)


def test_names_and_files_are_looked_up(tmp_path):
    """Static names come first; a name that nobody has is an error; a CA file is read or told."""
    assert look_up("k8s.example.com", {"k8s.example.com": "192.0.2.7"}).addresses == ("192.0.2.7",)
    assert look_up("nobody.invalid", {}).error
    assert look_at_ca(str(tmp_path / "none.pem"), NOW_S)
    path = tmp_path / "ca.pem"
    path.write_text(Authority("ours").certificate)
    assert look_at_ca(str(path), time.time()) == ""
    assert "not valid now" in look_at_ca(str(path), 0.0)


def test_a_missing_tool_has_no_version(tmp_path, monkeypatch):
    """helm that is not there, or that fails, has no version; one that is says it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("STACKWRIGHT_TOOLS", raising=False)
    assert tool_version("helm") == ""
    program = tmp_path / "helm"
    program.write_text("#!/bin/sh\necho v4.0.1+gabc\n")
    program.chmod(0o755)
    assert tool_version("helm") == "v4.0.1+gabc"


def test_a_registry_that_does_not_answer_is_told():
    """No exception: the answer says what was wrong."""
    pull = wants.Pull("image", "x", "https://127.81.4.77:9", "x", "1")
    assert oci.ask(pull, None, {}, 2.0).error
    assert oci.ask(
        wants.Pull("repository", "x", "https://127.81.4.77:9", "x", "1", "", "/no/such.pem"), None, {}, 2.0
    ).error


# --- before a deploy ------------------------------------------------------------------------------------------------


def before_deploy(monkeypatch, change, plan):
    """Ask what a deploy asks, of a site that differs in one thing; return the artifacts that were shown."""
    shown = []

    async def artifact(text, key, description):
        shown.append((key, text))

    case = change(healthy(make_spec()))
    monkeypatch.setattr(preflight, "acreate_markdown_artifact", artifact)
    monkeypatch.setattr(preflight, "read_before_deploy", lambda site, facts: (case, judge(case, checks_of(FIRST))))
    site = SimpleNamespace(spec=case.spec, clock=SimpleNamespace(now=lambda: NOW_S))
    try:
        asyncio.run(preflight.check_before_deploy(site, None, plan))
    finally:
        before_deploy.shown = shown
    return shown


SOME_PLAN = Plan("north", (Step("node/w1/swap", "w1", "swap off", Effect.SERVICE_RESTART, "5.2", "off"),), ())


def test_a_failed_must_have_stops_a_deploy_with_every_finding(monkeypatch):
    """Two failures are one refusal with both, each with need, measured value and fix; the artifact has all lines."""
    with pytest.raises(PlanRefusedError) as caught:
        before_deploy(monkeypatch, lambda case: fact(fact(case, "w1", cpus=1), "w2", memory_gib=1.0), SOME_PLAN)
    places = {(problem.where, problem.seen) for problem in caught.value.problems}
    assert {("w1", "1 cores"), ("w2", "1 GiB")} <= places
    assert all(problem.remedy and problem.wanted for problem in caught.value.problems)
    assert before_deploy.shown[0][0] == "preflight-north" and "preflight/host/cpu" in before_deploy.shown[0][1]


def test_a_should_have_stops_nothing_and_an_empty_plan_asks_nothing(monkeypatch):
    """An optional failure is shown and passed over; a deploy with nothing to do does not even look."""
    assert before_deploy(monkeypatch, lambda case: fact(case, "w1", kernel="6.4.9"), SOME_PLAN)
    assert before_deploy(monkeypatch, lambda case: fact(case, "w1", cpus=1), Plan("north", (), ())) == []
