"""A controller process of its own for the tests: does what it is told line by line, or dies at a chosen write.

`python -m tests.tasks.lease_child FOLDER KUBECONFIG RUN DIE_AT`: before write number DIE_AT (server and cluster counted
together) the process ends itself with SIGKILL, as the kernel or an operator would. 0: never.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from stackwright.clients.kube import Kube
from stackwright.clients.site import SystemClock
from stackwright.domain.errors import StackError
from tasks import lease_places
from tasks.lease import Lease, this_process
from tests.tasks.lease_site import WHOLE, change_node, make_site


def die_at(number: int) -> None:
    """Count the writes to both places; end the process before that one."""
    written = 0

    def counted(look):
        def look_and_count(*args):
            answer = look(*args)
            return answer and replace(answer, swap=lambda *more: swap(answer, *more))

        return look_and_count

    def swap(answer, *args):
        nonlocal written
        written += 1
        if written == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer.swap(*args)

    for name in ("_look_at_server", "_look_at_cluster"):
        setattr(lease_places, name, counted(getattr(lease_places, name)))


def main(folder: str, kubeconfig: str, run: str, number: str) -> None:
    site = make_site(Path(folder), Kube(Path(kubeconfig)), clock=SystemClock())
    lease = Lease(site, this_process(run, f"http://ui/runs/{run}"), check_every_s=0)
    die_at(int(number))
    acts = {
        "take": lambda: lease.take(WHOLE, WHOLE.hash),
        "check": lease.check,
        "renew": lease.renew,
        "release": lambda: lease.release(finished=True),
        "change": lambda: change_node(site, "w1", lease),
    }
    for line in sys.stdin:
        try:
            acts[line.strip()]()
            answer = {"ok": True, "number": lease.number}
        except StackError as error:
            answer = {"ok": False, "error": type(error).__name__, "text": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
