"""A TCP proxy that misbehaves: refuses, hangs, or adds latency. For Kafka it rewrites the broker's address,
so that clients stay behind it.
"""

import asyncio
import threading
from typing import Any

from services.local_servers.process import free_port

HOST = "127.0.0.1"


class FaultyProxy:
    """Listens on `port` and forwards to `target` (a port here); `refuse`, `hang`, `slow`, `pass_on` at any
    time."""

    def __init__(self, target: int):
        self.port = free_port()
        self.target = target
        self._latency_s = 0.0
        self._open = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.pass_on()

    def pass_on(self) -> None:
        """Be healthy."""
        self._do(self._set(0.0, listening=True, hanging=False))

    def refuse(self) -> None:
        """Break what is connected, refuse what comes."""
        self._do(self._set(0.0, listening=False, hanging=False))

    def hang(self) -> None:
        """Accept, keep connections, pass nothing on."""
        self._do(self._set(0.0, listening=True, hanging=True))

    def slow(self, latency_s: float) -> None:
        """Every piece takes this long in each direction."""
        self._do(self._set(latency_s, listening=True, hanging=False))

    def close(self) -> None:
        """End."""
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, what: Any) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _set(self, latency_s: float, listening: bool, hanging: bool) -> None:
        self._latency_s = latency_s
        self._open.clear() if hanging else self._open.set()
        if listening and self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)
        if not listening:
            if self._server is not None:
                self._server.close()
                self._server = None
            for line in list(self._lines):
                line.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            back, other = await asyncio.open_connection(HOST, self.target)
            self._lines.add(other)
            ways = (self._pump(reader, other, False), self._pump(back, writer, True))
            await asyncio.wait([asyncio.create_task(way) for way in ways], return_when="FIRST_COMPLETED")
        except OSError:
            pass
        finally:
            for line in (writer, other):
                if line is not None:
                    self._lines.discard(line)
                    line.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(pieces, writer))
        try:
            while piece := await reader.read(65_536):
                due = self._loop.time() + self._latency_s
                pieces.put_nowait((due, self._readdressed(piece) if back else piece))
        except OSError:
            pass
        finally:
            sending.cancel()

    async def _send(self, pieces: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._open.wait()
            writer.write(piece)

    def _readdressed(self, piece: bytes) -> bytes:
        """Kafka's metadata name the broker as host and port (int32): put ours there, of the same length."""
        host = HOST.encode()
        theirs, ours = self.target.to_bytes(4, "big"), self.port.to_bytes(4, "big")
        return piece.replace(host + theirs, host + ours)
