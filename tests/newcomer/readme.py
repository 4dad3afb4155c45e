"""The commands that a newcomer meets in the README, in its order: in console blocks and between backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

TRY, OWN = "Try it: two commands", "Your own hosts"
LAST = "stackwright plan NAME"
"""With this one the first plan against own hosts is there; what comes after changes the hosts."""
LEFT_OUT = {
    "make test": "the suite is the project's own proof, not a step of the way",
}
_PROGRAMS = ("stackwright", "prefect", "make", "export")
_BLOCK = re.compile(r"^ *```console\n(?P<block>.*?)^ *```|`(?P<inline>(?:stackwright|make) [^`\n]+)`", re.S | re.M)


def section(text: str, title: str) -> str:
    """Return one section of the README. Raises ValueError where there is none of this title."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    if found is None:
        raise ValueError(f"README.md has no section {title!r}")
    return found[1]


def commands(text: str) -> list[str]:
    """Return the commands of a text as they stand there, without their comments."""
    return [line for line in _lines(text) if line.split()[0] in _PROGRAMS]


def _lines(text: str) -> Iterator[str]:
    for hit in _BLOCK.finditer(text):
        if hit["inline"]:
            yield hit["inline"]
            continue
        for line in hit["block"].splitlines():
            if line.strip().startswith("$ "):
                yield re.sub(r"\s+#.*$", "", line.strip()[2:]).strip()


def to_the_demo(readme: str) -> list[str]:
    """Return the commands from the clone to the finished demo."""
    # What stands between backticks there tells of further ways, such as a UI that stays up.
    blocks = "\n".join(re.findall(r"^ *```console\n.*?^ *```", section(readme, TRY), re.S | re.M))
    return [line for line in commands(blocks) if line not in LEFT_OUT]


def to_the_plan(readme: str) -> list[str]:
    """Return the commands from the demo to the first plan. Raises ValueError where the README shows no plan."""
    found = commands(section(readme, OWN))
    if LAST not in found:
        raise ValueError(f"README.md does not show `{LAST}`")
    return list(dict.fromkeys(found[: found.index(LAST) + 1]))


def filled_in(command: str, values: Mapping[str, str]) -> str:
    """Return a command with the README's placeholders exchanged for this machine's values."""
    for placeholder, value in values.items():
        command = command.replace(placeholder, value)
    return command
