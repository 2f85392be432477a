"""Limits of an HTTP connection: what a client may send, how long it may take, and how many it may open.

uvicorn with httptools reads a head of any length and waits for the rest of a request without end, so one
client with many sockets, each of which sends a byte a minute, would exclude all others.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.settings import Settings
from services.web.client_address import strangers

log = logging.getLogger(__name__)

HEAD_BYTES = 131_072  # first line and headers; /recommend takes 64 KiB of query
RECEIVE_S = 20.0  # for a whole request from its first byte, and for the client to read some of an answer
MAX_HEADERS = 100  # of one request, because a search for one walks through all
MAX_PIPELINED = 16  # pipelined requests, which uvicorn queues


class ConnectionLimit:
    """Connections of each client at this process: at most `most`. `refused` is called for each one beyond.

    name_of: from an address to the client's name; None for addresses without a limit.
    """

    def __init__(
        self, name_of: Callable[[str], str | None], most: int, refused: Callable[[], None] = lambda: None
    ):
        self.most = most
        self._name_of = name_of
        self._refused = refused
        self._open: Counter[str] = Counter()
        self._logged: set[str] = set()

    def enter(self, address: str) -> str | None:
        """Count a connection. Returns the name for `leave`, None for an address without a limit; raises
        PermissionError for one too many."""
        name = self._name_of(address)
        if name is None:
            return None
        if self._open[name] >= self.most:
            self._refused()
            if name not in self._logged:
                self._logged.add(name)
                log.warning("%s has %d connections; further ones are refused", name, self.most)
            raise PermissionError(name)
        self._open[name] += 1
        return name

    def leave(self, name: str) -> None:
        """Count the end of a connection."""
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]
            self._logged.discard(name)


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with limits.

    Answers 431 to a head beyond `head_bytes`, 413 to a body beyond `body_bytes`, 408 to a request that is not
    complete after `receive_s`, 400 to more than `MAX_HEADERS` headers or `MAX_PIPELINED` pipelined requests,
    and 429 to a connection beyond the `connection_limit`. A client that reads nothing of an answer for
    `receive_s` is disconnected; otherwise the answer would stay in memory.

    The limits cost a request a few assignments, because one timer for each connection checks the clock.
    """

    head_bytes = HEAD_BYTES
    receive_s = RECEIVE_S
    body_bytes: int | None = None
    connection_limit: ConnectionLimit | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first request."""
        self._since: float | None = self.loop.time()
        self._head = 0
        self._in_head = True
        self._body = 0
        self._unsent, self._read_at = 0, self.loop.time()
        self._counted_as: str | None = None
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.receive_s / 2, self._check)
        if self.connection_limit is not None and self.client is not None:
            try:
                self._counted_as = self.connection_limit.enter(self.client[0])
            except PermissionError as error:
                most = self.connection_limit.most
                self._refuse("429 Too Many Requests", f"{error} has {most} connections, the maximum")

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._timer.cancel()
        if self.connection_limit is not None and self._counted_as is not None:
            self.connection_limit.leave(self._counted_as)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse some bytes and measure the head."""
        if self._since is None:
            self._since = self.loop.time()
        super().data_received(data)
        if self._in_head:
            self._head += len(data)
            if self._head > self.head_bytes:
                self._refuse(
                    "431 Request Header Fields Too Large", f"head: larger than {self.head_bytes} bytes"
                )

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        super().on_message_begin()
        self._since = self.loop.time()
        self._head, self._in_head, self._body = 0, True, 0

    def on_headers_complete(self) -> None:
        """Check the head. An error raised here ends the parsing and is answered 400."""
        self._in_head = False
        if len(self.headers) > MAX_HEADERS or len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many headers or pipelined requests")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Measure a part of the body."""
        self._body += len(body)
        if self.body_bytes is not None and self._body > self.body_bytes:
            self._refuse("413 Content Too Large", f"body: larger than {self.body_bytes} bytes")
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock, because the request is complete."""
        self._since = None
        super().on_message_complete()

    def _check(self) -> None:
        if self._stuck():
            self.transport.abort()  # also while it closes, because closing waits for the client
            return
        if self.transport.is_closing():
            if self._unsent:
                self._timer = self.loop.call_later(self.receive_s / 2, self._check)
            return
        if self._since is not None and self.loop.time() - self._since > self.receive_s:
            self._refuse("408 Request Timeout", f"request: not complete after {self.receive_s:g} s")
            return
        if self._since is None and self._idle_without_timer():
            self._since = self.loop.time()
        self._timer = self.loop.call_later(self.receive_s / 2, self._check)

    def _stuck(self) -> bool:
        """Whether the client has read nothing of an answer for too long. Reading shows in steps of a third of
        the system's buffer, which is about a megabyte."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._read_at = now
        self._unsent = unsent
        return unsent > 0 and now - self._read_at > self.receive_s

    def _idle_without_timer(self) -> bool:
        """Whether uvicorn's idle timer is missing: it stops when a body ends after its answer."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.timeout_keep_alive_task is None

    def _refuse(self, status: str, message: str) -> None:
        """Answer and close; only close if an answer is under way."""
        if self.transport.is_closing():
            return
        answering = (
            self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        )
        if not answering:
            head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(message)}\r\n\r\n{message}".encode())
        self.transport.close()


def bounded_http(*kinds: type, **limits: Any) -> type[BoundedHttp]:
    """BoundedHttp with other limits (`head_bytes`, `body_bytes`, `receive_s`, `connection_limit`), mixed with
    other subclasses of uvicorn's protocol."""
    return type("BoundedHttp", (*kinds, BoundedHttp), limits)


def http_protocol(
    settings: Settings, *kinds: type, refused: Callable[[], None] = lambda: None, **limits: float | None
) -> type[asyncio.Protocol]:
    """The protocol of our servers. `kinds`: protocol classes to mix in. `limits`: see BoundedHttp.
    `refused` is called for each connection beyond a client's limit."""
    connection_limit = ConnectionLimit(strangers(settings.own_networks), settings.client_connections, refused)
    return bounded_http(*kinds, connection_limit=connection_limit, **limits)
