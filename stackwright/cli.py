"""The shell's front door over the flows: `stackwright check|plan|apply|validate|tenant|report ...`.

It parses, starts a run of the catalogue and prints; it decides nothing. Exit codes are in EXIT.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stackwright import __version__
from stackwright.cli_backup import add_backup_commands
from stackwright.cli_certificates import add_commands
from stackwright.cli_compliance import print_compliance
from stackwright.cli_lease import lease
from stackwright.cli_metrics import metrics_app
from stackwright.cli_restore import restore
from stackwright.cli_runs import WithoutServer, quiet, remind, run_alone, runs_app
from stackwright.cli_schedules import schedules
from stackwright.cli_setup import setup
from stackwright.cli_support import support_bundle
from stackwright.cli_webhooks import webhooks_app
from stackwright.cli_worker import worker_app
from stackwright.domain.errors import (
    ApiUnavailableError,
    LeaseHeldError,
    PlanMovedError,
    PlanRefusedError,
    ProblemsError,
    SiteFileError,
    StackError,
)

EXIT = {
    "ok": 0,
    "failed": 1,  # the run failed, or its evidence says that the platform does not work
    "refused": 2,  # wrong usage, a refused site file, refused parameters
    "plan moved": 3,  # the approved plan does not hold any more, or the facts forbid a plan
    "lease held": 4,  # another run is changing the site
    "no server": 5,  # the Prefect server does not answer
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
tenant_app = typer.Typer(no_args_is_help=True, help="Tenants of a site.")
block_app = typer.Typer(no_args_is_help=True, help="Blocks that keep a site's secrets.")
app.add_typer(tenant_app, name="tenant")
app.add_typer(block_app, name="block")
app.add_typer(worker_app, name="worker")
app.command()(lease)
app.command()(restore)
app.command()(schedules)
app.command()(setup)
app.command()(support_bundle)
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(metrics_app, name="metrics")
app.add_typer(runs_app, name="runs")
upgrade_app = typer.Typer(no_args_is_help=True, help="Upgrading RKE2 to the release of the site file.")
app.add_typer(upgrade_app, name="upgrade")
# Off a terminal lines are not wrapped: they are read by programs and greps.
WIDE = None if sys.stdout.isatty() else 400
out = Console(highlight=False, width=WIDE)
err = Console(stderr=True, highlight=False, width=WIDE)

SiteArg = Annotated[str, typer.Argument(help="Name of the site: its file in deployments/sites, without .yaml.")]
LiftOption = Annotated[
    list[str] | None,
    typer.Option("--lift", help="Lift a veto against a drain for this run: pdb:NAMESPACE/NAME or pod:NAMESPACE/NAME."),
]
OverrideOption = Annotated[
    str | None,
    typer.Option("--without-rehearsal", help="Upgrade without a ticket: who decides and why, 'NAME: reason'. Kept."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"stackwright {__version__}")
        raise typer.Exit


@app.callback()
def start(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Build and run the SUSE AI + ClearML platform. Commands start the same flows as the Prefect UI."""


@app.command()
def sites() -> None:
    """List the sites that have a site file here."""
    from blocks.site import site_names

    for name in site_names():
        out.print(name)


@app.command()
def lint(site: SiteArg) -> None:
    """Check a site file alone: no server, no host is asked."""
    from blocks.site import read_spec

    spec = read_spec(site)
    out.print(
        f"{site}: {len(spec.nodes)} nodes, {len(spec.tenants)} tenants, RKE2 {spec.rke2.version}: no problem found"
    )


@app.command()
def schema(output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None) -> None:
    """Print the JSON Schema of the site file, for editors."""
    from stackwright.domain.sitefile import site_schema

    text = json.dumps(site_schema(), indent=2) + "\n"
    if output:
        output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


@app.command()
def check(site: SiteArg, without_server: WithoutServer = None, as_json: JsonOption = False) -> None:
    """Check every requirement on every host and around them, worst first. Changes nothing, at any time.

    Ends with 1 when a must-have failed or could not be read.
    """
    _run("check-site", {"site": site}, as_json, without=without_server)


@app.command()
def plan(site: SiteArg, without_server: WithoutServer = None, as_json: JsonOption = False) -> None:
    """Show what `apply` would do: steps, effects, guide sections and the plan's hash. Changes nothing."""
    _run("plan-stack", {"site": site}, as_json, without=without_server)


@app.command()
def apply(
    site: SiteArg,
    plan_hash: Annotated[
        str | None, typer.Option("--plan", help="Hash of the plan that was read and approved.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Apply whatever the plan is now, unseen; never one that removes nodes.")
    ] = False,
    without_server: WithoutServer = None,
    as_json: JsonOption = False,
) -> None:
    """Carry out the plan. A run that died is continued by the same command."""
    if without_server and (yes or not plan_hash):
        raise typer.BadParameter("without the server only a plan that was read is applied: --plan HASH")
    if not plan_hash and not yes:
        raise typer.BadParameter("say which plan you approve: --plan HASH (see `stackwright plan`), or --yes")
    parameters = {"site": site, "plan_hash": plan_hash, "unattended": True}
    _run("deploy-stack", parameters, as_json, without=without_server)


