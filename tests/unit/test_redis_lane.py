"""The Redis connection of the hot path, when Redis accepts connections and never answers."""

import asyncio
import gc
from typing import Any

import pytest

from services.adapters import redis_lane
from services.adapters.redis_lane import RedisLane, pack
from services.errors import UnavailableError


def test_a_dial_that_fails_after_its_request_gave_up_is_not_reported_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_lane, "SILENT_S", 0.05)
    complaints: list[dict[str, Any]] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()

    async def scene() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        lane = RedisLane(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", 0.01)
        with pytest.raises(UnavailableError):
            await lane.request(pack(("PING",)), 1)
        await asyncio.sleep(0.2)  # the dial fails by itself
        with pytest.raises(UnavailableError):
            await lane.request(pack(("PING",)), 1)  # and its task is replaced
        gc.collect()
        await asyncio.sleep(0)
        lane.close()
        server.close()
        await asyncio.sleep(0.05)  # connections hear that the other side hung up

    asyncio.run(scene())
    assert complaints == []
