"""One pipelined Redis connection for asyncio, made for the hot path: many requests in flight, replies in
order, a deadline that holds, no retries.

A client library's pool costs several times the round trip in CPU, and its timeouts bound each socket
operation, not the request. Here a request is bytes out and a future; hiredis parses what comes back.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis

from services.errors import ConfigurationError, UnavailableError

SILENT_S = 1.0  # a connection that owes an answer this long is given up
MOST_WAITING = 4_096

pack = hiredis.pack_command


class AsyncRedisClient:
    """Requests to one Redis at `url` (redis:// or rediss://), each answered within `deadline_s` or refused.

    Belongs to the event loop that uses it first; another loop gets a connection of its own.
    """

    def __init__(self, url: str, deadline_s: float):
        self._where = _Address(url)
        self._deadline_s = deadline_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._talk: _Connection | None = None
        self._connecting: asyncio.Task[_Connection] | None = None

    async def request(self, packed: bytes, replies: int) -> list[Any]:
        """Send packed commands, return their `replies` answers. Raises UnavailableError at the deadline,
        when the connection breaks, or when Redis answers an error."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline_s
        talk = self._talk
        if talk is None or not talk.usable(loop):
            talk = await self._connect(loop, until)
        answered = talk.send(packed, replies)
        timer = loop.call_at(until, _grace, loop, answered, self._deadline_s)
        try:
            return await answered
        finally:
            timer.cancel()

    def close(self) -> None:
        """Hang up; idempotent."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._talk is not None:
            self._talk.hang_up("closed")
            self._talk = None

    async def _connect(self, loop: asyncio.AbstractEventLoop, until: float) -> "_Connection":
        if self._loop is not loop:
            self._loop, self._connecting, self._talk = loop, None, None
        if self._talk is not None:
            self._talk.hang_up("no answer")
            self._talk = None
        if self._connecting is None or self._connecting.done():
            self._connecting = loop.create_task(self._dial(loop))
            self._connecting.add_done_callback(_seen)
        task = self._connecting
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - loop.time()))
        if not done:
            raise _late(self._deadline_s)
        if task.cancelled() or task.exception() is not None:
            raise UnavailableError("Redis", str(None if task.cancelled() else task.exception()))
        return task.result()

    async def _dial(self, loop: asyncio.AbstractEventLoop) -> "_Connection":
        where = self._where
        dialling = loop.create_connection(_Connection, where.host, where.port, ssl=where.tls)
        _, talk = await asyncio.wait_for(dialling, SILENT_S)
        try:
            await asyncio.wait_for(talk.send(where.greeting, where.greetings), SILENT_S)
        except BaseException:
            talk.hang_up("no greeting")
            raise
        self._talk = talk
        return talk


def _seen(dialling: "asyncio.Task[_Connection]") -> None:
    """A failure that nobody waits for any more is no news: the next request dials again."""
    if not dialling.cancelled():
        dialling.exception()


class _Address:
    """Where and how to connect; `greeting` are the packed commands that open a connection."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss"):
            raise ConfigurationError(f"RINGSIDE_REDIS_URL: {parts.scheme!r} is not redis or rediss")
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 6379
        self.tls = ssl.create_default_context() if parts.scheme == "rediss" else None
        commands: list[tuple[str, ...]] = []
        if parts.password:
            user = (unquote(parts.username),) if parts.username else ()
            commands.append(("AUTH", *user, unquote(parts.password)))
        commands += [("SELECT", parts.path.strip("/") or "0"), ("PING",)]
        self.greeting, self.greetings = b"".join(pack(command) for command in commands), len(commands)


class _Connection(asyncio.Protocol):
    """A connection: what was asked and not yet answered, oldest first."""

    def __init__(self) -> None:
        self._replies = hiredis.Reader()
        self._waiting: deque[_Ask] = deque()
        self._unsent: list[bytes] = []
        self._transport: Any = None
        self._lost: str | None = None
        self._loop = asyncio.get_running_loop()

    def usable(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it belongs to `loop`, is open, and does not owe an old answer."""
        overdue = self._waiting and loop.time() - self._waiting[0].since > SILENT_S
        return self._lost is None and self._loop is loop and not overdue

    def send(self, packed: bytes, replies: int) -> "asyncio.Future[list[Any]]":
        """Queue commands; the future holds their answers."""
        if self._lost is not None:
            raise UnavailableError("Redis", self._lost)
        if len(self._waiting) >= MOST_WAITING:
            raise UnavailableError("Redis", f"{MOST_WAITING} requests wait for an answer")
        ask = _Ask(self._loop.create_future(), replies, self._loop.time())
        self._waiting.append(ask)
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        return ask.answered

    def _flush(self) -> None:
        """One system call, and one wake-up of Redis, for what all requests of this turn ask."""
        unsent, self._unsent = self._unsent, []
        if self._lost is None:  # else those who wait have failed already
            self._transport.write(b"".join(unsent))

    def hang_up(self, why: str) -> None:
        """Close at once; everything that waits fails."""
        self._fail(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol: hand every whole reply to the request that it answers."""
        self._replies.feed(data)
        reply = self._replies.gets()
        while reply is not False:
            if not self._waiting:
                return self.hang_up("an answer to nothing")
            ask = self._waiting[0]
            ask.replies.append(reply)
            if len(ask.replies) == ask.expected:
                self._waiting.popleft()
                ask.settle()
            reply = self._replies.gets()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self._fail(str(exc) if exc else "the connection was closed")

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        while self._waiting:
            ask = self._waiting.popleft()
            if not ask.answered.done():
                ask.answered.set_exception(UnavailableError("Redis", why))


class _Ask:
    """Commands that were sent at `since` (loop time) and expect so many replies."""

    __slots__ = ("answered", "expected", "replies", "since")

    def __init__(self, answered: "asyncio.Future[list[Any]]", expected: int, since: float):
        self.answered, self.expected, self.since = answered, expected, since
        self.replies: list[Any] = []

    def settle(self) -> None:
        """Wake the request: with its replies, or with the first error among them."""
        if self.answered.done():  # it gave up at its deadline
            return
        error = next((reply for reply in self.replies if isinstance(reply, hiredis.ReplyError)), None)
        if error is None:
            self.answered.set_result(self.replies)
        else:
            self.answered.set_exception(UnavailableError("Redis", str(error)))


def _grace(loop: asyncio.AbstractEventLoop, answered: "asyncio.Future[list[Any]]", deadline_s: float) -> None:
    """One more turn of the loop: after a stall of our own the answer may lie in the socket, unread."""
    loop.call_later(0.001, _give_up, answered, deadline_s)


def _give_up(answered: "asyncio.Future[list[Any]]", deadline_s: float) -> None:
    if not answered.done():
        answered.set_exception(_late(deadline_s))


def _late(deadline_s: float) -> UnavailableError:
    return UnavailableError("Redis", f"no answer within {deadline_s * 1_000:.0f} ms")


def commands(*packed: Sequence[str | bytes | int]) -> bytes:
    """Several commands as one block of bytes."""
    return b"".join(pack(tuple(command)) for command in packed)