@app.command()
def validate(
    site: SiteArg,
    light: Annotated[bool, typer.Option(help="Only look: no training workload is started.")] = False,
    without_server: WithoutServer = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that the platform works."""
    _run("validate-stack", {"site": site, "light": light}, as_json, without=without_server)


@app.command()
def capacity(site: SiteArg, as_json: JsonOption = False) -> None:
    """Tell what the site has, what is asked of it, and what to buy or to move. Changes nothing."""
    from stackwright.reports.store import reports_folder

    run_id = _run("report-capacity", {"site": site}, as_json)
    folder = reports_folder() / site / run_id
    found = json.loads((folder / "capacity.json").read_text(encoding="utf-8"))
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for one in found["advice"]:
        out.print(f"{'now: ' if one['urgent'] else ''}{one['text']} ({one['why']})", markup=False, soft_wrap=True)
    out.print(f"{site}: {found['headline']}", markup=False, soft_wrap=True)
    out.print(f"report: {folder / 'capacity.html'}", soft_wrap=True)


@app.command()
def compliance(site: SiteArg, as_json: JsonOption = False) -> None:
    """Tell clause by clause of the guide what was proved, on what, and what was not. Changes nothing."""
    _run(
        "report-compliance", {"site": site}, as_json,
        then=lambda run_id: print_compliance(out, site, run_id, as_json),
    )  # fmt: skip


@upgrade_app.command("plan")
def upgrade_plan(
    site: SiteArg, lift: LiftOption = None, without_server: WithoutServer = None, as_json: JsonOption = False
) -> None:
    """Show every step of the upgrade with its effect, and what stands in the way. Changes nothing."""
    _run("upgrade-cluster", {"site": site, "dry_run": True, "lifted": lift}, as_json, without=without_server)


@upgrade_app.command("rehearse")
def upgrade_rehearse(site: SiteArg, lift: LiftOption = None, as_json: JsonOption = False) -> None:
    """Carry the upgrade out on a restored copy behind the fence, and go back again. Leaves a ticket in the store."""
    _run("rehearse-upgrade", {"site": site, "lifted": lift}, as_json)


@upgrade_app.command("apply")
def upgrade_apply(
    site: SiteArg,
    plan_hash: Annotated[
        str | None, typer.Option("--plan", help="Hash of the plan that was read and approved.")
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Wait for somebody to approve the plan in the Prefect UI.")
    ] = False,
    lift: LiftOption = None,
    without_rehearsal: OverrideOption = None,
    without_server: WithoutServer = None,
    as_json: JsonOption = False,
) -> None:
    """Upgrade: servers one by one, then agents in batches. A run that died is continued by the same command."""
    if without_server and not plan_hash:
        raise typer.BadParameter("without the server there is no form: --plan HASH")
    if bool(plan_hash) == ask:
        raise typer.BadParameter("say which plan you approve: --plan HASH (see `stackwright upgrade plan`), or --ask")
    parameters = {"site": site, "plan_hash": plan_hash, "lifted": lift, "without_rehearsal": without_rehearsal}
    _run("upgrade-cluster", parameters, as_json, without=without_server)


@tenant_app.command("onboard")
def tenant_onboard(
    site: SiteArg,
    tenant: Annotated[str, typer.Argument(help="A tenant of the site file.")],
    as_json: JsonOption = False,
) -> None:
    """Bring one tenant to a working queue."""
    _run("onboard-tenant", {"site": site, "tenant": tenant}, as_json)


@app.command()
def report(site: SiteArg, as_json: JsonOption = False) -> None:
    """Print the verdict of the site's last run and where its report lies."""
    from stackwright.reports.store import latest_report

    _print_report(latest_report(site), as_json)


@block_app.command("set")
def block_set(
    kind: Annotated[str, typer.Argument(help="Kind, such as ssh-key; `stackwright block kinds` lists them.")],
    name: Annotated[str, typer.Argument(help="Name by which the site file calls it.")],
    fields: Annotated[
        list[str], typer.Argument(help="FIELD=@file, FIELD=env:VARIABLE or FIELD=- (ask). Never the value.")
    ],
) -> None:
    """Keep a secret in a block. Values come from files, the environment or a prompt, never from the command line."""
    from pydantic import SecretStr

    from blocks.store import BlockSecrets
    from blocks.types import BLOCKS

    if kind not in BLOCKS:
        raise typer.BadParameter(f"no such kind; one of {', '.join(BLOCKS)}")
    values: dict[str, SecretStr] = {}
    for item in fields:
        field, _, source = item.partition("=")
        if field not in BLOCKS[kind].model_fields:
            # What was typed is not said again: it may be the secret itself.
            raise typer.BadParameter(f"{kind} has no such field; one of {', '.join(BLOCKS[kind].model_fields)}")
        values[field] = SecretStr(_secret_from(source, f"{kind}/{name} {field}"))
    BlockSecrets().write(kind, name, values)
    out.print(f"{kind}/{name}: kept ({', '.join(values)})")


@block_app.command("kinds")
def block_kinds() -> None:
    """List the kinds of blocks and their fields."""
    from blocks.types import BLOCKS

    for kind, block in BLOCKS.items():
        out.print(f"{kind:16} {', '.join(block.model_fields):28} {block._description}")


def _secret_from(source: str, label: str) -> str:
    if source.startswith("@"):
        try:
            return Path(source[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise typer.BadParameter(f"{label}: {source[1:]} cannot be read: {error.strerror}") from error
    if source.startswith("env:"):
        if source[4:] not in os.environ:
            raise typer.BadParameter(f"{label}: the variable {source[4:]} is not set")
        return os.environ[source[4:]]
    if source == "-":
        return str(typer.prompt(label, hide_input=True))
    raise typer.BadParameter(f"{label}: give @file, env:VARIABLE or -, never the value itself")


def _run(
    name: str,
    parameters: dict[str, Any],
    as_json: bool,
    then: Callable[[str], None] = lambda run_id: None,
    *,
    without: Path | None = None,
) -> str:
    """Start one run of the catalogue here, then print its report; exit by its verdict. Return the run's id.

    `then` prints what the run has left besides, also when it failed. `without` is the file of references of a run
    without the Prefect server.
    """
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")  # what automation crash-zombies counts on
    if without is not None:
        quiet()
    from stackwright.reports.store import report_of
    from stackwright.runs import start_here

    parameters = {key: value for key, value in parameters.items() if value is not None}
    if without is None:
        remind()
        run, state = asyncio.run(start_here(name, parameters))
    else:
        run, state = run_alone(
            parameters["site"], without, lambda: asyncio.run(start_here(name, parameters, alone=True))
        )
    found = report_of(parameters["site"], str(run.id))
    if found is not None:
        _print_report(found, as_json)
    then(str(run.id))
    if not state.is_completed():
        error = asyncio.run(_error_of(state))
        if isinstance(error, StackError):
            _print_error(error)
            # Once a run has begun, a service that does not answer is the run's failure, not a missing Prefect server.
            raise typer.Exit(EXIT["failed"] if isinstance(error, ApiUnavailableError) else _exit_code(error))
        if found is None:
            err.print(f"[bold]{state.name}[/]: {state.message}")
        raise typer.Exit(EXIT["failed"])
    return str(run.id)


async def _error_of(state: Any) -> Any:
    return await state.aresult(raise_on_failure=False)


def _print_report(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    steps = found["plan"]["steps"]
    if steps and found["verdict"] == "planned":
        out.print(
            _table(
                ("step", "effect", "guide", "what"), ((s["id"], s["effect"], s["guide"], s["summary"]) for s in steps)
            )
        )
        for note in found["notes"]:
            out.print(f"- {note}", markup=False)
    checks = found["evidence"]
    bad = [c for c in checks if c["verdict"] in ("fail", "unknown")]
    if bad:
        out.print(
            _table(
                ("check", "verdict", "wanted", "seen"),
                ((c["id"], _verdict(c), c["wanted"], c["seen"]) for c in bad),
            )
        )
        for check in bad:
            if check.get("remedy"):
                out.print(f"- {check['id']}: remedy: {check['remedy']}", markup=False)
    done = sum(c["verdict"] == "pass" for c in checks)
    said = f"plan {found['plan']['hash']}: {len(steps)} step(s); checks {done}/{len(checks)} passed"
    out.print(f"{said}; verdict: {found['verdict']}")
    if found.get("html"):
        out.print(f"report: {found['html']}", soft_wrap=True)


def _verdict(check: dict[str, Any]) -> str:
    return str(check["verdict"]) + ("" if check.get("must", True) else " (optional)")


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


def _print_error(error: StackError) -> None:
    """Print an error with what failed beside it: several nodes may have."""
    for line in (str(error), *getattr(error, "__notes__", ())):
        err.print(line, style="red", markup=False, soft_wrap=True)


def _exit_code(error: StackError) -> int:
    for kinds, code in (
        ((SiteFileError,), EXIT["refused"]),
        ((PlanMovedError, PlanRefusedError), EXIT["plan moved"]),
        ((ProblemsError,), EXIT["refused"]),  # parameters that the server refused; the kinds above come first
        ((LeaseHeldError,), EXIT["lease held"]),
        ((ApiUnavailableError,), EXIT["no server"]),
    ):
        if isinstance(error, kinds):
            return code
    return EXIT["failed"]


add_commands(app, _run)
add_backup_commands(app, _run)


def with_lab() -> None:
    """Add the lab's commands, where it is installed. Nothing happens the second time."""
    try:
        from stackwright.lab.cli import demo, docs, lab_app
    except ImportError:  # the lab is an optional part: an installation for production has none of its libraries
        return
    if any(group.name == "lab" for group in app.registered_groups):
        return
    app.add_typer(lab_app, name="lab")
    app.command()(demo)
    app.command(hidden=True)(docs)


def main() -> None:
    """Run the command line; our own errors are printed whole, without a traceback."""
    with_lab()
    try:
        app()
    except StackError as error:
        _print_error(error)
        sys.exit(_exit_code(error))


if __name__ == "__main__":
    main()
