"""`stackwright restore SITE`: a cluster brought back from a bundle, from a shell with nothing but the site file.

No Prefect server is asked and no block is read: secrets come from files, the environment or a prompt. The same code as
the flow's does the work. Runbook: docs/restore.md.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from stackwright.cli_runs import WithoutServer, say
from stackwright.clients.secrets import Secrets
from stackwright.domain.errors import SecretMissingError
from stackwright.domain.kinds import Kind
from stackwright.domain.plan import Plan
from stackwright.domain.spec import StackSpec

if TYPE_CHECKING:
    from stackwright.clients.kept_secrets import KeptSecrets
    from stackwright.clients.site import Site
    from stackwright.domain.evidence import Evidence
    from stackwright.domain.restore import RestoreFacts
    from stackwright.recorder import Recorder
    from tasks.bundles import OpenBundle

FAILED = 1
out = Console(highlight=False, width=None if sys.stdout.isatty() else 400)

ReadSource = Callable[[str, str], str]


class GivenSecrets:
    """Secrets that were given on this command line, by kind and name. What is written lives as long as the process."""

    def __init__(self, given: Mapping[tuple[Kind, str], Mapping[str, SecretStr]]) -> None:
        self._kept = {key: dict(fields) for key, fields in given.items()}

    def read(self, kind: Kind, name: str) -> Mapping[str, SecretStr] | None:
        """Return what was given, or None."""
        return self._kept.get((kind, name))

    def write(self, kind: Kind, name: str, fields: Mapping[str, SecretStr]) -> None:
        """Keep fields in memory."""
        self._kept[kind, name] = dict(fields)

    def remove(self, kind: Kind, name: str) -> None:
        """Forget fields."""
        self._kept.pop((kind, name), None)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names of what was given of a kind."""
        return tuple(sorted(name for of, name in self._kept if of == kind))

    @property
    def given(self) -> Mapping[tuple[Kind, str], Mapping[str, SecretStr]]:
        """All of them."""
        return self._kept

    def values(self) -> list[str]:
        """Return every value, to keep it out of what is recorded."""
        return [value.get_secret_value() for fields in self._kept.values() for value in fields.values()]


def parse_secrets(items: Sequence[str], read: ReadSource) -> GivenSecrets:
    """Read `KIND/NAME.FIELD=SOURCE` items; `read` opens a source. Raises typer.BadParameter; it repeats no value."""
    found: dict[tuple[Kind, str], dict[str, SecretStr]] = {}
    for number, item in enumerate(items, 1):
        place, _, source = item.partition("=")
        kind, _, rest = place.partition("/")
        name, _, field = rest.rpartition(".")
        if kind not in get_args(Kind) or not name or not field:
            # What was typed is not said again: it may be the secret itself.
            raise typer.BadParameter(f"secret {number}: write KIND/NAME.FIELD=@file, =env:VARIABLE or =-")
        found.setdefault((cast("Kind", kind), name), {})[field] = SecretStr(read(source, f"{kind}/{name} {field}"))
    return GivenSecrets(found)


def needed_secrets(spec: StackSpec, *, second: bool) -> dict[tuple[Kind, str], tuple[str, ...]]:
    """Return what a restore cannot do without: the SSH key, the store's login and the key of the bundles."""
    needed: dict[tuple[Kind, str], tuple[str, ...]] = {("ssh-key", spec.ssh.key_block): ("private_key",)}
    if spec.backup is not None:
        store = spec.backup.second if second and spec.backup.second else spec.backup
        needed["s3", store.credentials_block] = ("access_key", "secret_key")
        needed["secret-text", spec.backup.key_block] = ("value",)
    return needed


def check_given(spec: StackSpec, secrets: Secrets, *, second: bool) -> None:
    """Raise SecretMissingError with everything that is missing, as it must be written."""
    missing = [
        f"{kind}/{name}.{field}=..."
        for (kind, name), fields in needed_secrets(spec, second=second).items()
        for field in fields
        if field not in (secrets.read(kind, name) or {})
    ]
    if missing:
        remedy = (
            "Give each as KIND/NAME.FIELD=@file, =env:VARIABLE or =- (ask), or all in a file: --without-server FILE."
        )
        what = "secrets that a restore needs were not given"
        raise SecretMissingError(what, where=spec.site, wanted=" ".join(missing), seen="not given", remedy=remedy)


