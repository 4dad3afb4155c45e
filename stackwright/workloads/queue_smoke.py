"""The smallest job: says where it ran, as one JSON line. Sent as text to a new tenant's queue; needs no package."""

from __future__ import annotations

import json
import platform
import sys


def main() -> None:
    """Print the result."""
    result = {"smoke": "ok", "python": platform.python_version(), "machine": platform.machine()}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
