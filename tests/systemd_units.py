"""Reading our systemd units, and running what they run as plain processes in folders of a test's own."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stackwright.lab.rig import ROOT

FOLDER = ROOT / "deployments" / "systemd"
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))


def read_unit(name: str) -> dict[str, list[str]]:
    """Return every directive of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        key, mark, value = line.partition("=")
        if mark and not line.startswith(("#", "[")):
            found.setdefault(key, []).append(value)
    return found


@dataclass(frozen=True)
class Machine:
    """A machine's paths, moved into a folder: the checkout for /opt/stackwright, ports of the test's own."""

    folder: Path
    ports: Mapping[str, int]

    def moved(self, text: str) -> str:
        """Return a text of a unit or of its environment with this machine's paths and ports."""
        for name, place in (
            ("/opt/stackwright", str(ROOT)),
            ("/var/lib/stackwright", str(self.folder / "state")),
            ("/etc/stackwright", str(self.folder / "etc")),
            ("%H", "testhost"),
            *((port, str(own)) for port, own in self.ports.items()),
        ):
            text = text.replace(name, place)
        return text

    def environment(self, unit: str, secrets: Mapping[str, str]) -> dict[str, str]:
        """Return what a unit's environment files set, as an operator has filled them in."""
        found = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        for path in read_unit(unit)["EnvironmentFile"]:
            text = (FOLDER / f"{Path(path).name}.example").read_text(encoding="utf-8")
            for line in self.moved(text).splitlines():
                name, mark, value = line.partition("=")
                if mark and not line.startswith("#"):
                    found[name] = value.replace("CHANGE-ME", secrets[Path(path).name])
        return found

    def argv(self, command: str) -> list[str]:
        """Return a command of a unit for this machine."""
        return shlex.split(self.moved(command.lstrip("-")))

    def run(self, unit: str, directive: str, secrets: Mapping[str, str]) -> Iterable[subprocess.CompletedProcess[str]]:
        """Run a unit's commands of one directive, one after the other."""
        for command in read_unit(unit).get(directive, []):
            yield subprocess.run(
                self.argv(command), cwd=ROOT, env=self.environment(unit, secrets), capture_output=True, text=True,
                timeout=300, check=False,
            )  # fmt: skip

    def start(self, unit: str, secrets: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a unit's main process."""
        (command,) = read_unit(unit)["ExecStart"]
        with log.open("ab") as out:
            return subprocess.Popen(
                # As systemd does: a process of a shell in the background would not hear SIGINT.
                ["env", "--default-signal=INT", *self.argv(command)], cwd=ROOT,
                env=self.environment(unit, secrets), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
