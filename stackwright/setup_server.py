"""All that `stackwright setup` keeps on the Prefect server, in the order in which it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import PrefectClient, get_client

from blocks.site import read_spec, site_names
from blocks.types import BLOCKS
from stackwright.domain.errors import Problem, ProblemsError, SiteFileError
from stackwright.domain.schedules import wanted_on
from stackwright.domain.setup import Change, Fields, Seen
from stackwright.domain.spec import StackSpec
from stackwright.runs import server_url
from stackwright.schedules import SiteAutomations, SiteDeployments, declared, sites_on
from stackwright.server_answers import asking
from stackwright.setup import Resource, bring, look
from stackwright.setup_blocks import BlocksOf, read_blocks
from stackwright.setup_deployments import Deployments
from stackwright.setup_kinds import BlockTypes, Limits, WorkPools, WorkQueues, read_server_file
from stackwright.zombies import ServerAutomations
from tasks.clearml_limit import limit_name


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    blocks: Path | None = None
    server: Path | None = None
    remove: bool = False
    dry_run: bool = False


def set_up(asked: Asked, show: Callable[[list[Change]], None] = lambda changes: None) -> list[Change]:
    """Show what is to be done, do it unless it is a dry run, and return it. The second time there is nothing to do.

    Raises ProblemsError for a file that is refused or a pool of another type, before anything is changed;
    ApiUnavailableError when no server is set or it does not answer, ApiError when it refuses the login.
    """
    url = server_url()
    blocks = read_blocks(asked.blocks) if asked.blocks else None
    with asking(url):
        return asyncio.run(_set_up(asked, blocks, show))


async def _set_up(asked: Asked, blocks: BlocksOf | None, show: Callable[[list[Change]], None]) -> list[Change]:
    async with get_client() as client:
        resources = await _resources(client, asked, blocks)
        changes = await look(client, resources, remove=asked.remove)
        show(changes)
        if asked.dry_run:
            return changes
        shown = {(change.kind, change.name) for change in changes if change.act == "remove"}
        return await bring(client, resources, remove=asked.remove, removals=shown)


async def _resources(client: PrefectClient, asked: Asked, blocks: BlocksOf | None) -> list[Resource]:
    declared_server, folder = read_server_file(asked.server)
    pools = WorkPools(declared_server, folder)
    if problems := await pools.check(client):
        raise ProblemsError("the work pools cannot be as declared", problems, where=str(asked.server or folder))
    deployments = Deployments(Path(declared_server.home)) if declared_server.home else Deployments()
    on = await sites_on(client)
    specs = _specs(sorted(on & set(site_names())))
    base = await deployments.wanted()
    of_sites: list[Resource] = []
    for name, spec in specs.items():
        rows = SiteDeployments(name, wanted_on(spec, declared())[0], base)
        of_sites += [rows, SiteAutomations(rows)]
    return [
        BlockTypes(list(BLOCKS.values())),
        *([blocks] if blocks else []),
        pools,
        WorkQueues(declared_server),
        Limits({limit_name(name): spec.clearml.concurrency for name, spec in specs.items()}),
        deployments,
        *of_sites,
        GoneSites(sorted(on - set(specs))),
        ServerAutomations(),
    ]


def _specs(names: list[str]) -> dict[str, StackSpec]:
    """Read the sites' files. Raises ProblemsError with the problems of all of them."""
    specs: dict[str, StackSpec] = {}
    problems: list[Problem] = []
    for name in names:
        try:
            specs[name] = read_spec(name)
        except SiteFileError as error:
            problems += [
                Problem(f"{name}: {one.where}", one.what, one.remedy, one.wanted, one.seen) for one in error.problems
            ]
    if problems:
        raise ProblemsError("site files were refused", problems)
    return specs


class GoneSites:
    """Sites that have schedules on the server and no site file here: perhaps it is only this machine that lacks it."""

    kind = "site's schedules"
    noted = False

    def __init__(self, sites: list[str]) -> None:
        self._sites = sites

    async def wanted(self, client: PrefectClient) -> Mapping[str, Fields]:
        """Return nothing: these are only removed."""
        return {}

    async def seen(self, client: PrefectClient, made: Mapping[str, str]) -> Mapping[str, Seen]:
        """Return the sites that still have schedules."""
        on = await sites_on(client) & set(self._sites)
        return {site: Seen(site, {}, loss="perhaps its site file is on another machine") for site in sorted(on)}

    async def put(self, client: PrefectClient, name: str, found: Seen | None) -> None:
        """Nothing is ever wanted of a site without a file."""

    async def remove(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Take the site's schedules and automations away."""
        rows = SiteDeployments(name, [])
        await bring(client, [rows, SiteAutomations(rows)], remove=True)

    async def hold(self, client: PrefectClient, name: str, found: Seen) -> None:
        """Leave them at work."""
