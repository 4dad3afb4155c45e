"""Where and by whom a command is run: for the record of a run that no server has seen."""

from __future__ import annotations

import getpass
import os
import socket


def this_place() -> dict[str, str]:
    """Return the host, and who the user is: also who became root by sudo."""
    user = getpass.getuser()
    before = os.environ.get("SUDO_USER", "")
    return {"host": socket.gethostname(), "user": f"{before} as {user}" if before and before != user else user}
