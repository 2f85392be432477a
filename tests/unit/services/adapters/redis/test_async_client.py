"""The Redis connection of the hot path, when Redis accepts connections and never answers."""

import asyncio
import gc
from typing import Any

import pytest
import uvloop

from services.adapters.redis import async_client
from services.adapters.redis.async_client import AsyncRedisClient, pack
from services.errors import UnavailableError


def test_a_connect_failing_after_its_request_is_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(async_client, "STALE_S", 0.05)
    complaints: list[dict[str, Any]] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        client = AsyncRedisClient(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", 0.01)
        with pytest.raises(UnavailableError):
            await client.request(pack("PING"), 1)
        await asyncio.sleep(0.2)  # the dial fails by itself
        with pytest.raises(UnavailableError):
            await client.request(pack("PING"), 1)  # and its task is replaced
        gc.collect()
        await asyncio.sleep(0)
        client.close()
        server.close()
        await asyncio.sleep(0.05)  # connections hear that the other side hung up

    asyncio.run(scene())
    assert complaints == []


def test_requests_of_one_loop_turn_are_sent_together() -> None:
    pieces: list[int] = []

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ping = len(pack("PING"))
        while data := await reader.read(65_536):
            if data.endswith(pack("PING")):
                asked = data.count(b"PING")
                pieces.append(asked if len(data) == asked * ping else 0)  # 0: the handshake
                writer.write(b"+PONG\r\n" * (asked if pieces[-1] else data.count(b"*")))
        writer.close()

    async def scene() -> None:
        server = await asyncio.start_server(answering, "127.0.0.1", 0)
        client = AsyncRedisClient(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", 5.0)
        await client.request(pack("PING"), 1)
        answers = await asyncio.gather(*(client.request(pack("PING"), 1) for _ in range(20)))
        assert answers == [["PONG"]] * 20 or answers == [[b"PONG"]] * 20
        client.close()
        server.close()

    asyncio.run(scene())
    assert pieces == [0, 1, 20]


def test_closing_within_a_requests_turn_fails_it_silently() -> None:
    complaints: list[dict[str, Any]] = []

    async def pong(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        server = await asyncio.start_server(pong, "127.0.0.1", 0)
        client = AsyncRedisClient(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", 5.0)
        await client.request(pack("PING"), 1)
        asking = asyncio.ensure_future(client.request(pack("PING"), 1))
        asyncio.get_running_loop().call_soon(client.close)
        with pytest.raises(UnavailableError, match="closed"):
            await asking
        await asyncio.sleep(0.01)
        server.close()

    uvloop.run(scene())
    assert complaints == []
