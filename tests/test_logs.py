"""Lines of JSON: whole, of many processes in one file, without a secret, and only with what is named."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from stackwright.clients.secrets import note_opened
from stackwright.lab.rig import ROOT
from stackwright.logs import JsonFormatter, JsonHandler

PLANTED = "pl4nted-s3cret-value"
KEY_LINE = "MIGTAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBHkwdwIBAQQg1234"
CONFIG = ROOT / "deployments" / "logging.yaml"


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("tasks.nodes", logging.INFO, "x.py", 1, message, args, None)
    vars(made).update(extra)
    return made


def test_a_line_is_one_object_with_what_is_known() -> None:
    line = JsonFormatter().format(record("two\nlines of %s", "gpu1", node="gpu1", duration_s=1.5, outcome="ok"))
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["node"], found["duration_s"]) == ("two\nlines of gpu1", "gpu1", 1.5)
    assert found["level"] == "INFO" and found["time"].endswith("+00:00")


def test_nothing_else_that_hangs_on_a_record_is_written() -> None:
    assert "hidden" not in JsonFormatter().format(record("x", response="hidden", headers={"a": "hidden"}))


def test_an_opened_secret_is_replaced_in_message_and_traceback() -> None:
    """Even where a library's error quotes it; a key also line by line."""
    note_opened({"password": SecretStr(PLANTED), "private_key": SecretStr(f"-----BEGIN-----\n{KEY_LINE}\n-----END")})
    try:
        raise ValueError(f"bad login {PLANTED} with {KEY_LINE}")
    except ValueError:
        made = record("refused: %s", f"https://x:{PLANTED}@host", exc_info=sys.exc_info())
    line = JsonFormatter().format(made)
    assert PLANTED not in line and KEY_LINE not in line and line.count("***") >= 3
    assert json.loads(line)["error"] == "ValueError"


def test_lines_of_many_processes_do_not_mix(tmp_path: Path) -> None:
    """Two processes at once, lines far longer than a pipe's atomic write; the file is moved away in between."""
    path = tmp_path / "all.jsonl"
    script = (
        "import logging, sys\nfrom stackwright.logs import JsonHandler\n"
        "log = logging.getLogger('x'); log.addHandler(JsonHandler()); log.setLevel(10)\n"
        "for n in range(200): log.info('%s %s %s', sys.argv[1], n, sys.argv[1] * 20000)\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "STACKWRIGHT_LOG_FILE": str(path),
        "HOME": str(tmp_path),
    }
    running = [subprocess.Popen([sys.executable, "-c", script, word], env=environment) for word in "ab"]
    assert [one.wait(120) for one in running] == [0] * 2
    found = [json.loads(line)["message"].split() for line in path.read_text().splitlines()]
    assert sorted((word, int(number)) for word, number, _ in found) == [(w, n) for w in "ab" for n in range(200)]
    assert all(text == word * 20000 for word, _, text in found)
    path.rename(tmp_path / "old.jsonl")
    handler = JsonHandler()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STACKWRIGHT_LOG_FILE", str(path))
        handler.emit(record("after"))
    assert json.loads(path.read_text())["message"] == "after"


def test_without_a_file_they_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    JsonHandler().emit(record("here"))
    assert json.loads(capsys.readouterr().err)["message"] == "here"


def test_a_process_with_our_file_writes_json_alone(tmp_path: Path) -> None:
    """Prefect reads the file itself: its own loggers, ours and the root write the same form."""
    script = (
        "import logging\nfrom prefect.logging.configuration import setup_logging\nsetup_logging()\n"
        "for name in ('prefect.flow_runs', 'stackwright.lease', 'tasks.x', 'urllib3'):\n"
        "    logging.getLogger(name).warning('hello')\n"
        "logging.getLogger('tasks.x').info('info')\nlogging.getLogger('urllib3').info('not this')\n"
        "logging.getLogger('stackwright.trips').debug('trip')\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path),
        "PREFECT_LOGGING_SETTINGS_PATH": str(CONFIG), "PREFECT_LOGGING_EXTRA_LOGGERS": "stackwright,tasks",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True,
                          cwd=tmp_path)  # fmt: skip
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["logger"], line["message"]) for line in found] == [
        ("prefect.flow_runs", "hello"), ("stackwright.lease", "hello"), ("tasks.x", "hello"), ("urllib3", "hello"),
        ("tasks.x", "info"), ("stackwright.trips", "trip"),
    ]  # fmt: skip
