"""A server that leaves politely: it stops accepting, tells every kept connection to go elsewhere, then ends.

uvicorn closes idle connections the moment it is told to stop; a request that is just being sent on one of
them is lost. Here each kept connection gets its next answer with `Connection: close`, for as long as a
connection may be idle anyway; and /health/ready says that we leave, to who watches us over such a one.
"""

import asyncio
import logging
import socket
from contextlib import AbstractContextManager, ExitStack, nullcontext
from multiprocessing.connection import Connection
from threading import Event

import uvicorn

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.05
CLOSING = (b"connection", b"close")


class DrainingServer(uvicorn.Server):
    """`drain_s`: how long kept connections are still answered after the signal; `leaving` is set before.
    `parent`: the supervisor's pipe, told once requests are accepted; when it breaks the supervisor is gone,
    and so is this process. `meanwhile`: held while anybody may be answered; around `run` it would never be
    left, because uvicorn raises the signal again in the end."""

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
        self._held = ExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Of uvicorn: load, then accept; and say so."""
        await super().startup(sockets)
        self._held.enter_context(self._meanwhile)
        if self._parent is not None:
            asyncio.get_running_loop().add_reader(self._parent.fileno(), self._orphaned)
            self._parent.send_bytes(b"ready")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Of uvicorn: drain, then close what is still idle and wait for what is being answered."""
        self._leaving.set()
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        self._say_goodbye()
        await self._until_gone()
        await super().shutdown(sockets)
        self._held.close()

    def _say_goodbye(self) -> None:
        """Every answer from now on ends its connection."""
        state = self.server_state
        state.default_headers = [*state.default_headers, CLOSING]
        for connection in state.connections:
            if connection.cycle is not None and not connection.cycle.response_complete:
                connection.cycle.keep_alive = False

    async def _until_gone(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_s
        while self.server_state.connections and not self.force_exit and loop.time() < end:
            await asyncio.sleep(LOOK_EVERY_S)

    def _orphaned(self) -> None:
        assert self._parent is not None
        asyncio.get_running_loop().remove_reader(self._parent.fileno())
        log.error("the supervisor is gone; this worker ends")
        self.should_exit = True
