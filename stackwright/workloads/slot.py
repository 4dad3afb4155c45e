"""A job that does nothing but hold its place, until it is aborted or its own limit has passed; needs no package.

Several of them show how many jobs of a queue run at once. Sent as text to a queue.
"""

from __future__ import annotations

import sys
import threading

VERSION = "1"
LONGEST_S = 900


def main() -> None:
    """Hold the place; nobody sets the event."""
    sys.stdout.write(f"holding for {LONGEST_S} s at most, version {VERSION}\n")
    sys.stdout.flush()
    threading.Event().wait(LONGEST_S)


if __name__ == "__main__":
    main()