def restore(
    site: Annotated[str, typer.Argument(help="Name of the site: its file in deployments/sites, without .yaml.")],
    secrets: Annotated[
        list[str] | None,
        typer.Argument(
            help="KIND/NAME.FIELD=@file, =env:VARIABLE or =- (ask), by the site file's names. Not the value."
        ),
    ] = None,
    bundle: Annotated[str, typer.Option(help="The bundle's name. Empty: the newest one.")] = "",
    plan_hash: Annotated[
        str | None, typer.Option("--plan", help="Hash of the plan that was read and approved. Empty: only show it.")
    ] = None,
    replace_healthy: Annotated[
        str, typer.Option(help="The site's name once more: replace a cluster that works. What it holds is lost.")
    ] = "",
    second: Annotated[bool, typer.Option("--second", help="Take the bundle from the site's second store.")] = False,
    without_server: WithoutServer = None,
) -> None:
    """Bring the cluster back from a bundle. Needs no Prefect server. A restore that died is continued by this too.

    Leaves a record, as every run without the server does: `stackwright runs send`.
    """
    # Nothing below may wait for a server that is gone.
    os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    from blocks.site import read_shape, state_folder
    from stackwright.cli import _secret_from
    from stackwright.clients.connect import connect
    from stackwright.recorder import Recorder, recorded
    from stackwright.without_server import open_source, recover

    log = RichHandler(console=Console(stderr=True, width=out.width), show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[log])
    spec, broken = read_shape(site)
    for problem in broken:
        out.print(
            f"the site file breaks a rule, which does not stop a restore: {problem}", markup=False, soft_wrap=True
        )
    given = parse_secrets(secrets or [], _secret_from)
    known: GivenSecrets | KeptSecrets = given
    if without_server is not None:
        known = open_source(site, without_server, given.given, restore=True).secrets
    check_given(spec, known, second=second)
    recover()
    asked = {"site": site, "bundle": bundle, "plan_hash": plan_hash, "replace_healthy": replace_healthy}
    recorder = Recorder("restore-cluster", site, asked, known.values)
    try:
        with recorded(recorder):
            _restore(connect(spec, known, state_folder(site)), bundle, plan_hash, replace_healthy, second, recorder)
    finally:
        if recorder.kept is not None:
            say(f"recorded as {recorder.kept}; `stackwright runs send` puts it onto the Prefect server")


def _restore(
    place: Site, bundle: str, plan_hash: str | None, replace_healthy: str, second: bool, recorder: Recorder
) -> None:
    from stackwright.reports.markdown import plan_markdown
    from tasks.restore_choice import choose_bundle, look_and_plan

    opened = choose_bundle(place, bundle, second=second)
    plan, facts = look_and_plan(place, opened, replace_healthy)
    recorder.page(f"plan-{plan.site}", f"plan {plan.hash}", plan_markdown(plan))
    show(plan)
    if plan_hash is None:
        out.print(f"carry it out with: --bundle {opened.manifest.id} --plan {plan.hash}", soft_wrap=True)
        return
    _carry_out(place, opened, facts, plan, plan_hash, replace_healthy, recorder)


def show(plan: Plan) -> None:
    """Print a plan: its steps, what an approver must know, and its hash."""
    table = Table("step", "effect", "what", box=None, pad_edge=False, header_style="bold")
    for step in plan.steps:
        table.add_row(step.id, step.effect.label, step.summary)
    out.print(table)
    for line in plan.notes:
        out.print(f"- {line}", markup=False)
    out.print(f"plan {plan.hash}: {len(plan.steps)} step(s), worst effect: {plan.worst.label}")


def _carry_out(
    place: Site,
    bundle: OpenBundle,
    facts: RestoreFacts,
    plan: Plan,
    plan_hash: str,
    replace_healthy: str,
    recorder: Recorder,
) -> None:
    from stackwright.domain.evidence import passed
    from stackwright.reports.markdown import evidence_markdown
    from tasks.lease import Lease
    from tasks.lease_holder import this_run
    from tasks.restore_proof import prove_content, prove_end
    from tasks.restore_run import restore as run_restore
    from tasks.restore_site import with_bundle

    began = time.monotonic()
    evidence: list[Evidence] = []
    lease = Lease(with_bundle(place, bundle.state), this_run())  # in the first server's file: no cluster can be asked
    finished = False
    lease.take(plan, plan_hash, facts.fence)

    def tell(line: str) -> None:
        recorder.tell(line)
        out.print(line)

    try:
        lease.keep()
        restored = run_restore(
            place, lease, bundle, plan, anyway=replace_healthy == place.spec.site, tell=tell,
            look=lambda inside: evidence.extend(prove_content(inside, bundle)),
        )  # fmt: skip
        evidence += prove_end(restored, bundle, time.monotonic() - began)
        finished = True
    finally:
        lease.release(finished=finished)
    recorder.page(f"evidence-{plan.site}", "what was compared and proved", evidence_markdown(evidence))
    path = place.workdir / "restored.kubeconfig"
    _keep_kubeconfig(restored, path)
    for one in evidence:
        out.print(f"{one.verdict:8} {one.id}: {one.seen}", markup=False, soft_wrap=True)
    out.print(f"kubeconfig: {path}", soft_wrap=True)
    tell(f"RESTORED {place.spec.site} bundle={bundle.manifest.id} rto_s={time.monotonic() - began:.0f}")
    if not passed(evidence):
        recorder.end("FAILED", "ChecksFailed", "the evidence says that the restored cluster is not as it should be")
        raise typer.Exit(FAILED)


def _keep_kubeconfig(restored: Site, path: Path) -> None:
    fields = restored.secrets.read("cluster-access", restored.spec.rke2.kubeconfig_block)
    if fields is not None:
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(fields["kubeconfig"].get_secret_value(), encoding="utf-8")
