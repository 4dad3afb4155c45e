"""The command line's lab part: `stackwright demo` and `stackwright lab up|down|status|journal|fault`."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from stackwright.domain.errors import ToolError
from stackwright.lab.control import LabHandle
from stackwright.lab.layout import Layout
from stackwright.lab.rig import ROOT, Finished, Rig
from stackwright.lab.server import PrefectServer

lab_app = typer.Typer(no_args_is_help=True, help="The embedded lab: a data centre in a folder, with stand-in machines.")
out = Console(highlight=False)

Folder = Annotated[Path, typer.Option("--folder", help="Folder of the lab.")]
DEFAULT = ROOT / "build" / "lab"


@lab_app.command()
def up(
    folder: Folder = DEFAULT,
    speed: Annotated[float, typer.Option(help="How many times faster than life.")] = 20.0,
    agents: Annotated[int, typer.Option(help="Plain workers beside the eight machines; for a new lab.")] = 0,
    spares: Annotated[int, typer.Option(help="Machines that the site file does not name; for a new lab.")] = 0,
    release: Annotated[
        list[str] | None, typer.Option(help="RKE2 release to offer; give it again for more; for a new lab.")
    ] = None,
) -> None:
    """Start the lab (does nothing when it runs) and say where its site file is."""
    lab = LabHandle(folder.absolute())
    asked = agents or spares or release
    layout = Layout(agents=agents, spares=spares, releases=tuple(release or Layout().releases)) if asked else None
    lab.start(speed=speed, layout=layout)
    out.print(f"lab is up; site files: {lab.sites}")
    out.print(f"export STACKWRIGHT_SITES={lab.sites}")


@lab_app.command()
def blocks(folder: Folder = DEFAULT) -> None:
    """Write the lab's secrets to blocks on the Prefect server, forgetting those of an earlier lab."""
    import asyncio

    from stackwright.lab.fill_blocks import fill, forget

    asyncio.run(forget())
    fill(folder.absolute())


@lab_app.command()
def down(folder: Folder = DEFAULT) -> None:
    """Stop the lab; its state stays in its folder."""
    LabHandle(folder.absolute()).stop()


@lab_app.command()
def status(folder: Folder = DEFAULT) -> None:
    """Say whether the lab runs, and how many changes were made on it."""
    lab = LabHandle(folder.absolute())
    if lab.pid is None:
        out.print("lab is down")
        raise typer.Exit(1)
    out.print(f"lab is up, pid {lab.pid}, {len(lab.journal())} changes")


@lab_app.command()
def journal(folder: Folder = DEFAULT, since: int = 0) -> None:
    """Print the changes made on the lab, one JSON object a line."""
    for entry in LabHandle(folder.absolute()).journal(since):
        sys.stdout.write(json.dumps(entry) + "\n")


@lab_app.command()
def fault(
    spec: Annotated[str, typer.Argument(help='JSON, such as {"kind": "node-dead", "match": {"target": "wrk2"}}.')],
    folder: Folder = DEFAULT,
) -> None:
    """Inject a fault."""
    LabHandle(folder.absolute()).fault(**json.loads(spec))


def demo(
    ui: Annotated[bool, typer.Option("--ui", help="Keep the Prefect server and the lab up afterwards.")] = False,
    folder: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = ROOT / "build" / "demo",
) -> None:
    """Deploy the whole platform on the embedded lab, onboard two tenants, validate, and plan again."""
    started = time.monotonic()
    with _rig(folder.absolute()) as rig:
        deployed = _step(rig, "deploy", "apply", "lab", "--yes")
        first = rig.report()
        planned = _step(rig, "second plan", "plan", "lab", "--json")
        second = json.loads(planned.output.splitlines()[-1])
        _keep(folder, first)
        good = deployed.code == 0 and planned.code == 0 and first["verdict"] == "ok"
        passed = sum(check["verdict"] == "pass" for check in first["evidence"])
        line = (
            f"DEMO {'ok' if good else 'failed'} nodes={len(first['nodes'])} layers={len(first['layers'])} "
            f"tenants={len(first['tenants'])} checks={passed}/{len(first['evidence'])} "
            f"second_plan={len(second['plan']['steps'])} seconds={time.monotonic() - started:.0f}"
        )
        if ui:
            out.print(f"Prefect UI: {rig.server.ui}   (Ctrl-C ends it)\nreport: {folder / 'report.html'}\n{line}")
            _until_interrupted()
    if not ui:
        out.print(f"report: {folder / 'report.html'}", soft_wrap=True)
        out.print(line, soft_wrap=True)
    raise typer.Exit(0 if good else 1)


@contextmanager
def _rig(folder: Path) -> Iterator[Rig]:
    server = PrefectServer(folder / "prefect")
    server.launch()
    rig = Rig(folder, server)
    try:
        out.print("starting the lab and a Prefect server of its own (every machine and product in it is a stand-in)")
        shutil.rmtree(folder / "reports", ignore_errors=True)
        shutil.rmtree(folder / "state", ignore_errors=True)
        with ThreadPoolExecutor() as pool:
            lab = pool.submit(rig.lab.start, speed=rig.speed, fresh=True)
            server.wait()
            ready = pool.submit(rig.set_up)
            lab.result()
            ready.result()
        rig.fill_blocks()
        yield rig
    finally:
        rig.close()
        server.stop()


def _step(rig: Rig, title: str, *words: str) -> Finished:
    """Run one command, showing its progress, and stop the demo with its output when it fails."""
    out.print(f"{title}: stackwright {' '.join(words)}")
    done = rig.follow(*words) if title == "deploy" else rig.run(*words)
    if done.code != 0:
        raise ToolError(f"the {title} failed", where=" ".join(words), seen=done.output[-3000:])
    out.print(f"{title}: done in {done.seconds:.0f} s")
    return done


def _keep(folder: Path, report: dict[str, Any]) -> None:
    source = Path(report["html"]).parent
    for name in ("report.html", "report.json"):
        shutil.copy(source / name, folder / name)


def _until_interrupted() -> None:
    import signal

    try:
        signal.pause()
    except KeyboardInterrupt:
        out.print("stopping")


def docs() -> None:
    """Write the generated documents again: guide coverage, errata, preflight, and all references."""
    from stackwright import handbook
    from stackwright.domain.sitefile import parse_site
    from stackwright.reports.guide import coverage_markdown, errata_markdown
    from stackwright.reports.preflight import preflight_markdown
    from stackwright.reports.reference import site_reference_markdown

    example = ROOT / "deployments" / "sites" / "example-ha.yaml"
    made = {
        "guide-coverage.md": coverage_markdown,
        "errata.md": errata_markdown,
        "site-file.md": site_reference_markdown,
    }
    texts = {name: write() for name, write in made.items()}
    texts["preflight.md"] = preflight_markdown(parse_site(example.read_text(encoding="utf-8"), str(example)))
    for name, text in texts.items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")
        out.print(f"docs/{name}")
    for path in handbook.write(ROOT):
        out.print(str(path.relative_to(ROOT)))
