"""A lean HTTP/1.1 client: kept-open connections, whole bodies by length, a deadline for each request.

Shoppers share two cores with everything they test, so a request must cost little (measured: about a fifth
of what httpx takes). It speaks only what Ringside's services answer: Content-Length bodies, no redirects,
no TLS."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit


class HttpError(Exception):
    """No complete answer: refused, cut off, malformed, or past its deadline. The message says which."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer: status code, headers (lower-case names) and body."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpClient:
    """Requests to one origin over a pool of connections; `headers` go with every request."""

    def __init__(self, origin: str, headers: dict[str, str] | None = None, timeout_s: float = 5.0):
        parts = urlsplit(origin)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"origin: {origin!r} is not of the form http://host:port")
        self.origin = origin
        self._host, self._port = parts.hostname, parts.port or 80
        fixed = {"host": parts.netloc, "connection": "keep-alive", **(headers or {})}
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        self._timeout_s = timeout_s
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, path: str) -> Reply:
        """GET `path` (with its query). Raises HttpError."""
        return await self._send(f"GET {path} HTTP/1.1\r\n{self._fixed}\r\n".encode())

    async def post(self, path: str, body: bytes) -> Reply:
        """POST a JSON body. Raises HttpError."""
        head = f"POST {path} HTTP/1.1\r\n{self._fixed}content-type: application/json\r\n"
        return await self._send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()

    async def _send(self, request: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(request)
        except TimeoutError as error:
            raise HttpError(f"no answer within {self._timeout_s:g} s") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise HttpError(f"{type(error).__name__}: {error}") from error

    async def _exchange(self, request: bytes) -> Reply:
        """Over a kept connection if there is one; a server may have closed it meanwhile, then once over a
        new one. (A request that reached the server twice is harmless: slates are reads and events carry
        ids.)"""
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._over(connection, request)
            except (OSError, EOFError):
                continue
        return await self._over(await asyncio.open_connection(self._host, self._port), request)

    async def _over(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes
    ) -> Reply:
        reader, writer = connection
        try:
            writer.write(request)
            reply = await _read_reply(reader)
        except BaseException:  # also a cancelled wait: what is still to come belongs to nobody
            writer.close()
            raise
        if reply.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append(connection)
        return reply


async def _read_reply(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "content-length" not in headers and status not in (204, 304):
        raise ValueError(f"status {status} without Content-Length")
    length = int(headers.get("content-length", 0))
    return Reply(status, headers, await reader.readexactly(length) if length else b"")
