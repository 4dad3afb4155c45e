"""Scripts as values: what is sent, run for real by dash and bash, and what comes back."""

from __future__ import annotations

import shutil
import stat
import subprocess

import pytest
from pydantic import SecretStr

from stackwright.domain.shell import (
    ABSENT,
    AnswerError,
    Batch,
    Command,
    change_script,
    file_section,
    parse_change,
    parse_read,
    put_file,
    put_secret,
    read_script,
    run_section,
    shell_section,
    value_section,
)

SHELLS = [
    shell for shell in (["dash", "-s"], ["bash", "--posix", "-s"], ["busybox", "sh", "-s"]) if shutil.which(shell[0])
]


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def run(request):
    def go(script):
        return subprocess.run(request.param, input=script, capture_output=True, text=True, check=False)

    return go


def send(run, folder, *commands, fence=1):
    script = change_script(Batch(commands, fence, "run-1"), state=str(folder / "state"), scratch=str(folder))
    done = run(script)
    assert done.stderr == ""
    return done, parse_change(
        done.stdout, (secret.get_secret_value() for c in commands for secret in c.secrets.values())
    )


def test_reading_keeps_output_exit_code_and_absence_apart(run, tmp_path):
    """Unknown is not absent: a missing file, an unreadable one and an empty one are three answers."""
    (tmp_path / "empty").write_text("")
    (tmp_path / "text").write_text("a\nb")
    script = read_script(
        run_section("words", "printf", "%s|", "a b", "c'd")
        + file_section("text", str(tmp_path / "text"))
        + file_section("empty", str(tmp_path / "empty"))
        + file_section("folder", str(tmp_path))
        + file_section("none", str(tmp_path / "none"))
        + value_section("value", str(tmp_path / "text"))
        + shell_section("rest", "cat; exit 3")
    )
    seen = parse_read(run(script).stdout)
    assert (seen["words"].rc, seen["words"].out) == (0, "a b|c'd|")
    assert (seen["text"].out, seen["value"].out, seen["empty"].out) == ("a\nb", "a", "")
    assert seen["none"].rc == ABSENT and seen["none"].absent
    assert seen["folder"].rc not in (0, ABSENT)
    assert seen["rest"].rc == 3


def test_an_answer_that_breaks_off_is_no_answer():
    done = subprocess.run(
        ["sh", "-s"], input=read_script(run_section("a", "echo", "x")), capture_output=True, text=True, check=True
    )
    for end in range(20, len(done.stdout) - 2, 7):
        with pytest.raises(AnswerError) as caught:
            parse_read(done.stdout[:end])
        assert caught.value.__cause__ is None and "HmEK" not in str(caught.value)  # what was read may be a secret
    with pytest.raises(AnswerError):
        parse_read("Last login: today\n")


def test_text_of_a_login_shell_is_passed_over(run):
    seen = parse_read("Welcome!\n" + run(read_script(run_section("a", "echo", "x"))).stdout)
    assert seen["a"].out == "x\n"


def test_a_step_ends_at_its_first_failing_command(run, tmp_path):
    done, answer = send(
        run, tmp_path, Command("a/b/c", "f", "echo one\nfalse\necho two"), Command("a/b/d", "f", "echo x")
    )
    assert [(outcome.id, outcome.rc, outcome.out) for outcome in answer.outcomes] == [("a/b/c", 1, "one\n")]
    assert done.returncode == 1


def test_files_are_written_whole_with_their_mode(run, tmp_path):
    """Content with any byte goes through; the mode is there before the content; no other file is left."""
    target = tmp_path / "etc" / "it's.conf"
    target.parent.mkdir()
    text = "a'b\"c$d`e\\f\n\ttab\nü\n"
    send(run, tmp_path, Command("a/b/c", "f", put_file(str(target), text, 0o640)))
    assert target.read_text() == text
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [path.name for path in target.parent.iterdir()] == ["it's.conf"]


def test_a_secret_reaches_its_file_and_no_environment(run, tmp_path):
    """Programs that a step starts do not inherit it."""
    secret = SecretStr("cGxhbnRlZA==")  # base64 of "planted"
    body = put_secret(str(tmp_path / "token"), "content") + "env"
    _, answer = send(run, tmp_path, Command("a/b/c", "f", body, {"content": secret}))
    assert (tmp_path / "token").read_text() == "planted"
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    assert "cGxhbnRlZA" not in answer.outcomes[0].out and "***" not in answer.outcomes[0].out


def test_the_journal_says_what_began_and_how_it_ended(run, tmp_path):
    send(run, tmp_path, Command("a/b/c", "f1", "true"), Command("a/b/d", "f2", "exit 4"))
    assert (tmp_path / "state" / "journal").read_text() == (
        "begin a/b/c f1 run-1\nend a/b/c 0\nbegin a/b/d f2 run-1\nend a/b/d 4\n"
    )
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize(("stored", "ours", "refused"), [(None, 1, False), (3, 3, False), (3, 4, False), (4, 3, True)])
def test_the_fence_only_grows(run, tmp_path, stored, ours, refused):
    if stored is not None:
        send(run, tmp_path, fence=stored)
    done, answer = send(run, tmp_path, Command("a/b/c", "f", f"touch {tmp_path}/ran"), fence=ours)
    assert (answer.fenced_by is not None) is refused is not (tmp_path / "ran").exists()
    assert (tmp_path / "state" / "fence").read_text().strip() == str(max(stored or 0, ours))
    assert (done.returncode == 86) is refused


def test_a_fence_that_cannot_be_read_refuses(run, tmp_path):
    """An unreadable number is not number zero."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "fence").write_text("")
    done, answer = send(run, tmp_path, Command("a/b/c", "f", f"touch {tmp_path}/ran"))
    assert answer.broken == "fence" and done.returncode == 88
    assert not (tmp_path / "ran").exists()


def test_a_long_output_keeps_its_end(run, tmp_path):
    _, answer = send(run, tmp_path, Command("a/b/c", "f", "seq 1 5000"))
    assert answer.outcomes[0].out.endswith("4999\n5000\n") and len(answer.outcomes[0].out) <= 6000


def test_names_that_could_break_the_script_are_refused():
    for name in ("a b", "a\nb", "a;b", "$(a)", ""):
        with pytest.raises(ValueError, match="cannot stand"):
            change_script(Batch((Command(name, "f", ":"),), 1, "r"))
