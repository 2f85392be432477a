"""A fast path for storefront requests in front of FastAPI's router.

Why: validation, dependencies and response models of FastAPI cost about 300 µs a request, as much as a slate
itself; the router and its middleware cost another 60 µs (measured).

What it does: a storefront route is a `RawRoute`, so its endpoint gets the raw request and FastAPI only
matches and documents it. `FastPath` stands in front of the application, matches the same routes with two
dictionary lookups and calls the same endpoint. Every other request goes to the application.

What it must do exactly like the router: the same requests reach the same endpoint with the same path
parameters, and every other request gets the application's answer (404, 405, CORS preflight, docs). So
`FastPath` may only match requests that the router matches too; a request that it misses is slower, not wrong.
tests/unit/services/recommend/api/test_fast_path.py sends the same requests through both and compares.

What it does besides: requests from a browser page (with an Origin header) go through the CORS middleware,
refusals too, because a page can't read an answer without CORS headers. And it sheds load: only these routes
are ever shed, so health, metrics and commands are answered under any load.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.recommend.deps import Endpoint
from services.recommend.metrics import Metrics
from services.web.body_limit import declared_length
from services.web.load_shedding import ConcurrencyLimit, Shedder
from services.web.problem import MalformedBodyError, OverloadedError, TooLargeError, response_to

_PATH_PARAMETER = ":path}"  # of a route like /similar/{item_id:path}


class RawRoute(APIRoute):
    """A documented route whose endpoint gets the raw request."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The endpoint itself."""
        return self.endpoint


@dataclass(frozen=True, slots=True)
class FastRoute:
    """One storefront route and its OpenAPI description. Its path is exact, or one part and a `:path`
    parameter."""

    path: str
    method: str
    endpoint: Endpoint
    openapi: Mapping[str, Any]


def guarded(name: str, endpoint: Endpoint, metrics: Metrics) -> Endpoint:
    """The endpoint with its time measured, and every exception turned into its response."""

    async def answer(request: Request) -> Response:
        start = time.perf_counter()
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001 (response_to has a response for every exception)
            response = response_to(error)
        metrics.response(name, response.status_code, time.perf_counter() - start)
        return response

    answer.__name__ = name
    answer.__doc__ = endpoint.__doc__
    return answer


class FastPath:
    """ASGI application: fast routes go straight to their endpoint, all other requests to `app`.

    `cors` wraps an application in the CORS middleware.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Iterable[FastRoute],
        shedder: Shedder,
        metrics: Metrics,
        cors: Callable[[ASGIApp], ASGIApp],
    ):
        self._app = cors(app)
        self._shedder = shedder
        self._metrics = metrics
        self._refusal = response_to(OverloadedError())
        self._refusal_to_page = cors(self._refusal)
        self._exact: dict[tuple[str, str], Endpoint] = {}
        self._prefixed: dict[tuple[str, str], tuple[str, Endpoint]] = {}  # by method and first part
        for route in routes:
            first, _, rest = route.path[1:].partition("/")
            if rest.endswith(_PATH_PARAMETER):
                parameter = rest[1 : -len(_PATH_PARAMETER)]
                self._prefixed[route.method, first] = parameter, route.endpoint
            else:
                self._exact[route.method, route.path] = route.endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass another ASGI event on."""
        endpoint = self._match(scope)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        limit = self._shedder.events if scope["path"] == "/events" else self._shedder.slates
        if not limit.open:
            self._metrics.shed("overload")
            refusal = self._refusal_to_page if _from_page(scope) else self._refusal
            await refusal(scope, receive, send)
            return
        slot = _Slot(limit, receive, send)
        try:
            if _from_page(scope):
                await self._app(scope, slot.receive, slot.send)
            else:
                response = await endpoint(Request(scope, slot.receive, slot.send))
                await response(scope, slot.receive, slot.send)
        finally:
            slot.release()

    def _match(self, scope: Scope) -> Endpoint | None:
        method, path = scope.get("method", ""), scope.get("path", "")
        if (endpoint := self._exact.get((method, path))) is not None:
            return endpoint
        first, _, rest = path[1:].partition("/")
        match = self._prefixed.get((method, first)) if rest else None
        if match is None:
            return None
        parameter, endpoint = match
        scope["path_params"] = {parameter: rest}
        return endpoint


class _Slot:
    """A concurrency slot, held only while the server works on the request and released while it waits for
    the client to send the body or to take the answer, so that slow clients cannot exhaust the slots."""

    __slots__ = ("_held", "_limit", "_receive", "_send")

    def __init__(self, limit: ConcurrencyLimit, receive: Receive, send: Send):
        self._limit, self._receive, self._send = limit, receive, send
        limit.enter()
        self._held = True

    def release(self) -> None:
        """Idempotent."""
        if self._held:
            self._held = False
            self._limit.leave()

    async def receive(self) -> Message:
        """ASGI receive. Raises OverloadedError if no slot is free afterwards."""
        self.release()
        message = await self._receive()
        if not self._limit.open:
            raise OverloadedError
        self._limit.enter()
        self._held = True
        return message

    async def send(self, message: Message) -> None:
        """ASGI send."""
        self.release()
        await self._send(message)


def _from_page(scope: Scope) -> bool:
    """Whether a browser sent the request from a page."""
    return any(name == b"origin" for name, _ in scope["headers"])


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes. Raises TooLargeError as soon as that is known, MalformedBodyError when
    the client hangs up."""
    if declared_length(request.scope) > limit:
        raise TooLargeError(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise TooLargeError(limit)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise MalformedBodyError("the connection ended before the body did") from error
    return b"".join(chunks)
