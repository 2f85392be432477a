"""The simulator's transport against servers that behave, close, stall and babble."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from services.client.client import AsyncClient, CallError, Request
from services.simulator.lean_http import LeanHttp

GET = Request("GET", "/a?b=c")
POST = Request("POST", "/events", b"[{}]", {"Content-Type": "application/json"})
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Send = Callable[[Request], Awaitable[httpx.Response]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Test: yes\r\n\r\nok"


def with_server(answer: Answer, talk: Callable[[Send], Awaitable[None]], timeout_s: float = 5.0) -> None:
    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        client = AsyncClient(url, "k", LeanHttp(url, timeout_s))
        try:
            await talk(client.send)
        finally:
            await client.close()
            server.close()

    asyncio.run(main())


def test_connections_are_kept_and_headers_sent() -> None:
    heads, connections = [], []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head.decode())
            if "POST" in heads[-1]:
                await reader.readexactly(4)
            writer.write(OK)

    async def talk(send: Send) -> None:
        reply = await send(GET)
        assert (reply.status_code, reply.content, reply.headers["x-test"]) == (200, b"ok", "yes")
        assert (await send(POST)).status_code == 200

    with_server(answer, talk)
    assert len(connections) == 1
    assert heads[0].startswith("GET /a?b=c HTTP/1.1\r\n")
    assert all("x-api-key: k\r\n" in head.lower() for head in heads)


def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        writer.close()  # without saying so

    async def talk(send: Send) -> None:
        for _ in range(3):
            assert (await send(GET)).content == b"ok"
            await asyncio.sleep(0.01)

    with_server(answer, talk)


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "without Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "IncompleteReadError"),
        (b"good evening\r\n\r\n", "ValueError"),
        (b"", "IncompleteReadError"),
    ],
)
def test_an_incomplete_answer_is_an_error(sent: bytes, complaint: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async def talk(send: Send) -> None:
        with pytest.raises(CallError, match=complaint):
            await send(GET)

    with_server(answer, talk)


def test_a_hanging_server_is_left_at_the_deadline() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def talk(send: Send) -> None:
        with pytest.raises(CallError, match=r"no answer within 0\.05 s"):
            await send(GET)

    with_server(answer, talk, timeout_s=0.05)


def test_nobody_there_is_an_error() -> None:
    async def talk() -> None:
        with pytest.raises(CallError, match="Connect"):
            await AsyncClient("http://127.0.0.1:1", "k", LeanHttp("http://127.0.0.1:1")).send(GET)

    asyncio.run(talk())


def test_only_plain_http_origins_are_accepted() -> None:
    with pytest.raises(ValueError, match="url: 'https://shop' is not"):
        LeanHttp("https://shop")
