"""The benchmark's network: a delay on every wire between controller and hosts, and a registry, in a process of its own.

`python -m benchmarks.farm.relay FOLDER HOSTS DELAY_MS`: each host at 127.66.x.y is reached at 127.67.x.y with so many
milliseconds of delay each way, and a registry with the lab's charts and RKE2's runtime image at 127.67.250.1:5000,
delayed alike. FOLDER gets ca.pem; "ready" on standard output says that all is up; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from stackwright.lab.charts import CHARTS, publish_charts
from stackwright.lab.net import Authority
from stackwright.lab.registry import RUNTIME, RegistryState, push_image, registry_app

PORT, REGISTRY_PORT = 2222, 5000
REGISTRY, REGISTRY_BEHIND = "127.67.250.1", "127.66.250.1"
LOGIN = ("bench", "bench-password-1")
CHUNK = 1 << 16


def near(index: int) -> str:
    """Return the address at which the controller reaches a host."""
    return f"127.67.{index // 200}.{index % 200 + 1}"


def far(index: int) -> str:
    """Return a host's own address."""
    return f"127.66.{index // 200}.{index % 200 + 1}"


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float) -> None:
    """Hand bytes on after a delay, in order; the next ones wait for nobody."""
    loop = asyncio.get_running_loop()
    try:
        while part := await source.read(CHUNK):
            loop.call_later(delay_s, sink.write, part)
        await asyncio.sleep(delay_s)
        if sink.can_write_eof():
            sink.write_eof()
    except (ConnectionError, OSError):
        sink.close()


def relay(target: str, port: int, delay_s: float):  # type: ignore[no-untyped-def]  # a callback of asyncio's
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(delay_s)  # the connection's own packets
        far_reader, far_writer = await asyncio.open_connection(target, port)
        await asyncio.gather(carry(reader, far_writer, delay_s), carry(far_reader, writer, delay_s))
        for one in (writer, far_writer):
            one.close()

    return serve


async def main(folder: Path, hosts: int, delay_s: float, version: str) -> None:
    """Serve until standard input ends."""
    authority = Authority("bench")
    (folder / "ca.pem").write_text(authority.certificate)
    state = RegistryState(folder / "registry", dict([LOGIN]))
    publish_charts(state, CHARTS)
    push_image(state, RUNTIME, version.replace("+", "-"))
    runner = web.AppRunner(registry_app(state), access_log=None)
    await runner.setup()
    context = authority.server_context(REGISTRY, [REGISTRY])
    await web.TCPSite(runner, REGISTRY_BEHIND, REGISTRY_PORT, ssl_context=context).start()
    wires = [(near(index), far(index), PORT) for index in range(hosts)]
    wires.append((REGISTRY, REGISTRY_BEHIND, REGISTRY_PORT))
    for address, target, port in wires:
        await asyncio.start_server(relay(target, port, delay_s), address, port, backlog=256)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000, sys.argv[4]))
