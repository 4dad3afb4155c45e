"""The image's health check: `python -m stackwright.health` asks what this container serves, and says what it found.

STACKWRIGHT_HEALTH_URL names the address; else it is that of a worker started with --with-healthcheck. Standard library
alone: it runs every half minute, and must not load Prefect for that.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

DEFAULT = "http://127.0.0.1:8080/health"
LIMIT_S = 8.0


def ask(url: str) -> tuple[bool, str]:
    """Return whether the address answers with 200, and what was seen."""
    if not url.startswith(("http://", "https://")):
        return False, f"{url}: not an address of HTTP"
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:  # noqa: S310 - only HTTP gets here
            return answer.status == 200, f"{url}: {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            return False, f"{url}: {error.code}"
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        return False, f"{url}: {error}"


def main() -> int:
    """Exit code 0 when it is healthy."""
    good, seen = ask(os.environ.get("STACKWRIGHT_HEALTH_URL", DEFAULT))
    sys.stdout.write(seen + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
