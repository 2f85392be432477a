"""A pipelined Redis client for asyncio, made for the hot path.

Many requests share one connection, and replies arrive in the order of the requests. Each request has a
deadline, and none is retried. The pool of a client library costs several times the round trip in CPU, and its
timeouts apply to socket operations instead of requests. Here a request is bytes and a future, and hiredis
parses replies.
"""

import asyncio
import ssl
from collections import deque
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis

from services.errors import ConfigurationError, UnavailableError

STALE_S = 1.0  # a connection whose oldest request waits longer than this is replaced
MAX_PENDING = 4_096


def pack(*parts: str | bytes | int) -> bytes:
    """One command in the protocol of Redis."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub declares a tuple of one
    return packed


class AsyncRedisClient:
    """Sends requests to the Redis at `url` (redis:// or rediss://) and gives up on each after `deadline_s`.

    A connection belongs to the event loop that opened it. Another loop opens another connection.
    """

    def __init__(self, url: str, deadline_s: float):
        self._address = _Address(url)
        self._deadline_s = deadline_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[_Connection] | None = None

    async def request(self, packed: bytes, replies: int) -> list[Any]:
        """Send packed commands and return their `replies` replies.

        Raises UnavailableError at the deadline, if the connection breaks, or if a reply is an error.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._deadline_s
        connection = self._connection
        if connection is None or not connection.usable(loop):
            connection = await self._connect(loop, until)
        result = connection.send(packed, replies)
        timer = loop.call_at(until, _expire_soon, loop, result, self._deadline_s)
        try:
            return await result
        finally:
            timer.cancel()

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._connection is not None:
            self._connection.abort("closed")
            self._connection = None

    async def _connect(self, loop: asyncio.AbstractEventLoop, until: float) -> "_Connection":
        if self._loop is not loop:
            self._loop, self._opening, self._connection = loop, None, None
        if self._connection is not None:
            self._connection.abort("no reply")
            self._connection = None
        if self._opening is None or self._opening.done():
            self._opening = loop.create_task(self._open(loop))
            self._opening.add_done_callback(_retrieve_exception)
        task = self._opening
        done, _ = await asyncio.wait({task}, timeout=max(0.0, until - loop.time()))
        if not done:
            raise _late(self._deadline_s)
        if task.cancelled() or task.exception() is not None:
            raise UnavailableError("Redis", "closed" if task.cancelled() else str(task.exception()))
        return task.result()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> "_Connection":
        address = self._address
        connecting = loop.create_connection(_Connection, address.host, address.port, ssl=address.tls)
        _, connection = await asyncio.wait_for(connecting, STALE_S)
        try:
            await asyncio.wait_for(connection.send(address.handshake, address.handshake_replies), STALE_S)
        except BaseException:
            connection.abort("the handshake failed")
            raise
        self._connection = connection
        return connection


def _retrieve_exception(opening: "asyncio.Task[_Connection]") -> None:
    """Keep asyncio from logging a failure that no request waits for; the next request connects again."""
    if not opening.cancelled():
        opening.exception()


class _Address:
    """Where and how to connect. `handshake`: packed commands that begin a connection."""

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
        self.handshake, self.handshake_replies = (
            b"".join(pack(*command) for command in commands),
            len(commands),
        )


class _Connection(asyncio.Protocol):
    """One connection and its pending requests, oldest first."""

    def __init__(self) -> None:
        self._replies = hiredis.Reader()
        self._pending: deque[_Request] = deque()
        self._unsent: list[bytes] = []
        self._transport: Any = None
        self._lost: str | None = None
        self._loop = asyncio.get_running_loop()

    def usable(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it belongs to `loop`, is open, and no request waits for too long."""
        overdue = self._pending and loop.time() - self._pending[0].since > STALE_S
        return self._lost is None and self._loop is loop and not overdue

    def send(self, packed: bytes, replies: int) -> "asyncio.Future[list[Any]]":
        """Queue commands; the future holds their replies."""
        if self._lost is not None:
            raise UnavailableError("Redis", self._lost)
        if len(self._pending) >= MAX_PENDING:
            raise UnavailableError("Redis", f"{MAX_PENDING} requests wait for a reply")
        request = _Request(self._loop.create_future(), replies, self._loop.time())
        self._pending.append(request)
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packed)
        return request.result

    def _flush(self) -> None:
        """Write the commands of all requests of this turn of the loop in one system call."""
        unsent, self._unsent = self._unsent, []
        if self._lost is None:  # otherwise the requests have failed already
            self._transport.write(b"".join(unsent))

    def abort(self, why: str) -> None:
        """Close at once; every pending request fails."""
        self._fail(why)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; see asyncio.Protocol."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Give each complete reply to the oldest pending request; see asyncio.Protocol."""
        self._replies.feed(data)
        reply = self._replies.gets()
        while reply is not False:
            if not self._pending:
                return self.abort("a reply without a request")
            request = self._pending[0]
            request.replies.append(reply)
            if len(request.replies) == request.expected:
                self._pending.popleft()
                request.settle()
            reply = self._replies.gets()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending requests; see asyncio.Protocol."""
        self._fail(str(exc) if exc else "the connection was closed")

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        while self._pending:
            request = self._pending.popleft()
            if not request.result.done():
                request.result.set_exception(UnavailableError("Redis", why))


class _Request:
    """Commands sent at `since` (loop time) that expect `expected` replies."""

    __slots__ = ("expected", "replies", "result", "since")

    def __init__(self, result: "asyncio.Future[list[Any]]", expected: int, since: float):
        self.result, self.expected, self.since = result, expected, since
        self.replies: list[Any] = []

    def settle(self) -> None:
        """Set the result: the replies, or the first error among them."""
        if self.result.done():  # it gave up at its deadline
            return
        error = next((reply for reply in self.replies if isinstance(reply, hiredis.ReplyError)), None)
        if error is None:
            self.result.set_result(self.replies)
        else:
            self.result.set_exception(UnavailableError("Redis", str(error)))


def _expire_soon(
    loop: asyncio.AbstractEventLoop, result: "asyncio.Future[list[Any]]", deadline_s: float
) -> None:
    """Wait one more turn of the loop: if the loop itself stalled, the reply may lie unread in the socket."""
    loop.call_later(0.001, _expire, result, deadline_s)


def _expire(result: "asyncio.Future[list[Any]]", deadline_s: float) -> None:
    if not result.done():
        result.set_exception(_late(deadline_s))


def _late(deadline_s: float) -> UnavailableError:
    return UnavailableError("Redis", f"no answer within {deadline_s * 1_000:.0f} ms")
