"""`stackwright support-bundle` on a real Prefect server: planted secrets are taken out wherever they were written."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from typer.testing import CliRunner

from blocks.store import BlockSecrets
from stackwright import cli
from stackwright.clients.kept_secrets import KEPT, KeptSecrets
from stackwright.lab.rig import ROOT
from stackwright.lab.server import PrefectServer
from stackwright.recorder import Recorder, recorded
from tests.domain.nodes_seen import make_spec
from tests.fakes.kube import FakeKube
from tests.flows.careless_flow import END, FOREIGN, GIVEN, LINES, OTHER, UNKNOWN, WORD
from tests.flows.server import ask, run_apart, wait_for
from tests.tasks.lease_site import make_site

shell = CliRunner()
KEY = Ed25519PrivateKey.generate().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()  # fmt: skip
BODY = KEY.splitlines()[1]
KUBECONFIG = yaml.safe_dump({"users": [{"user": {"client-key-data": base64.b64encode(KEY.encode()).decode()}}]})
TELLING = [WORD, OTHER, FOREIGN, GIVEN, BODY, END, base64.b64encode(WORD.encode()).decode().rstrip("=")]


@pytest.fixture(scope="module")
def planted(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with secrets in blocks, and in everything that a careless run has written."""
    store = BlockSecrets()
    store.write("secret-text", "support-word", {"value": SecretStr(WORD)})
    store.write("registry", "support-login", {"username": SecretStr("north"), "password": SecretStr(OTHER)})
    store.write("ssh-key", "support-key", {"private_key": SecretStr(KEY), "passphrase": SecretStr("")})
    store.write("cluster-access", "support-access", {"kubeconfig": SecretStr(KUBECONFIG)})
    Secret(value=FOREIGN).save("support-foreign", overwrite=True, _sync=True)  # type: ignore[call-arg]
    folder = tmp_path_factory.mktemp("careless")
    (folder / "key").write_text(KEY)
    run_apart(prefect_server, "tests.flows.careless_flow", folder)
    run = (folder / "run").read_text()
    about = {"event": {"name": ["stackwright.planted"]}}
    wait_for(lambda: ask(prefect_server, "/events/filter", {"filter": about})["events"])
    counted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_DESC", "limit": 1, "offset": LINES}
    wait_for(lambda: ask(prefect_server, "/logs/filter", counted))
    yield run
    for kind, name in (("secret-text", "support-word"), ("registry", "support-login"), ("ssh-key", "support-key"),
                       ("cluster-access", "support-access")):  # fmt: skip
        store.remove(kind, name)
    Secret.delete("support-foreign", _sync=True)  # type: ignore[call-arg]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Site `north` with nodes whose scripts run here, a cluster in memory, and a report with a secret in it."""
    found = make_site(tmp_path / "hosts", FakeKube())
    for node in ("s1", "s2"):
        state = tmp_path / "hosts" / node / "state"
        state.mkdir(parents=True)
        (state / "journal").write_text(f"begin node/{node}/a\nnode journal {WORD} end\n")
    sites = tmp_path / "sites"
    sites.mkdir()
    spec = make_spec().model_dump(mode="json", exclude_unset=True)
    spec["layers"] = {"rancher": {"values": {"bootstrapPassword": "typed-by-hand-1"}}}
    (sites / "north.yaml").write_text(yaml.safe_dump(spec))
    report = tmp_path / "reports" / "north" / "run-1" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"notes": [f"report {WORD} end"], "evidence": []}))
    monkeypatch.setenv("STACKWRIGHT_SITES", str(sites))
    monkeypatch.setenv("STACKWRIGHT_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("STACKWRIGHT_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("STACKWRIGHT_TOOLS", str(ROOT / "build" / "tools" / "bin"))
    monkeypatch.setenv("STACKWRIGHT_PLANTED_TOKEN", GIVEN)
    monkeypatch.setattr("stackwright.support.bundle.open_site", lambda name: found)
    return found


def bundle(folder: Path, *words: str) -> tuple[dict[str, str], dict[str, Any], str]:
    """Make a bundle; return its files by name, its index and what was printed."""
    done = shell.invoke(cli.app, ["support-bundle", "north", "--output", str(folder), *words])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as tar:
        files = {
            one.name.partition("/")[2]: (tar.extractfile(one) or sys.exit("no file")).read().decode()
            for one in tar.getmembers()
        }
    return files, json.loads(files["index.json"]), done.output


def outcomes(index: dict[str, Any]) -> dict[str, str]:
    return {part["part"]: part["outcome"] for part in index["parts"]}


def no_secret(files: dict[str, str], *more: str) -> None:
    found = [
        (name, text) for name, said in {**files, **{"said": "".join(more)}}.items() for text in TELLING if text in said
    ]
    assert not found


def test_planted_secrets_are_taken_out_of_everything(planted: str, place: Any, tmp_path: Path) -> None:
    """Each place where one was planted is in the bundle, with its words around it, and without the secret."""
    place.shells.down.add("w1")
    files, index, said = bundle(tmp_path / "out")
    no_secret(files, said)
    (folder,) = {name.rpartition("/")[0] for name in files if planted[:8] in name}
    log = files[f"{folder}/log.txt"]
    assert "log: *** and " in log and "quoted: *** json: " in log and "one line of it: ***; of no block: ***" in log
    assert f"line {LINES - 1} of a long log" in log, "a page of logs is not all of them"
    run = json.loads(files[f"{folder}/run.json"])
    assert run["parameters"] == {"site": "north", "note": "parameter *** end", "key": "***\n"}
    assert any("exception: *** and ***" in (state["reason"] or "") for state in run["states"])
    assert (
        "artifact *** end" in files["artifacts/plan-north.json"]
        and "artifact *** end" in files[f"{folder}/artifacts.json"]
    )
    assert "event *** end" in files["events.jsonl"]
    assert "node journal *** end" in files["nodes/s1.txt"] and "begin node/s1/a" in files["nodes/s1.txt"]
    assert "report *** end" in files["reports/00-run-1.json"]
    assert "typed-by-hand-1" not in "".join(files.values()) and "code_block: suse" in files["site.yaml"]
    assert json.loads(files["settings.json"])["variables"]["STACKWRIGHT_PLANTED_TOKEN"] == "***"
    assert json.loads(files["versions.json"])["helm"].startswith("v")
    assert {"secret-text/support-word", "ssh-key/support-key"} <= {
        name.removeprefix("stackwright-") for name in json.loads(files["server/block-names.json"])
    }
    assert index["redaction"]["secrets_known"] >= 6 and index["redaction"]["not_read"] == []
    told = outcomes(index)
    assert {
        name: told[name] for name in ("runs", "artifacts", "events", "declared", "health", "versions")
    } == dict.fromkeys(("runs", "artifacts", "events", "declared", "health", "versions"), "read")
    assert told["nodes"] == "partly" and "nodes/w1.txt" not in files, "a node that is down is told, the others are read"
    assert any("w1" in why for part in index["parts"] if part["part"] == "nodes" for why in part["why"])
    assert told["plan"] == "not read", "the site of this test has no helm"
    assert "north" in files["index.json"], "a login's name that is the site's name is no secret"


def test_a_huge_log_keeps_its_end(planted: str, place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of it than the limit is asked of the server; the index says what was cut."""
    from stackwright.domain.support import Limits

    monkeypatch.setattr("stackwright.domain.support.Limits", lambda **given: Limits(**{**given, "log_bytes": 20_000}))
    files, index, _ = bundle(tmp_path / "out")
    (name,) = (name for name in files if name.endswith("log.txt") and planted[:8] in name)
    assert len(files[name]) <= 20_100 and "one line of it" in files[name] and "line 1 of" not in files[name]
    assert index["cut"][name] > 0 and index["limits"]["log_bytes"] == 20_000


def test_a_list_writes_nothing_and_a_second_bundle_changes_nothing(planted: str, place: Any, tmp_path: Path) -> None:
    """The same files come again; neither the server nor a node is changed by looking."""

    def journal() -> list[str]:
        return [path.read_text() for path in sorted((tmp_path / "hosts").rglob("journal"))]

    before = journal()
    words = ["support-bundle", "north", "--list", "--json", "--runs", "1", "--output", str(tmp_path / "none")]
    done = shell.invoke(cli.app, words)
    listed = json.loads(done.output)
    assert done.exit_code == 0 and listed["path"] is None and not (tmp_path / "none").exists()
    no_secret({}, done.output)
    made, _, _ = bundle(tmp_path / "one", "--runs", "1")
    assert [one["name"] for one in listed["files"]] == list(made)
    sums = {one["name"]: one["sha256"] for one in listed["files"]}
    for name in ("site.yaml", "versions.json", "server/deployments.json", "reports/00-run-1.json"):
        assert hashlib.sha256(made[name].encode()).hexdigest() == sums[name]
    assert journal() == before and place.kube().journal == []


def test_without_a_server_the_rest_is_there(place: Any, tmp_path: Path) -> None:
    """Each part that needs it is told; what looks like a secret is taken out all the same, and a warning is given.

    What runs without the server have left is there: their records, and that what they wrote to blocks is a secret.
    """
    state = Path(os.environ["STACKWRIGHT_STATE"]) / "stackwright" / "north"
    KeptSecrets({}, state / KEPT).write("secret-text", "rke2-token", {"value": SecretStr("plain words of a night")})
    for site in ("north", "south"):
        with recorded(Recorder("restore-cluster", site, {"site": site}, list)) as record:
            record.tell("plain words of a night")
    journal = tmp_path / "hosts" / "s1" / "state" / "journal"
    journal.write_text(f"token {UNKNOWN} end\nplain words of a night\n")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        files, index, said = bundle(tmp_path / "out", "--deadline", "60")
    assert "token *** end" in files["nodes/s1.txt"]
    told = outcomes(index)
    for part in ("runs", "artifacts", "events", "declared", "health"):
        assert told[part] == "not read"
    assert told["versions"] == told["settings"] == told["reports"] == "read"
    (unsent,) = (text for name, text in files.items() if name.startswith("unsent-runs/"))
    assert '"site": "north"' in unsent and "plain words" not in "".join(files.values())
    assert index["redaction"]["not_read"] and "Look through it first" in said


def test_an_unknown_site_is_a_wrong_word(place: Any, tmp_path: Path) -> None:
    done = shell.invoke(cli.app, ["support-bundle", "nowhere", "--output", str(tmp_path / "out")])
    assert "no such site file" in str(done.exception) and not (tmp_path / "out").exists()


HANGING = """
import sys
from stackwright.support import bundle, local
def hang(basket):
    print("gathering", flush=True)
    import threading; threading.Event().wait(60)
local.read_versions = hang
from stackwright import cli
sys.argv = ["stackwright", "support-bundle", "north", "--output", sys.argv[1]]
cli.main()
"""


def test_a_death_in_the_middle_leaves_neither_archive_nor_plain_file(planted: str, place: Any, tmp_path: Path) -> None:
    """Killed while it gathers, with other parts read already: no file of it is anywhere."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    child = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(tmp_path / "out")], env=env, cwd=scratch, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdout
    with child, child.stdout:
        assert child.stdout.readline() == "gathering\n"
        threading.Event().wait(1)  # let the other parts get going; wherever the blow falls, the promise is the same
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    assert not (tmp_path / "out").exists() and not [path for path in scratch.rglob("*") if path.is_file()]
