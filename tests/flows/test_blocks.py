"""Blocks, the catalogue and runs from the shell, against a real Prefect server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from blocks.store import BlockSecrets
from blocks.types import BLOCKS
from stackwright import runs, setup_server
from stackwright.cli import EXIT
from stackwright.clients.secrets import need
from stackwright.domain.errors import NotFoundError, ProblemsError, SecretMissingError, SecretsUnavailableError
from stackwright.lab.server import PrefectServer
from stackwright.setup_server import Asked

PLANTED = "planted-7d21-in-a-block"


def flow_of(name: str) -> str:
    """Return the full name by which the server knows a deployment."""
    return f"{name}/{name}"


def test_a_deployment_that_is_not_there_is_named(prefect_server: PrefectServer) -> None:
    """Before `stackwright setup`, a start says so; no run is made."""

    async def forget() -> int:
        async with get_client() as client:
            try:
                found = await client.read_deployment_by_name(flow_of("check-site"))
                await client.delete_deployment(found.id)
            except ObjectNotFound:
                pass  # never set up on this server
            return len(await client.read_flow_runs())

    before = asyncio.run(forget())
    with pytest.raises(NotFoundError, match="stackwright setup") as caught:
        asyncio.run(runs.start_here("check-site", {"site": "lab"}))
    assert flow_of("check-site") in caught.value.where
    assert asyncio.run(forget()) == before


@pytest.fixture(scope="module")
def set_up(prefect_server: PrefectServer) -> None:
    """The server, brought to the catalogue."""
    setup_server.set_up(Asked())


# --- setup -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("set_up")
def test_setup_brings_the_whole_catalogue() -> None:
    """Every deployment of prefect.yaml is there with a form that is typed and described, in the work pool."""

    async def look() -> dict[str, object]:
        async with get_client() as client:
            return {name: await client.read_deployment_by_name(flow_of(name)) for name in runs.catalogue()}

    for name, found in asyncio.run(look()).items():
        assert found.work_pool_name == runs.catalogue()[name]["work_pool"]["name"]
        assert found.description == runs.catalogue()[name]["description"]
        assert found.enforce_parameter_schema
        form = found.parameter_openapi_schema["properties"]
        assert form["site"]["description"] and form["site"]["pattern"]
        assert all("description" in field for field in form.values())
        assert not [one for one in found.schedules if one.active], "a schedule is the operator's to start"
        # Said explicitly, so that a worker finds the flows wherever the catalogue was deployed from.
        (pull,) = found.pull_steps
        assert pull == {"prefect.deployments.steps.set_working_directory": {"directory": str(runs.HOME)}}


# --- runs from the shell ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("set_up")
@pytest.mark.parametrize(
    ("name", "parameters", "place"),
    [
        ("check-site", {}, "site"),
        ("check-site", {"site": "Not A Name"}, "site"),
        ("check-site", {"site": "nowhere"}, "'nowhere' is not one of"),
        ("deploy-stack", {"site": "lab", "plan_hash": "nonsense"}, "plan_hash"),
        ("validate-stack", {"site": "lab", "light": "perhaps"}, "light"),
    ],
)
def test_wrong_parameters_are_refused_by_the_server(name: str, parameters: dict[str, object], place: str) -> None:
    """As from the UI: the parameter is named, and no run is made."""

    async def count() -> int:
        async with get_client() as client:
            return len(await client.read_flow_runs())

    before = asyncio.run(count())
    with pytest.raises(ProblemsError, match="refused the parameters") as caught:
        asyncio.run(runs.start_here(name, parameters))
    assert place in str(caught.value)
    assert asyncio.run(count()) == before


@pytest.mark.usefixtures("set_up")
def test_a_run_from_the_shell_is_a_run_of_the_deployment(tmp_path: Path) -> None:
    """It carries the deployment's id, name and parameters; our own error is told once more, without a traceback.

    The site is one that the forms did not offer before: its site file is new, and broken.
    """
    site = f"nowhere-{tmp_path.name[-8:]}".replace("_", "-")
    (tmp_path / f"{site}.yaml").write_text("site: elsewhere\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "stackwright.cli", "check", site],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(runs.HOME),
            "STACKWRIGHT_REPORTS": str(tmp_path),
            "STACKWRIGHT_SITES": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == EXIT["refused"], done.stderr[-3000:]
    assert "the site file was refused" in done.stderr and "Traceback" not in done.stderr

    async def look() -> tuple[FlowRun, UUID]:
        async with get_client() as client:
            (kept,) = [run for run in await client.read_flow_runs() if run.parameters == {"site": site}]
            return kept, (await client.read_deployment_by_name(flow_of("check-site"))).id

    kept, deployment_id = asyncio.run(look())
    assert kept.deployment_id == deployment_id and kept.name == f"check-{site}"
    assert kept.state is not None and kept.state.is_failed()


# --- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("set_up")
@pytest.mark.parametrize("kind", BLOCKS)
def test_every_kind_can_be_written_and_read_by_a_later_run(kind) -> None:
    """What one run keeps, the next one reads, field by field."""
    fields = {field: SecretStr(f"{PLANTED}-{field}") for field in BLOCKS[kind].model_fields}
    BlockSecrets().write(kind, "kept", fields)
    assert BlockSecrets().read(kind, "kept") == fields


@pytest.mark.usefixtures("set_up")
def test_the_blocks_of_a_kind_can_be_named() -> None:
    """Names alone, of this kind alone; a server that does not answer is an error, not an empty list."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    for name in ("listed-b", "listed-a"):
        BlockSecrets().write("api-key", name, {f: SecretStr(PLANTED) for f in BLOCKS["api-key"].model_fields})
    found = BlockSecrets().names("api-key")
    assert [name for name in found if name.startswith("listed-")] == ["listed-a", "listed-b"]
    assert "listed-a" not in BlockSecrets().names("secret-text")
    gone = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(gone), pytest.raises(SecretsUnavailableError):
        BlockSecrets().names("api-key")


