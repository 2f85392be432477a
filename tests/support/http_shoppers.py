"""Clients that keep their connections and count every answer: what a storefront would see."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


class BrokenError(Exception):
    """The connection ended before the whole answer was there."""


@dataclass
class ShopperLog:
    """What a group of shoppers observed: statuses, connections that broke, ids of the slates it got."""

    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    closed_politely: int = 0
    failed: list[str] = field(default_factory=list)
    users: dict[str, float] = field(
        default_factory=dict
    )  # user -> when the latest slate arrived (monotonic, s)
    degraded: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Connection:
    """One kept connection, opened when needed."""

    def __init__(self, port: int, key: str):
        self._port = port
        self._head = f"HTTP/1.1\r\nHost: test\r\nX-API-Key: {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.closed_politely = 0

    async def ask(self, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        """Status and body. Raises BrokenError."""
        length = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body else ""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(f"{method} {path} {self._head}{length}\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length_of = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length_of)
        except (OSError, EOFError) as error:
            self.close()
            raise BrokenError(repr(error)) from error
        if b"connection: close" in head:
            self.closed_politely += 1
            self.close()
        return int(head[9:12]), answer

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def run_shopper(
    port: int, key: str, name: str, repeats: int, seen: ShopperLog, until: asyncio.Event
) -> None:
    """Request slates until `until` is set; retry a failed request at most `repeats` times."""
    connection = Connection(port, key)
    visit = 0
    loop = asyncio.get_running_loop()
    while not until.is_set():
        visit += 1
        for attempt in range(repeats + 1):
            began, user = loop.time(), f"{name}-{visit}"
            try:
                status, body = await connection.ask(f"/recommend?user_id={user}&session_id={name}&n=3")
            except BrokenError as error:
                seen.broken += 1
                if attempt == repeats:
                    seen.failed.append(str(error))
                continue
            seen.statuses[status] += 1
            seen.seconds.append(loop.time() - began)
            record_response(seen, status, body, user)
            break
        await asyncio.sleep(0.01)
    seen.closed_politely += connection.closed_politely
    connection.close()


def record_response(seen: ShopperLog, status: int, body: bytes, user: str) -> None:
    """Add one response to the log."""
    if status != 200:
        seen.failed.append(f"{status}: {body[:200]!r}")
        return
    answer: dict[str, Any] = json.loads(body)
    seen.users[user] = time.monotonic()
    seen.degraded[str(answer["degraded"])] += 1


@dataclass
class ShopperGroup:
    """`size` shoppers at once; use as an async context: they shop while it lasts."""

    port: int
    key: str
    size: int
    repeats: int
    seen: ShopperLog = field(default_factory=ShopperLog)

    async def __aenter__(self) -> ShopperLog:
        self._until = asyncio.Event()
        self._tasks = [
            asyncio.create_task(
                run_shopper(self.port, self.key, f"c{at}", self.repeats, self.seen, self._until)
            )
            for at in range(self.size)
        ]
        return self.seen

    async def __aexit__(self, *_: object) -> None:
        self._until.set()
        await asyncio.gather(*self._tasks)


async def wait_for_responses(seen: ShopperLog, by: int) -> None:
    """Wait until `by` more answers have come."""
    goal = sum(seen.statuses.values()) + by
    while sum(seen.statuses.values()) < goal:
        await asyncio.sleep(0.02)
