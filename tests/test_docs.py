"""What the documents name exists: commands, targets, links, paths, variables. What must not be named is not."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from stackwright import cli

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKE = re.compile(r"(?<![\w.-])make ([a-z][a-z-]*)")
STACKWRIGHT = re.compile(r"(?<![\w./-])stackwright ((?:--)?[a-z][^`\n#|;]*)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
ROOMS = ("flows", "tasks", "blocks", "stackwright", "tests", "docs", "deployments", "benchmarks")
PATH = re.compile(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`")
VARIABLE = re.compile(r"STACKWRIGHT_[A-Z]+(?:_[A-Z]+)*")
by_name = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def spoken(text: str) -> str:
    """Return the text's code: fenced console blocks, then what stands between backticks, each on a line."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", text, re.S | re.M)
    rest = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


def targets() -> set[str]:
    """Return the Makefile's targets."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@pytest.fixture(scope="module")
def commands() -> Any:
    """The command line with the lab's part, as `stackwright` puts it together."""
    before = sys.argv
    sys.argv = ["stackwright", "--help"]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    assert ended.value.code == 0
    return typer.main.get_command(cli.app)


def complaint(words: list[str], group: Any) -> str | None:
    """Return what is wrong with a command line that a document shows, or None."""
    here = group
    for word in words:
        if word.startswith("--"):
            known = {name for option in here.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
            if word.split("=")[0] not in known:
                return f"no option {word}"
        elif hasattr(here, "commands"):
            if word not in here.commands:
                return f"no command {word}"
            here = here.commands[word]
    return None


def shown(text: str) -> Iterator[list[str]]:
    """Return the words of every `stackwright ...` that a document shows."""
    for line in STACKWRIGHT.findall(spoken(text)):
        yield line.split()


# --- commands --------------------------------------------------------------------------------------------------------


@by_name
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    """`make X` in a console block or between backticks is a target of the Makefile."""
    assert set(MAKE.findall(spoken(path.read_text(encoding="utf-8")))) <= targets()


@by_name
def test_every_command_and_option_that_is_named_exists(path: Path, commands: Any) -> None:
    """`stackwright X --y` in a console block or between backticks can be typed as it stands."""
    wrong = [(words, complaint(words, commands)) for words in shown(path.read_text(encoding="utf-8"))]
    assert not [pair for pair in wrong if pair[1]]


def test_every_target_is_in_the_help() -> None:
    """`make help` lists each target, and none of them is taken for a file."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    assert set(phony.split()) == targets()
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M)) == targets()


def test_the_readers_see_what_is_wrong(commands: Any) -> None:
    """An invented target, command, option and file would be found; prose would not be taken for a command."""
    block = "$ stackwright lab explode   # no\n$ stackwright apply x --now"
    text = f"`make nonsense` and\n```console\n{block}\n```\nmake sure\n"
    assert set(MAKE.findall(spoken(text))) == {"nonsense"}
    assert [complaint(words, commands) for words in shown(text)] == ["no command explode", "no option --now"]
    assert complaint(["block", "set", "ssh-key", "ssh", "private_key=@x"], commands) is None
    assert list(broken_links(ROOT / "README.md", "[a](docs/no.md) [b](README.md#x) [c](#here)")) == ["docs/no.md"]
    assert forbidden("this Session was", FORBIDDEN) == ["session"]


# --- links and names -------------------------------------------------------------------------------------------------


def broken_links(path: Path, text: str) -> Iterator[str]:
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        if not (path.parent / target.split("#")[0]).exists():
            yield target


@by_name
def test_relative_links_lead_somewhere(path: Path) -> None:
    """Pages and pictures that a document points to are in the tree."""
    assert not list(broken_links(path, path.read_text(encoding="utf-8")))


@by_name
def test_paths_that_are_named_exist(path: Path) -> None:
    """A file or folder of ours between backticks is in the tree."""
    named = {name for name in PATH.findall(path.read_text(encoding="utf-8"))}
    assert not sorted(name for name in named if not (ROOT / name).exists())


def test_variables_that_are_named_are_read_somewhere() -> None:
    """A STACKWRIGHT_ variable of a document is one that the code or its tests ask for."""
    code = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if path != Path(__file__)]
    known = {name for path in code for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    assert {name for path in DOCS for name in VARIABLE.findall(path.read_text(encoding="utf-8"))} <= known


def test_the_catalogue_points_into_the_tree() -> None:
    """prefect.yaml: each entrypoint's file and each schedule's parameter exist."""
    entries: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    for entry in entries:
        path, _, function = entry["entrypoint"].partition(":")
        source = (ROOT / path).read_text(encoding="utf-8")
        (parameters,) = re.findall(rf"def {function}\((.*?)\)", source, re.S)
        for schedule in entry.get("schedules", ()):
            assert all(f"{name}:" in parameters for name in schedule.get("parameters", ())), entry["name"]


# --- what must not be named ------------------------------------------------------------------------------------------

# Built from pieces, so that this file holds none of them.
FORBIDDEN = [
    "chat" + "gpt", "cop" + "ilot", "cla" + "ude", "open" + "ai codex", "gem" + "ini cli", "anth" + "ropic",
    "a" + "i assistant", "ses" + "sion", "ses" + "sions", "sub" + "agent", "sub" + "agents", "../" + "shared",
    "/wo" + "rk/", "pypi" + ".org", "python" + "hosted", "np" + "mjs", "proxy." + "golang.org", "crates" + ".io",
    "deb." + "debian.org", "dl-cdn." + "alpinelinux",
]  # fmt: skip


def forbidden(text: str, words: list[str]) -> list[str]:
    """Return the words that a text holds, whatever their case. ClearML's TCP connections have that name: they may."""
    low = text.lower().replace("tcp ses" + "sion", "")
    return [word for word in words if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", low)]


@pytest.mark.parametrize(
    "path",
    [
        *DOCS,
        *(ROOT / name for name in ("prefect.yaml", "prefect.toml", "Makefile", "pyproject.toml", "requirements.lock")),
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_is_named_that_has_no_place_here(path: Path) -> None:
    """No tools of whoever wrote it, no folders outside the project, no host of a package registry."""
    assert not forbidden(path.read_text(encoding="utf-8"), FORBIDDEN)
