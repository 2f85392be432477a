"""Bytes on a real socket, right or wrong, and what comes back."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from services.settings import Settings
from services.web.connection_limits import http_protocol
from services.web.response_coalescing import CoalescingProtocol
from services.web.worker_supervisor import listener
from support.small_shop import KEYS

PATIENCE_S = 30.0
KEY = KEYS["storefront"][0].encode()


@contextmanager
def running_server(app: Any, settings: Settings | None = None, **limits: Any) -> Iterator[tuple[str, int]]:
    """Where `app` answers, as `ringside recommend` would serve it."""
    open_at = listener("127.0.0.1", 0)
    config = uvicorn.Config(
        app, lifespan="off", ws="none", log_level="critical", timeout_keep_alive=1,
        http=http_protocol(settings or Settings(), CoalescingProtocol, **limits),
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([open_at],))
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield open_at.getsockname()
    finally:
        server.should_exit = True
        thread.join()


@dataclass(frozen=True)
class Reply:
    """What a connection gave back before the server closed it (`closed`) or fell silent.

    sent: bytes of whole pieces that the server took.
    """

    raw: bytes
    closed: bool
    sent: int

    @property
    def statuses(self) -> list[int]:
        """Of every answer."""
        heads = [part for part in self.raw.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]
        return [int(head[:3]) for head in heads]


def exchange(at: tuple[str, int], *pieces: bytes, until_s: float = PATIENCE_S) -> Reply:
    """Send, and read until the server hangs up. We never close first, because uvicorn does not answer a
    client that half-closes."""
    with socket.create_connection(at, until_s) as line:
        received, closed, sent = b"", False, 0
        try:
            for piece in pieces:
                line.sendall(piece)
                sent += len(piece)
            while chunk := line.recv(65_536):
                received += chunk
            closed = True
        except ConnectionError:
            closed = True
        except TimeoutError:
            pass
        return Reply(received, closed, sent)


def post(path: bytes, body: bytes, *headers: bytes, close: bool = True) -> bytes:
    """A POST request that is valid unless `headers` make it invalid."""
    lines = [b"POST " + path + b" HTTP/1.1", b"host: x", b"x-api-key: " + KEY, *headers]
    if not any(line.lower().startswith((b"content-length", b"transfer-encoding")) for line in headers):
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, *([b"connection: close"] if close else []), b"", body])


def get(path: bytes, *headers: bytes, close: bool = True) -> bytes:
    """A valid GET request."""
    closing = [b"connection: close"] if close else []
    return b"\r\n".join(
        [b"GET " + path + b" HTTP/1.1", b"host: x", b"x-api-key: " + KEY, *headers, *closing, b"", b""]
    )


SLATE = b'{"user_id":"anna","session_id":"s1"}'
CLICK = b'[{"event_id":"e","type":"click","item_id":"i1"}]'
VALID = (
    get(b"/recommend?user_id=anna&n=3"), post(b"/recommend", SLATE), post(b"/events", CLICK),
    get(b"/similar/i1"), get(b"/popular?n=2"), post(b"/rerank", b'{"items":["i1","i2"]}'),
    get(b"/health/live"),
    post(b"/events", b"%x\r\n%s\r\n0\r\n\r\n" % (len(CLICK), CLICK), b"transfer-encoding: chunked"),
)  # fmt: skip
INVALID = (
    post(b"/events", CLICK, b"content-length: 5"),
    post(b"/events", CLICK, b"content-length: 500"),
    post(b"/events", CLICK, b"content-length: -5"),
    post(b"/events", CLICK, b"content-length: 1e3"),
    post(b"/events", CLICK, b"content-length: " + b"9" * 5_000),
    post(b"/events", CLICK, b"content-length: 48", b"content-length: 5"),
    post(b"/events", CLICK, b"content-length: 48", b"transfer-encoding: chunked"),
    post(b"/events", b"zz\r\n" + CLICK, b"transfer-encoding: chunked"),
    post(b"/events", b"ffffffffffffffff\r\n" + CLICK, b"transfer-encoding: chunked"),
    post(b"/events", b"-1\r\n\r\n", b"transfer-encoding: chunked"),
    post(b"/events", b"5\r\nab", b"transfer-encoding: chunked"),
    post(b"/events", CLICK, b"transfer-encoding: gzip, chunked"),
    post(b"/events", CLICK, b"transfer-encoding: xchunked"),
    get(b"/similar/\xff\xfe"), get(b"/similar/%00"), get(b"/similar/%ff%fe"),
    get(b"/%2e%2e/%2e%2e/etc/passwd"),
    get(b"/similar/..%2f..%2fetc%2fpasswd"), get(b"*"), get(b"http://evil.example/recommend"),
    get(b"recommend"),
    get(b"/recommend?user_id=\xed\xa0\x80"), get(b"/recommend?user_id=%ed%a0%80"),
    get(b"/recommend?n=1 HTTP/1.1 x"),
    get(b"/recommend", b"x-api-key : x"), get(b"/recommend", b" folded"), get(b"/recommend", b"a\x00b: c"),
    get(b"/recommend", b"user-agent: \xff\x00"), get(b"/recommend", b"x-ringside-arm: \xc3\x28"),
    get(b"/recommend", b"expect: 100-continue"), get(b"/recommend", b"upgrade: websocket",
    b"connection: upgrade"),
    get(b"/recommend", *[b"x%d: y" % at for at in range(900)]),
    b"GET /recommend HTTP/9.9\r\n\r\n", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"GET /popular HTTP/1.0\r\n\r\n", b"DELETE /recommend HTTP/1.1\r\nhost: x\r\n\r\n", b"\x00" * 500,
    VALID[0].replace(b"connection: close", b"x: y") + VALID[1],
)  # fmt: skip


def corrupted_request(rng: random.Random) -> list[bytes]:
    """A valid request with corrupted bytes, in one piece or several."""
    raw = bytearray(rng.choice(VALID))
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(max(1, len(raw)))
        what = rng.randrange(4)
        if what == 0:
            raw[at : at + 1] = rng.randbytes(1)
        elif what == 1:
            del raw[at : at + rng.randint(1, 20)]
        elif what == 2:
            raw[at:at] = rng.choice(
                [b"\r\n", b"\x00", b":", b" ", b"%", b"\xff" * 9, b"a" * 3_000, bytes(raw[:at])]
            )
        else:
            raw = raw[: at + 1]
    cut = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.choice([0, 0, 1, 3])))
    return [bytes(raw[a:b]) for a, b in zip([0, *cut], [*cut, len(raw)], strict=True)]
