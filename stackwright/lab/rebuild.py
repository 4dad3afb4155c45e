"""A machine that dies for good and is built anew: another disk, machine id and host key at the same address.

What the cluster still remembers of the old one stays, as it does in life.
"""

from __future__ import annotations

import secrets
import shutil

from stackwright.lab.nodes import LabNodes
from stackwright.lab.sshd import ensure_host_key

DISKS = ("root", "fresh", "usr", "work", "live", "standins")
"""What of a machine's folder is on its disk, or made from it at each start."""


async def rebuild(nodes: LabNodes, name: str) -> str:
    """Replace a machine by a blank one, switched on, and return the public host key of the new one."""
    machine = nodes[name]
    await nodes.power_off(name)
    for folder in DISKS:
        shutil.rmtree(machine.folder / folder, ignore_errors=True)
    for key in ("host_key", "host_key.pub"):
        (machine.folder / key).unlink(missing_ok=True)
    machine.create((nodes.folder / "authorized_key").read_text())
    machine.write("/etc/machine-id", secrets.token_hex(16) + "\n")
    ensure_host_key(machine.folder)
    await nodes.power_on(name)
    return nodes.host_keys[name]
