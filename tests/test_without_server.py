"""Without the Prefect server: what is refused before anything begins, where secrets come from, and records cut off.

Whole runs on the lab: tests/flows/test_without_server.py.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr
from typer.testing import CliRunner

from blocks.site import state_folder
from stackwright import cli, spool
from stackwright.clients.sealing import new_identity
from stackwright.domain.errors import ConflictError, ProblemsError, StackError, ToolError
from stackwright.recorder import PART, Recorder, recorded, take_over
from stackwright.without_server import kept_folder, launch, open_source
from tasks.other_state import export
from tests.store_server import ACCESS, SECRET, running_store
from tests.tasks.layer_site import FakeSite

ROOT = Path(__file__).parents[1]
PLANTED = "planted-2b7e-"
LAYERS = (
    "cert_manager", "metallb", "rancher", "rancher_backup", "storage", "security", "registry", "observability",
    "gpu_operator", "suse_ai", "clearml",
)  # fmt: skip
shell = CliRunner()


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("STACKWRIGHT_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("STACKWRIGHT_SITES", str(tmp_path))


def write_site(tmp_path: Path, **more) -> None:
    """The lab's site file, cut down to hosts alone."""
    document = yaml.safe_load((ROOT / "deployments/sites/lab.yaml").read_text(encoding="utf-8"))
    document["nodes"], document["tenants"] = document["nodes"][:6], []
    document.pop("backup", None)
    for layer in LAYERS:
        document["layers"][layer] = {"enabled": False}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump({**document, **more}), encoding="utf-8")


def write_references(tmp_path: Path, **blocks) -> Path:
    """A file of references; each value lies in a file of mode 0600."""
    rows: dict[str, dict[str, str]] = {}
    for name, fields in blocks.items():
        kind, _, rest = name.partition("__")
        row = rows.setdefault(f"{kind.replace('_', '-')}/{rest.replace('_', '-')}", {})
        for field, value in fields.items():
            path = tmp_path / f"{name}.{field}"
            path.touch(mode=0o600)
            path.write_text(value, encoding="utf-8")
            row[field] = f"file:{path}"
    file = tmp_path / "blocks.yaml"
    file.write_text(yaml.safe_dump({"blocks": rows}), encoding="utf-8")
    return file


BASE = {
    "ssh_key__ssh": {"private_key": f"{PLANTED}key"},
    "registration__suse_registration": {"code": f"{PLANTED}code"},
    "registry__lab_registry": {"username": "lab", "password": f"{PLANTED}password"},
}


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("--yes",), (), ("--yes", "--plan", "0123456789ab")], ids=["unseen", "no hash", "both"]
)
def test_only_an_approved_hash_is_applied_without_the_server(words, tmp_path, monkeypatch):
    """There is no form, and nothing is applied unseen: wrong usage, before anything is started."""
    monkeypatch.setattr("stackwright.without_server.launch", lambda folder: pytest.fail("it was started"))
    done = shell.invoke(cli.app, ["apply", "lab", "--without-server", str(tmp_path / "x.yaml"), *words])
    assert done.exit_code == cli.EXIT["refused"] and "--plan" in done.output


def test_an_upgrade_without_the_server_needs_its_hash_too(tmp_path):
    done = shell.invoke(cli.app, ["upgrade", "apply", "lab", "--ask", "--without-server", str(tmp_path / "x.yaml")])
    assert done.exit_code == cli.EXIT["refused"] and "--plan" in done.output


