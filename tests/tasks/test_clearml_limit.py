"""The gate before the server's limit: as many runs as there are slots, first come first served, none lost."""

from __future__ import annotations

import asyncio
import threading

from tasks.clearml_limit import _Gate


def test_runs_of_several_loops_wait_in_turn_and_a_cancelled_one_leaves_no_gap():
    gate, order, go = _Gate(2), [], {word: threading.Event() for word in "abcde"}

    def start(word, gives_up=None):
        async def work():
            async with gate.held():
                order.append(word)
                await asyncio.to_thread(go[word].wait)

        async def run():
            waits = asyncio.create_task(work())
            if gives_up is not None:
                await asyncio.to_thread(gives_up.wait)
                waits.cancel()
            try:
                await waits
            except asyncio.CancelledError:
                order.append(f"{word} gave up")

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        wait_for(lambda: word in order or len(gate._waiting) or not thread.is_alive())
        return thread

    threads = [start("a"), start("b")]
    gives_up = threading.Event()
    impatient = start("c", gives_up)
    wait_for(lambda: len(gate._waiting) == 1)
    gives_up.set()
    impatient.join(60)
    assert order == ["a", "b", "c gave up"] and not gate._waiting
    threads += [start("d")]
    wait_for(lambda: len(gate._waiting) == 1)
    threads += [start("e")]
    wait_for(lambda: len(gate._waiting) == 2)
    for leaves, comes in (("a", "d"), ("b", "e")):  # one slot at a time, so that its turn is what decides
        go[leaves].set()
        wait_for(lambda comes=comes: order[-1] == comes)
    assert order[3:] == ["d", "e"]
    go["d"].set()
    go["e"].set()
    for thread in threads:
        thread.join(60)
    assert gate._free == 2


def wait_for(look):
    for _ in range(3000):
        if look():
            return
        threading.Event().wait(0.02)
    raise AssertionError("not seen in time")
