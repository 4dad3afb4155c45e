"""The three ways in which a wrong set of Prefect's dependencies breaks it without a word at installation."""

import asyncio
from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import IntervalSchedule


def test_the_server_can_be_imported() -> None:
    """fastapi that is too new fails here."""
    import prefect.server.api.server as server

    assert server.create_app


@pytest.mark.usefixtures("prefect_server")
def test_block_documents_can_be_read() -> None:
    """fastapi from 0.151 on answers 422 to JSON nulls, and with it to every block call."""

    async def read() -> list[object]:
        async with get_client() as client:
            return list(await client.read_block_documents())

    assert isinstance(asyncio.run(read()), list)


@pytest.mark.usefixtures("prefect_server")
def test_a_schedule_makes_runs() -> None:
    """SQLAlchemy from 2.1 on lets the scheduler insert nothing: schedules silently never run."""

    @flow(name="pin-probe")
    def probe() -> None:
        return None

    async def scheduled() -> int:
        deployment_id = await (
            await probe.to_deployment("pin-probe", schedule=IntervalSchedule(interval=timedelta(hours=1)))
        ).apply()
        async with get_client() as client:
            for _ in range(300):
                runs = await client.read_flow_runs()
                mine = [run for run in runs if run.deployment_id == deployment_id]
                if mine:
                    await client.delete_deployment(deployment_id)
                    return len(mine)
                await asyncio.sleep(0.2)
        return 0

    assert asyncio.run(scheduled()) > 0
