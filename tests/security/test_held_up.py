"""Clients that hold us up: sent ahead, never read, never finished, dear for one request."""

import http.client
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from support.asgi_calls import racing_shop
from support.raw_sockets import PATIENCE_S, post, running_server
from support.small_shop import KEYS

from services.recommend.app import serving_config
from services.recommend.bots import is_bot
from services.recommend.http_app import create_app, fast_path
from services.setting_types import parse_networks
from services.settings import Settings
from services.web.access import client_reader
from services.web.client_address import strangers
from services.web.connection_limits import ConnectionLimit
from services.web.rate_limit import RateLimiter

HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nconnection: close\r\nhost: x\r\n\r\n"
LARGE = 16 << 20  # more than all buffers between two sockets


def read_all(line: socket.socket, pause_s: float = 0.0) -> bytes:
    """Until the other side hangs up."""
    got = []
    try:
        while piece := line.recv(1 << 19):
            got.append(piece)
            time.sleep(pause_s)
    except ConnectionResetError:
        pass
    return b"".join(got)


def test_who_sends_many_requests_ahead_is_hung_up_on(tmp_path: Path) -> None:
    with racing_shop(tmp_path).client() as caller, running_server(caller.http.app) as at:
        with socket.create_connection(at, PATIENCE_S) as line:
            line.sendall(HEAD * 1_000)
            assert read_all(line).count(b"HTTP/1.1 404") < 100
        with socket.create_connection(at, PATIENCE_S) as line:  # a few are fine
            line.sendall(HEAD * 10 + LAST)
            assert read_all(line).count(b"HTTP/1.1 404") == 11


async def large(scope: Any, receive: Any, send: Any) -> None:
    """An application with much to say."""
    await Response(bytes(LARGE))(scope, receive, send)


@pytest.mark.parametrize(("receive_s", "pause_s", "whole"), [(0.5, None, False), (2.0, 0.015, True)])
def test_a_connection_taking_nothing_of_its_answer_is_closed(
    receive_s: float, pause_s: float | None, whole: bool
) -> None:
    """A connection that takes a little now and then stays open, for longer than `receive_s` in all."""
    began_s = time.monotonic()
    with running_server(large, receive_s=receive_s) as at, socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        line.settimeout(PATIENCE_S)
        line.connect(at)
        line.sendall(LAST)
        if pause_s is None:
            time.sleep(2.5)
        got = read_all(line, pause_s or 0.0)
    assert (len(got) > LARGE) == whole
    assert time.monotonic() - began_s > receive_s


