"""HTTP/1.1 for the simulator's client, with the interface of httpx: persistent connections, bodies with
Content-Length, one deadline for each request. It supports what Ringside's services send: no redirects, no
chunks, no TLS.

The simulator shares its cores with the services it measures, and httpx is too slow for that. Measured with
slates of 10 items over 16 connections, under `AsyncClient`: 1.9 ms CPU per request over httpx, about 0.1 ms
over this. So one core can send about 500 requests a second over httpx and 10,000 over this."""

import asyncio
from urllib.parse import urlsplit

import httpx

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class LeanHttp:
    """Sends requests to one replica over a pool of connections. Raises ValueError for a URL that is not of
    the form http://host:port."""

    def __init__(self, url: str, timeout_s: float = 5.0):
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"url: {url!r} is not of the form http://host:port")
        self._url, self._host, self._port = url, parts.hostname, parts.port or 80
        self._fixed = f"host: {parts.netloc}\r\nconnection: keep-alive\r\n"
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []

    async def request(
        self, method: str, url: str, *, content: bytes | None, headers: dict[bytes, bytes]
    ) -> httpx.Response:
        """The reply, whatever its status. Raises httpx.TransportError without a complete one."""
        head = f"{method} {url.removeprefix(self._url)} HTTP/1.1\r\n{self._fixed}".encode("latin-1")
        if content is not None:
            headers = {**headers, b"content-length": b"%d" % len(content)}
        lines = b"".join(b"%s: %s\r\n" % header for header in headers.items())
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(head + lines + b"\r\n" + (content or b""))
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no answer within {self._timeout_s:g} s") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise httpx.TransportError(f"{type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        """Close idle connections."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()

    async def _exchange(self, sent: bytes) -> httpx.Response:
        """Use an idle connection if there is one. The server may have closed it, so try the next one, in the
        end a new one. Sending a request twice is harmless: slates are reads and events carry ids."""
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._over(connection, sent)
            except (OSError, EOFError):
                continue
        return await self._over(await asyncio.open_connection(self._host, self._port), sent)

    async def _over(self, connection: Connection, sent: bytes) -> httpx.Response:
        reader, writer = connection
        try:
            writer.write(sent)
            reply = await _read_reply(reader)
        except BaseException:  # a cancelled wait too: the rest of the reply must not answer the next request
            writer.close()
            raise
        if reply.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append(connection)
        return reply


async def _read_reply(reader: asyncio.StreamReader) -> httpx.Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "content-length" not in headers and status not in (204, 304):
        raise ValueError(f"status {status} without Content-Length")
    length = int(headers.get("content-length", 0))
    return httpx.Response(status, headers=headers, content=await reader.readexactly(length))
