"""Requests to an ASGI application without a server in between, byte for byte as the test built them."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.ports.features import UserRow
from services.recommend.http_app import create_app, fast_path
from support.small_shop import KEYS, SmallShop

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class AsgiRequest:
    """A request. `hangs_up`: the client disconnects before it sends the last part of its body."""

    method: str
    path: str
    query: bytes = b""
    headers: Headers = field(default_factory=list)
    body: tuple[bytes, ...] = (b"",)
    hangs_up: bool = False

    def __str__(self) -> str:
        body = b"".join(self.body)
        return f"{self.method} {self.path[:200]!r}?{self.query[:200]!r} {self.headers!r:.400} {body[:400]!r}"


@dataclass(frozen=True, slots=True)
class AsgiResponse:
    """The answer; `failure` is an exception that passed through to the server."""

    status: int
    headers: dict[str, str]
    body: bytes
    failure: BaseException | None = None

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def field(self) -> str | None:
        """The field that an error names."""
        return self.json()["error"]["field"]


async def call(app: Any, sent: AsgiRequest, client: tuple[str, int] = ("127.0.0.1", 1)) -> AsgiResponse:
    """One request, as a server would hand it on."""
    parts = list(sent.body)
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if len(parts) == 1 and sent.hangs_up:
            return {"type": "http.disconnect"}
        if not parts:
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    failure: BaseException | None = None
    try:
        await app(scope_of(sent, client), receive, send)
    except Exception as error:  # noqa: BLE001 (the test examines it)
        failure = error
    if not messages:
        return AsgiResponse(0, {}, b"", failure)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in messages[0]["headers"]}
    return AsgiResponse(
        messages[0]["status"], headers, b"".join(m.get("body", b"") for m in messages[1:]), failure
    )


def scope_of(sent: AsgiRequest, client: tuple[str, int]) -> dict[str, Any]:
    """What a server makes of the first line and the headers."""
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": sent.method,
        "scheme": "http", "path": sent.path, "raw_path": sent.path.encode("utf-8", "surrogatepass"),
        "query_string": sent.query, "root_path": "", "headers": sent.headers, "client": client,
        "server": ("memory", 80),
    }  # fmt: skip


def key(role: str = "storefront") -> tuple[bytes, bytes]:
    """The API-key header of a role."""
    return b"x-api-key", KEYS[role][0].encode()


def racing_shop(home: Path, **settings: Any) -> SmallShop:
    """A shop in which `other` has half of the traffic, and one shopper is known."""
    shop = SmallShop(home, **settings)
    shop.race(0.5)
    shop.reader.rows["anna"] = UserRow(("i1",), (shop.now_ms,), ("view",), shop.now_ms)
    return shop


@contextlib.asynccontextmanager
async def running_app(shop: SmallShop) -> Any:
    """Run the application with a loaded snapshot; yield (ASGI entry point, the application's parts)."""
    app = create_app(shop.deps())
    async with app.router.lifespan_context(app):
        await app.state.parts.refresher.refresh()
        yield fast_path(app), app.state.parts


def parts_of(body: bytes, cuts: Iterator[int]) -> tuple[bytes, ...]:
    """A body in pieces of these sizes."""
    parts = []
    while body:
        size = next(cuts)
        parts.append(body[:size])
        body = body[size:]
    return tuple(parts) or (b"",)
