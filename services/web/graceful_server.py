"""A server that shuts down without losing a request: it stops accepting connections, closes every kept
connection after its next answer, then ends.

uvicorn closes idle connections as soon as it is asked to stop, so a request that is just being sent on one of
them is lost. Here each kept connection gets its next answer with `Connection: close`, for as long as a
connection may be idle anyway. Meanwhile /health/ready answers `draining`.
"""

import asyncio
import logging
import socket
from contextlib import AbstractContextManager, ExitStack, nullcontext
from multiprocessing.connection import Connection
from threading import Event

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

POLL_EVERY_S = 0.05
CLOSING = (b"connection", b"close")


class DrainingServer(uvicorn.Server):
    """A uvicorn server with a grace period.

    drain_s: how long kept connections are still answered after the signal.
    leaving: is set when the grace period begins.
    parent: pipe of the supervisor, which is sent a message once requests are accepted. If it breaks the
        supervisor is gone, and this process ends.
    meanwhile: context that is entered while requests are answered. It can't surround `run`, because uvicorn
        raises the signal again at its end.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain_s: float,
        leaving: Event,
        parent: Connection | None = None,
        meanwhile: AbstractContextManager[object] | None = None,
    ):
        super().__init__(config)
        self._drain_s = drain_s
        self._leaving = leaving
        self._parent = parent
        self._meanwhile = meanwhile or nullcontext()
        self._entered = ExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept requests, then report ready to the supervisor. Overrides uvicorn's."""
        await super().startup(sockets)
        self._entered.enter_context(self._meanwhile)
        if self._parent is not None:
            asyncio.get_running_loop().add_reader(self._parent.fileno(), self._end_as_orphan, self._parent)
            self._parent.send_bytes(b"ready")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then close idle connections and wait for requests under way. Overrides uvicorn's."""
        self._leaving.set()
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self._close_after_next_answer()
        await self._drained()
        await super().shutdown(sockets)
        self._entered.close()

    def _close_after_next_answer(self) -> None:
        state = self.server_state
        state.default_headers = [*state.default_headers, CLOSING]
        for connection in state.connections:
            assert isinstance(connection, HttpToolsProtocol)  # the only protocol of our servers
            if connection.cycle is not None and not connection.cycle.response_complete:
                connection.cycle.keep_alive = False

    async def _drained(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_s
        while self.server_state.connections and not self.force_exit and loop.time() < end:
            await asyncio.sleep(POLL_EVERY_S)

    def _end_as_orphan(self, parent: Connection) -> None:
        asyncio.get_running_loop().remove_reader(parent.fileno())
        log.error("the supervisor is gone; this worker ends")
        self.should_exit = True