def test_a_head_of_thousands_of_headers_is_refused(tmp_path: Path) -> None:
    with (
        racing_shop(tmp_path).client() as caller,
        running_server(caller.http.app) as at,
        socket.create_connection(at, PATIENCE_S) as line,
    ):
        line.sendall(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n")
        assert line.recv(65_536).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("origin", [b"", b"origin: https://shop.example"])
def test_who_does_not_finish_a_body_takes_no_place(tmp_path: Path, origin: bytes) -> None:
    app = fast_path(create_app(racing_shop(tmp_path).deps()))
    app._shedder.slates.limit = 4
    more = [origin] if origin else []
    with running_server(app) as at:
        lines = [socket.create_connection(at, PATIENCE_S) for _ in range(8)]
        for line in lines:
            line.sendall(post(b"/recommend", b"{", b"content-length: 9", *more, close=False))
        time.sleep(0.3)
        caller = http.client.HTTPConnection(*at)
        caller.request("GET", "/popular?n=1", headers={"x-api-key": KEYS["storefront"][0]})
        assert caller.getresponse().status == 200
        for line in lines:
            line.close()


def lines_to(at: tuple[str, int], many: int) -> list[socket.socket]:
    return [socket.create_connection(at, PATIENCE_S) for _ in range(many)]


def answer_on(line: socket.socket) -> bytes:
    line.sendall(LAST)
    return read_all(line)


def test_one_client_cannot_take_all_connections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who wants one more is told why; whoever hangs up makes room. Our own servers are not counted."""
    refused: list[int] = []
    strict = Settings(own_networks="10.0.0.0/8", client_connections=3)
    with (
        racing_shop(tmp_path).client() as caller,
        running_server(caller.http.app, strict, refused=lambda: refused.append(1)) as at,
    ):
        held = lines_to(at, 3)
        for _ in range(5):
            with socket.create_connection(at, PATIENCE_S) as line:
                told = read_all(line)
            assert told.startswith(b"HTTP/1.1 429 ")
            assert b"127.0.0.1 has 3 connections, the maximum" in told
        assert len(refused) == 5
        assert [record.getMessage() for record in caplog.records if "connections" in record.getMessage()] == [
            "127.0.0.1 has 3 connections; further ones are refused"
        ]
        assert answer_on(held.pop()).startswith(b"HTTP/1.1 404 ")
        with socket.create_connection(at, PATIENCE_S) as line:
            assert answer_on(line).startswith(b"HTTP/1.1 404 ")
        for line in held:
            line.close()
    with (
        racing_shop(tmp_path).client() as caller,
        running_server(caller.http.app, Settings(client_connections=3)) as at,
    ):
        held = lines_to(at, 20)
        assert all(answer_on(line).startswith(b"HTTP/1.1 404 ") for line in held)


def test_a_refused_connection_is_counted_as_shed(tmp_path: Path) -> None:
    deps = racing_shop(tmp_path).deps()
    app = create_app(deps)
    config = serving_config(deps.settings.model_copy(update={"client_connections": 1}), app)
    config.load()
    connection_limit = config.http_protocol_class.connection_limit
    connection_limit.enter("1.2.3.4")
    with pytest.raises(PermissionError):
        connection_limit.enter("1.2.3.4")
    shed = app.state.parts.metrics.exposed.get_sample_value
    assert shed("ringside_requests_shed_total", {"reason": "connections"}) == 1
    assert shed("ringside_requests_shed_total", {"reason": "overload"}) == 0


def test_who_left_is_forgotten() -> None:
    connection_limit = ConnectionLimit(strangers(parse_networks("10.0.0.0/8")), most=2)
    names = [
        connection_limit.enter("1.2.3.4"),
        connection_limit.enter("[::ffff:1.2.3.4]:9"),
        connection_limit.enter("10.0.0.1"),
    ]
    assert names == ["1.2.3.4", "1.2.3.4", None]
    with pytest.raises(PermissionError, match=r"1\.2\.3\.4"):
        connection_limit.enter("1.2.3.4")
    assert connection_limit.enter("2001:db8::1") == connection_limit.enter("2001:db8::2") == "2001:db8::/64"
    for name in ["1.2.3.4"] * 2 + ["2001:db8::/64"] * 2:
        connection_limit.leave(name)
    assert not connection_limit._open


def test_only_the_beginning_of_a_user_agent_is_looked_at() -> None:
    assert is_bot("x" * 900 + " Googlebot/2.1 (+http://www.google.com/bot.html)")
    assert not is_bot("x" * 1_000 + " Googlebot/2.1 (+http://www.google.com/bot.html)")


@pytest.mark.parametrize(
    ("header", "who"),
    [
        ("1.2.3.4:99", "1.2.3.4"),
        ("8.8.8.8, 1.2.3.4:77", "1.2.3.4"),
        ("[2001:db8::1]:443", "2001:db8::/64"),
        ("8.8.8.8, unknown", "unknown"),
        ("1.2.3.4, 10.0.0.3:5", "1.2.3.4"),
    ],
)
def test_proxy_headers_do_not_bypass_the_rate(header: str, who: str) -> None:
    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": [(b"x-forwarded-for", header.encode())]}
    assert client_reader(parse_networks("127.0.0.0/8,10.0.0.0/8"))(Request(scope)) == who


def test_tokens_for_what_was_let_in_are_owed() -> None:
    limiter = RateLimiter(per_s=10, burst_s=1)
    assert limiter.take("a", 0.0) == 0.0
    limiter.charge("a", 99, 0.0)
    assert limiter.take("a", 0.0) == pytest.approx(9.1)
    assert limiter.wait_s("b", 0.0) == 0.0