def test_no_server_is_ever_left_out_by_itself(monkeypatch):
    """Without the switch a run asks the server, and ends with `no server` where none is set."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from stackwright.domain.errors import ApiUnavailableError

    monkeypatch.setattr("stackwright.without_server.launch", lambda folder: pytest.fail("it was started"))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        done = shell.invoke(cli.app, ["plan", "lab"])
    assert isinstance(done.exception, ApiUnavailableError) and cli._exit_code(done.exception) == cli.EXIT["no server"]


def test_every_reference_that_cannot_be_opened_is_named_at_once(tmp_path, monkeypatch):
    write_site(tmp_path)
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    file = tmp_path / "blocks.yaml"
    rows = {
        "ssh-key/ssh": {"private_key": "file:/nowhere/key"},
        "registration/suse-registration": {"code": "env:NOT_SET_HERE"},
        "registry/lab-registry": {"username": "lab", "password": f"{PLANTED}typed"},
    }
    file.write_text(yaml.safe_dump({"blocks": rows}), encoding="utf-8")
    with pytest.raises(ProblemsError) as caught:
        open_source("lab", file)
    said = str(caught.value)
    assert "/nowhere/key" in said and "NOT_SET_HERE" in said and "lab-registry" in said and PLANTED not in said


def test_every_block_that_the_site_needs_and_the_file_lacks_is_named_at_once(tmp_path):
    write_site(tmp_path)
    file = write_references(tmp_path, ssh_key__ssh=BASE["ssh_key__ssh"])
    with pytest.raises(ProblemsError) as caught:
        open_source("lab", file)
    said = str(caught.value)
    assert "registration/suse-registration" in said and "registry/lab-registry" in said and "ssh-key" not in said
    assert cli._exit_code(caught.value) == cli.EXIT["refused"]


# --- where secrets come from -----------------------------------------------------------------------------------------


def test_what_a_deploy_would_make_is_said(tmp_path):
    """A block that nobody gives is made anew by a deploy: the operator is told before the plan."""
    write_site(tmp_path)
    source = open_source("lab", write_references(tmp_path, **BASE))
    assert source.secrets.read("registration", "suse-registration")["code"].get_secret_value() == f"{PLANTED}code"
    assert any("cluster-access/cluster-access, secret-text/rke2-token" in line for line in source.said)


def test_what_an_earlier_run_wrote_goes_before_the_file(tmp_path):
    write_site(tmp_path)
    file = write_references(tmp_path, **BASE, secret_text__rke2_token={"value": "older"})
    first = open_source("lab", file).secrets
    first.write("secret-text", "rke2-token", {"value": SecretStr(f"{PLANTED}newer")})
    again = open_source("lab", file)
    assert again.secrets.read("secret-text", "rke2-token")["value"].get_secret_value() == f"{PLANTED}newer"
    assert any("kept by earlier runs" in line and "rke2-token" in line for line in again.said)
    assert stat.S_IMODE(kept_folder("lab").stat().st_mode) == 0o700


def test_the_sealed_export_stands_behind_the_file(tmp_path):
    """With the bundles' key, what the nightly export holds need not be given; what is given goes before it."""
    identity = new_identity()
    keys = {"s3__backup_store": {"access_key": ACCESS, "secret_key": SECRET},
            "secret_text__backup_key": {"value": identity.get_secret_value()}}  # fmt: skip
    with running_store(tmp_path / "store") as server:
        backup = server.settings().model_dump(mode="json")
        write_site(tmp_path, backup=backup)
        blocks = {
            ("s3", "backup-store"): {"access_key": ACCESS, "secret_key": SECRET},
            ("secret-text", "backup-key"): {"value": identity.get_secret_value()},
        }
        (tmp_path / "fake").mkdir()
        fake = FakeSite(tmp_path / "fake", blocks, backup=server.settings().model_dump(), site="lab")
        rows = [
            {"kind": "registration", "name": "suse-registration", "fields": {"code": f"{PLANTED}exported"}},
            {"kind": "registry", "name": "lab-registry", "fields": {"username": "lab", "password": "exported"}},
            {"kind": "secret-text", "name": "rke2-token", "fields": {"value": f"{PLANTED}token"}},
        ]
        file = write_references(tmp_path, ssh_key__ssh=BASE["ssh_key__ssh"], **keys,
                                registry__lab_registry=BASE["registry__lab_registry"])  # fmt: skip
        with pytest.raises(StackError, match="no export"):
            open_source("lab", file)
        export(fake.site, "blocks", io.BytesIO(json.dumps({"blocks": rows}).encode()))
        source = open_source("lab", file)
    read = source.secrets.read
    assert read("registration", "suse-registration")["code"].get_secret_value() == f"{PLANTED}exported"
    assert read("secret-text", "rke2-token")["value"].get_secret_value() == f"{PLANTED}token"
    assert read("registry", "lab-registry")["password"].get_secret_value() == f"{PLANTED}password"
    assert any("3 block(s) of the sealed export" in line for line in source.said)


# --- records that are made here --------------------------------------------------------------------------------------


