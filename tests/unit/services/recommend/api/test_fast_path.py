"""Reading requests of the hot path."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.recommend.api.fast_path import HotPath, read_body
from services.recommend.deps import Endpoint
from services.recommend.metrics import Metrics
from services.web.load_shedding import Shedder
from services.web.problem import MalformedBodyError


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

    path = HotPath(
        app,
        ({("GET", "/recommend"): endpoint("exact")}, {("GET", "similar"): ("item_id", endpoint("under"))}),
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
    assert seen == [("exact", {}), ("under", {"item_id": "a/b"}), *[("app", {})] * 5]
