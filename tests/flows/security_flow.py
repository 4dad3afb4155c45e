"""The flow promote-security in a process of its own: `python -m tests.flows.security_flow FOLDER`, on the stand-in.

It runs from the first day to the last, and says in JSON how each run ended and in which modes the groups were then.
Some runs wait for the form: whoever started this process answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

from flows import promote_security as module
from stackwright.domain import releases
from stackwright.domain.security_life import Ask
from tasks import approval
from tasks.security_life import plan_now
from tasks.work_platform import look_admission
from tests.fakes.shells import LocalShells
from tests.tasks.security_site import SecuritySite


def main(folder: Path) -> None:
    releases.SECRET_DIGEST_ROUNDS = 1
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    fake = SecuritySite(folder)
    # Before now, so that a lease that it dates is not one of the future.
    fake.site = replace(fake.site, spec=fake.spec.model_copy(update={"backup": None}), shells=LocalShells(folder))
    module.load_site = lambda name: (fake.site.spec, fake.site)
    told = []

    def run(**given):
        end = asyncio.run(module.promote_security("lab", return_state=True, **given))
        modes = {space: sorted(set(fake.modes(space).values())) for space in ("shop", "red")}
        told.append({"type": end.type.value, "name": end.name, "message": end.message, "modes": modes})

    run(unattended=True)
    fake.days(7)
    run(unattended=True)
    run(dry_run=True, namespaces=["red"], unattended=True)
    fake.days(4)
    fake.groups.talk("external", "nv.web.shop", 22)
    run(unattended=True)
    run()  # asks; to be carried out
    run()  # asks; to be refused
    approval.WAIT_S = 2
    run()  # asks; nobody answers
    acts = iter([lambda: fake.groups.talk("nv.web.shop", "nv.train.red", 8080)])
    wait = fake.clock.wait

    def wait_and_act(seconds):
        wait(seconds)
        next(acts, lambda: None)()

    fake.clock.wait = wait_and_act
    run(plan_hash=module_plan(fake))  # hurts known-good work, and steps back
    fake.clock.wait = wait
    fake.admission._add(BAD)
    refusals = [refuse(fake)]
    fake.days(4)
    run(admission=True, plan_hash=module_plan(fake, Ask(admission=True)))
    refusals.append(refuse(fake))
    sys.stdout.write(
        "\n" + json.dumps({"runs": told, "refusals": refusals, "sessions": len(fake.product.sessions)}) + "\n"
    )


BAD = {
    "cfg_type": "user_created", "rule_type": "deny", "criteria": [
        {"name": "image", "op": "containsAny", "value": "registry.bad.example/any:1"}],
}  # fmt: skip


def refuse(fake) -> list[str]:
    """Return what the validation's check on admission control says now: its verdict and its words."""
    (found,) = [one for one in look_admission(fake.site) if one.id == "platform/image-refused"]
    return [found.verdict, found.seen]


def module_plan(fake, ask: Ask | None = None) -> str:
    """Return the hash of the plan of now."""
    return plan_now(fake.site, ask or Ask()).hash


if __name__ == "__main__":
    main(Path(sys.argv[1]))
