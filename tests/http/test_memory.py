"""What a connection leaves behind, and what it costs while it waits."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct

import pytest

from tests.http.conftest import Door, eventually, read_response

GET = "GET /boot/initramfs HTTP/1.1\nHost: x\n\n"
BODY = bytes(1 << 20)


async def use(door: Door, how: str) -> None:
    with await door.request(GET, receive_buffer=4096) as client:
        if how == "complete":
            assert (await read_response(client))[1] == BODY
        else:
            await asyncio.get_running_loop().sock_recv(client, 1)
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await eventually(lambda: not door.server.server_state.connections and not door.ledger.live)


@pytest.mark.parametrize("how", ["complete", "closed", "reset"])
async def test_a_connection_that_ends_leaves_nothing_to_the_garbage_collector(
    door: Door, how: str
) -> None:
    """So the collector need not run while thousands of transfers do."""
    (door.root / "initramfs").write_bytes(BODY)
    await use(door, how)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await use(door, how)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [type(thing).__name__ for thing in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert len(found) < 20, sorted(found)
