"""The server's side of an HTTP connection, with an end to everything a client may draw out.

uvicorn with httptools reads a head of any length and waits for the rest of a request for ever: one client
with many sockets, a byte a minute each, needs nothing else to shut everybody out.
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
RECEIVE_S = 20.0  # for a whole request, from its first byte; for the client to take something of an answer
HEADERS = 100  # of one request: each look for one walks through all of them
AHEAD = 16  # requests sent before their answers: uvicorn queues them, and reads on after every answer


class ConnectionLimit:
    """The connections that each client has at this process: `most`, and `refused` is called for one more.

    name_of: from an address to a client's name; None, for who may have as many as they like.
    """

    def __init__(
        self, name_of: Callable[[str], str | None], most: int, refused: Callable[[], None] = lambda: None
    ):
        self.most = most
        self._name_of = name_of
        self._refused = refused
        self._of: Counter[str] = Counter()
        self._told: set[str] = set()

    def enter(self, address: str) -> str | None:
        """The name to leave by, None for who is not counted. Raises PermissionError for one too many."""
        name = self._name_of(address)
        if name is None:
            return None
        if self._of[name] >= self.most:
            self._refused()
            if name not in self._told:
                self._told.add(name)
                log.warning("%s has %d connections, more are refused", name, self.most)
            raise PermissionError(name)
        self._of[name] += 1
        return name

    def leave(self, name: str) -> None:
        """One connection fewer. Whoever has none is forgotten."""
        self._of[name] -= 1
        if not self._of[name]:
            del self._of[name]
            self._told.discard(name)


class BoundedHttp(HttpToolsProtocol):
    """431 for an endless head, 413 beyond `body_bytes`, 408 for a request that is not here after `receive_s`.
    400 for more than `HEADERS`, or more than `AHEAD` requests that wait for their turn. Who takes nothing of
    an answer for `receive_s` is hung up on: its answers and all that hold them would stay for ever. 429 for a
    connection more than one of the `crowd` may have.

    A request costs a few assignments: one timer a connection looks at the clock now and then.
    """

    head_bytes = HEAD_BYTES
    receive_s = RECEIVE_S
    body_bytes: int | None = None
    connection_limit: ConnectionLimit | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; from now on it has to say something."""
        self._since: float | None = self.loop.time()
        self._head = 0
        self._in_head = True
        self._body = 0
        self._unsent, self._taken_at = 0, self.loop.time()
        self._counted_as: str | None = None
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.receive_s / 2, self._look)
        if self.connection_limit is not None and self.client is not None:
            try:
                self._counted_as = self.connection_limit.enter(self.client[0])
            except PermissionError as error:
                most = self.connection_limit.most
                self._refuse("429 Too Many Requests", f"{error} has {most} connections here, the most it may")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._timer.cancel()
        if self.connection_limit is not None and self._counted_as is not None:
            self.connection_limit.leave(self._counted_as)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
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
        """The first line of a request begins."""
        super().on_message_begin()
        self._since = self.loop.time()
        self._head, self._in_head, self._body = 0, True, 0

    def on_headers_complete(self) -> None:
        """The empty line was read. What is raised here ends the parsing, with a 400."""
        self._in_head = False
        if len(self.headers) > HEADERS or len(self.pipeline) >= AHEAD:
            raise ValueError("more than we take")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body += len(body)
        if self.body_bytes is not None and self._body > self.body_bytes:
            self._refuse("413 Content Too Large", f"body: larger than {self.body_bytes} bytes")
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here as a whole; how long its answer takes is our own affair."""
        self._since = None
        super().on_message_complete()

    def _look(self) -> None:
        if self._stuck():
            self.transport.abort()  # also while it closes: it would wait for the client
            return
        if self.transport.is_closing():
            if self._unsent:
                self._timer = self.loop.call_later(self.receive_s / 2, self._look)
            return
        if self._since is not None and self.loop.time() - self._since > self.receive_s:
            self._refuse("408 Request Timeout", f"request: not complete after {self.receive_s:g} s")
            return
        if self._since is None and self._forgotten():
            self._since = self.loop.time()
        self._timer = self.loop.call_later(self.receive_s / 2, self._look)

    def _stuck(self) -> bool:
        """Whether the client has taken nothing of what we have for it, for too long. We see it take in steps
        of a third of the system's buffer, which is a megabyte or so."""
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._taken_at = now
        self._unsent = unsent
        return unsent > 0 and now - self._taken_at > self.receive_s

    def _forgotten(self) -> bool:
        """Answered and idle without a clock: uvicorn stops its own when a body ends after its answer."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.timeout_keep_alive_task is None

    def _refuse(self, status: str, message: str) -> None:
        """Answer and hang up, unless an answer is under way already."""
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
    """The protocol, mixed with other subclasses of uvicorn's, with other limits: `head_bytes`, `body_bytes`,
    `receive_s`, `crowd`."""
    return type("BoundedHttp", (*kinds, BoundedHttp), limits)


def http_protocol(
    settings: Settings, *kinds: type, refused: Callable[[], None] = lambda: None, **limits: float | None
) -> type[asyncio.Protocol]:
    """How our servers speak HTTP: no client may send or wait for ever, or take all connections; `refused` is
    called for each that isn't had. `kinds`: what else the protocol is; `limits`: see BoundedHttp."""
    connection_limit = ConnectionLimit(strangers(settings.own_networks), settings.client_connections, refused)
    return bounded_http(*kinds, connection_limit=connection_limit, **limits)