def recorder(**more) -> Recorder:
    asked = {"site": "lab", "plan_hash": "0123456789ab", **more}
    return Recorder("restore-cluster", "lab", asked, lambda: [f"{PLANTED}key"])


def test_a_restore_is_recorded_with_its_lines_pages_and_who_approved_it():
    one = recorder()
    with recorded(one):
        one.tell(f"fencing {PLANTED}key")
        one.page("plan-lab", "plan", f"# {PLANTED}key")
    (path,) = spool.waiting()
    record = spool.read(path)
    assert record.end["name"] == "Completed" and record.head["flow"] == "restore-cluster"
    assert {"site:lab", "without-server", "action:restore"} <= set(record.head["tags"])
    assert [page["key"] for page in record.artifacts] == ["approval-lab", "plan-lab"]
    assert PLANTED not in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 and list(path.parent.iterdir()) == [path]


def test_a_refused_restore_is_recorded_as_stopped():
    with pytest.raises(ConflictError), recorded(recorder()):
        raise ConflictError("the cluster works", where="lab")
    record = spool.read(spool.waiting()[0])
    assert record.end["type"] == "FAILED" and "the cluster works" in record.end["message"]


def _no_room(*given: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_where_no_record_can_be_begun_nothing_is_done(monkeypatch):
    """It is refused before anything happened, with what to do; and what was half written does not stay."""
    monkeypatch.setattr("stackwright.recorder.os.fsync", _no_room)
    with pytest.raises(ToolError) as refused, recorded(recorder()):
        pytest.fail("it was begun")
    assert "No space left" in str(refused.value)
    assert "Nothing was done" in str(refused.value)
    assert list(spool.spool().iterdir()) == []


def test_a_disk_that_is_full_at_the_end_does_not_make_a_good_restore_a_failed_one(monkeypatch, caplog):
    """Its record says so little as that it was killed: that is what lies there since the beginning."""
    one = recorder()
    with recorded(one):
        monkeypatch.setattr("stackwright.spool.write_whole", _no_room)
    assert one.kept is None and "No space left" in caplog.text
    (path,) = take_over()
    assert spool.read(path).end["type"] == "CRASHED"


CHILD = """
import os, signal
from stackwright.recorder import Recorder, recorded
with recorded(Recorder("restore-cluster", "lab", {"site": "lab"}, list)):
    print("begun", flush=True)
    signal.pause()
"""


def test_a_restore_that_is_killed_has_a_record_all_the_same():
    """While it is at work nobody takes its record; after SIGKILL the next command finds it, once."""
    argv = [sys.executable, "-c", CHILD]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "begun\n"
        assert take_over() == [] and spool.waiting() == []
        child.send_signal(signal.SIGKILL)
    (path,) = take_over()
    record = spool.read(path)
    assert record.end["type"] == "CRASHED" and "killed" in record.end["message"]
    assert take_over() == [] and not list(path.parent.glob(f"*{PART}"))


def test_a_lock_is_held_by_one_process_alone(tmp_path):
    with spool.locked(tmp_path / "lock"), pytest.raises(ConflictError), spool.locked(tmp_path / "lock"):
        pytest.fail("two have it")
    with spool.locked(tmp_path / "lock"):
        pass


def test_a_commands_own_server_finds_the_modules_that_the_command_found(monkeypatch, tmp_path):
    """In the image they are on PYTHONPATH alone; no other variable of the command goes along."""
    seen: dict[str, str] = {}

    def popen(argv, *, env, **_):
        seen.update(env)
        return object()

    monkeypatch.setattr("stackwright.without_server.subprocess.Popen", popen)
    monkeypatch.setenv("PYTHONPATH", "/opt/planted/lib")
    monkeypatch.setenv("PLANTED_TOKEN", PLANTED)
    launch(tmp_path)
    assert seen["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/opt/planted/lib"] and "PLANTED_TOKEN" not in seen
    monkeypatch.delenv("PYTHONPATH")
    launch(tmp_path)
    assert seen["PYTHONPATH"] == str(ROOT)


def test_a_state_folder_that_cannot_be_made_says_what_to_name(monkeypatch, tmp_path):
    """As in a container with a read-only root and no volume."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("STACKWRIGHT_STATE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match=r"file/stackwright/lab.*STACKWRIGHT_STATE"):
        state_folder("lab")