@pytest.mark.usefixtures("set_up")
def test_writing_again_replaces() -> None:
    """For the run that wrote and for a later one."""
    secrets = BlockSecrets()
    for value in ("first", "second"):
        secrets.write("secret-text", "twice", {"value": SecretStr(value)})
        for reader in (secrets, BlockSecrets()):
            found = reader.read("secret-text", "twice")
            assert found is not None and found["value"].get_secret_value() == value


@pytest.mark.usefixtures("set_up")
def test_a_missing_block_is_none_and_can_still_be_written() -> None:
    """Looked and not there: not an error, and not remembered. Who needs it gets its name and the remedy."""
    secrets = BlockSecrets()
    assert secrets.read("secret-text", "not-there") is None
    with pytest.raises(SecretMissingError, match="secret-text/not-there"):
        need(secrets, "secret-text", "not-there")
    BlockSecrets().write("secret-text", "not-there", {"value": SecretStr("x")})
    assert secrets.read("secret-text", "not-there") is not None


@pytest.mark.usefixtures("set_up")
def test_a_server_that_does_not_answer_is_not_a_missing_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is not absent: a secret must not be made anew because the server was away. A task may try again."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    gone = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(gone), pytest.raises(SecretsUnavailableError) as caught:
        BlockSecrets().read("secret-text", "kept")
    assert caught.value.transient and "ConnectError" in caught.value.seen


@pytest.mark.usefixtures("set_up")
def test_values_are_masked_wherever_they_are_shown(prefect_server: PrefectServer) -> None:
    """In repr, text and JSON, in what the API shows, and in the server's files."""
    secrets = BlockSecrets()
    secrets.write("api-key", "masked", {"access_key": SecretStr("AK"), "secret_key": SecretStr(PLANTED)})
    block = BLOCKS["api-key"].load("masked", _sync=True)
    shown = [repr(block), str(block), block.model_dump_json(), repr(secrets.read("api-key", "masked")), repr(secrets)]

    async def listed() -> str:
        async with get_client() as client:
            return repr([document.data for document in await client.read_block_documents(include_secrets=False)])

    shown.append(asyncio.run(listed()))
    assert PLANTED not in "\n".join(shown)
    files = [path for path in prefect_server.home.rglob("*") if path.is_file()]
    assert any(path.name == "prefect.db" for path in files)
    assert not [path for path in files if PLANTED.encode() in path.read_bytes()]
