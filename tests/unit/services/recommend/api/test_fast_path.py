"""The fast path answers exactly like the router behind it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from support.small_shop import KEYS, SmallShop

from services.recommend.api.fast_path import FastPath, FastRoute, read_body
from services.recommend.deps import Endpoint
from services.recommend.http_app import create_app, fast_path
from services.recommend.metrics import Metrics
from services.web.load_shedding import Shedder
from services.web.problem import MalformedBodyError

KEY = {"X-API-Key": KEYS["storefront"][0]}
PAGE = KEY | {"Origin": "https://shop.example"}
CLICK = {"event_id": "e1", "type": "click", "item_id": "i1"}
PATHS = (
    "/recommend",
    "/recommend/",
    "/recommend/x",
    "//recommend",
    "/Recommend",
    "/similar",
    "/similar/",
    "/similar/i1",
    "/similar/i1/",
    "/similar/a/b",
    "/similar//i1",
    "/similar/a%2Fb",
    "/similar/50%2525",
    "/similarly/i1",
    "/rerank",
    "/popular",
    "/popular/i1",
    "/events",
    "/events/",
    "/health/live",
    "/nowhere",
)


def test_a_caller_disconnecting_within_its_body_is_no_error() -> None:
    messages = iter([{"type": "http.request", "body": b"[{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict:
        return next(messages)

    request = Request({"type": "http", "method": "POST", "path": "/events", "headers": []}, receive)
    with pytest.raises(MalformedBodyError, match="connection ended"):
        asyncio.run(read_body(request, 1_000))


def test_exact_and_prefixed_routes_use_the_fast_path() -> None:
    seen: list[tuple[str, dict]] = []

    def endpoint(name: str) -> Endpoint:
        async def answer(request: Request) -> Response:
            seen.append((name, dict(request.path_params)))
            return Response(b"")

        return answer

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(("app", {}))

    async def nothing(*_: object) -> dict:
        return {}

    path = FastPath(
        app,
        [
            FastRoute("/recommend", "GET", endpoint("exact"), {}),
            FastRoute("/similar/{item_id:path}", "GET", endpoint("prefixed"), {}),
        ],
        Shedder(target_s=0.0),
        Metrics(),
        lambda app: app,
    )
    for method, where, headers in (
        ("GET", "/recommend", []),
        ("GET", "/similar/a/b", []),
        ("GET", "/similar/", []),
        ("GET", "/similar", []),
        ("POST", "/similar/a", []),
        ("GET", "/recommend", [(b"origin", b"https://shop.example")]),
        ("GET", "/similarly/a", []),
    ):
        scope = {"type": "http", "method": method, "path": where, "headers": headers}
        asyncio.run(path(scope, nothing, nothing))  # type: ignore[arg-type]
    assert seen == [("exact", {}), ("prefixed", {"item_id": "a/b"}), *[("app", {})] * 5]


def answers(home: Path, *, fast: bool, headers: dict[str, str], method: str) -> list[Any]:
    """Status, headers and body for every path, from a fresh shop in which ids and times are the same."""
    shop = SmallShop(home)
    shop.race(0.5)
    app = create_app(shop.deps())
    if not fast:
        app.state.fast_routes = []
    with TestClient(fast_path(app), raise_server_exceptions=False) as client:
        client.portal.call(app.state.parts.refresher.refresh)  # type: ignore[union-attr]
        return [
            compared(client.request(method, f"{path}?{query}", headers=headers, json=body))
            for path, query, body in requests(method)
        ]


def requests(method: str) -> list[tuple[str, str, Any]]:
    """Every path with a query that is right and one that is wrong, or with a body that suits the path."""
    bodies = {"/rerank": {"items": ["i3", "i1"]}, "/events": [CLICK], "/recommend": {"user_id": "anna"}}
    if method != "POST":
        return [(path, query, None) for path in PATHS for query in ("n=3&user_id=anna", "n=none&colour=red")]
    return [(path, "", body) for path in PATHS for body in (bodies.get(path), {"colour": "red"}, None)]


def compared(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], str]:
    """Without `vary`, which the CORS middleware adds: answers of the fast path are never stored."""
    headers = sorted(pair for pair in answer.headers.multi_items() if pair[0] != "vary")
    return answer.status_code, headers, answer.text


@pytest.mark.parametrize("headers", [KEY, PAGE, {}], ids=["key", "page", "no key"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS"])
def test_the_fast_path_answers_like_the_router(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    fast = answers(tmp_path / "fast", fast=True, headers=headers, method=method)
    assert fast == answers(tmp_path / "router", fast=False, headers=headers, method=method)
    assert method not in ("GET", "POST") or 200 in {status for status, _, _ in fast} or not headers
