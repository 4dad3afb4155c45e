"""How large a lab is: which machines it has, and which RKE2 releases its artifact server offers. Kept in lab.json."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from stackwright.domain.errors import ToolError

FILE = "lab.json"
VERSION = "v1.34.10+rke2r1"
MOST_MACHINES = 600
"""More would need more of the loopback interface's addresses than a lab has (see LabNet.address)."""


@dataclass(frozen=True)
class Layout:
    """The machines of a lab by kind, and its RKE2 releases; the first is the one that the site file names.

    `agents` are plain workers without a data disk; `spares` run, but stand not in the site file (see spares.json).
    `bare` writes a site file without layers and tenants: nodes and RKE2 alone.
    """

    servers: int = 3
    workers: int = 3
    gpus: int = 2
    agents: int = 0
    spares: int = 0
    releases: tuple[str, ...] = (VERSION,)
    bare: bool = False

    def __post_init__(self) -> None:
        """Refuse a lab that could not run."""
        counts = (self.servers, self.workers, self.gpus, self.agents, self.spares)
        total = sum(counts)
        if min(counts) < 0 or not 0 < total <= MOST_MACHINES:
            raise ToolError("a lab of this size cannot run", wanted=f"1 to {MOST_MACHINES} machines", seen=str(total))
        wrong = [one for one in self.releases if not re.fullmatch(r"v1\.\d+\.\d+\+rke2r\d+", one)]
        if wrong or not self.releases:
            raise ToolError("not RKE2 releases", wanted="such as v1.34.10+rke2r1", seen=", ".join(wrong) or "none")

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the machines that stand in the site file, in the order of their addresses."""
        kinds = (("srv", self.servers), ("wrk", self.workers), ("gpu", self.gpus), ("agt", self.agents))
        return tuple(f"{prefix}{number}" for prefix, count in kinds for number in range(1, count + 1))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all machines, the spare ones last."""
        return (*self.site_names, *(f"spr{number}" for number in range(1, self.spares + 1)))

    def write(self, folder: Path) -> None:
        """Keep the layout in the lab's folder."""
        (folder / FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def read_layout(folder: Path) -> Layout:
    """Return the layout of the lab in a folder: the default one where none was kept."""
    path = folder / FILE
    if not path.exists():
        return Layout()
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Layout(**{**fields, "releases": tuple(fields["releases"])})
