"""Calling the rke2 program in scripts: where it lies differs from host to host, and it is often not on the PATH."""

from __future__ import annotations

PLACES = ("/usr/local", "/opt/rke2", "/usr")

RKE2 = f"""\
sw_rke2() {{
for sw_p in {" ".join(PLACES)}; do if [ -x "$sw_p/bin/rke2" ]; then "$sw_p/bin/rke2" "$@"; return; fi; done
echo "rke2 is not installed"; return 127
}}
"""
"""Shell lines that define `sw_rke2`: the program, wherever install.sh put it. Its exit code is the function's."""


def with_program(body: str) -> str:
    """Return shell lines that may call `sw_rke2`."""
    return RKE2 + body
