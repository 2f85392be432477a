"""Routes of the storefront, outside FastAPI's request handling but inside its router and documentation.

Validation, dependencies and response models of FastAPI cost about 300 µs a request, as much as the answer
itself; so these endpoints take the raw request. `HotPath` in front of the application saves the router and
its middleware too (60 µs measured) for requests that need neither.
"""

import time
from collections.abc import Callable, Mapping
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

Routes = tuple[Mapping[tuple[str, str], Endpoint], Mapping[tuple[str, str], tuple[str, Endpoint]]]


class RawRoute(APIRoute):
    """A documented route whose endpoint gets the request as it is."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The endpoint itself."""
        return self.endpoint


@dataclass(frozen=True, slots=True)
class HotRoute:
    """One storefront route and its OpenAPI description."""

    path: str
    method: str
    endpoint: Endpoint
    described: Mapping[str, Any]


def guarded(name: str, endpoint: Endpoint, metrics: Metrics) -> Endpoint:
    """The endpoint with its time measured, and every exception turned into its response."""

    async def answer(request: Request) -> Response:
        start = time.perf_counter()
        try:
            response = await endpoint(request)
        except Exception as error:  # noqa: BLE001 (the table decides; nothing may pass it)
            response = response_to(error)
        metrics.response(name, response.status_code, time.perf_counter() - start)
        return response

    answer.__name__ = name
    answer.__doc__ = endpoint.__doc__
    return answer


class HotPath:
    """ASGI application: hot routes go straight to their endpoint, everything else to `app`.

    `routes`: (exact, under), the first by (method, path), the second by (method, first part of the path): the
    rest of the path is its one parameter, named here. What comes from a page (an Origin header) goes through
    `across`, which makes answers readable for other origins; refusals too, else the page would not see when
    to come back. Only these routes are ever shed: health, metrics and commands are answered whatever the
    load.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Routes,
        shedder: Shedder,
        metrics: Metrics,
        across: Callable[[ASGIApp], ASGIApp],
    ):
        self._app = across(app)
        self._shedder = shedder
        self._metrics = metrics
        self._refusal = response_to(OverloadedError())
        self._refusal_across = across(self._refusal)
        self._exact, self._under = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event."""
        endpoint = self._endpoint(scope)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        places = self._shedder.events if scope["path"] == "/events" else self._shedder.slates
        if not places.open:
            self._metrics.shed("overload")
            refusal = self._refusal_across if _of_page(scope) else self._refusal
            await refusal(scope, receive, send)
            return
        place = _Place(places, receive, send)
        try:
            if _of_page(scope):
                await self._app(scope, place.receive, place.send)
            else:
                response = await endpoint(Request(scope, place.receive, place.send))
                await response(scope, place.receive, place.send)
        finally:
            place.leave()

    def _endpoint(self, scope: Scope) -> Endpoint | None:
        method, path = scope.get("method", ""), scope.get("path", "")
        if (endpoint := self._exact.get((method, path))) is not None:
            return endpoint
        first, _, rest = path[1:].partition("/")
        found = self._under.get((method, first)) if rest else None
        if found is None:
            return None
        scope["path_params"] = {found[0]: rest}
        return found[1]


class _Place:
    """A place that a request holds while we work for it: not while its client takes its time, to send the
    body or to take the answer. Else a few hundred clients that do neither would shut everybody out."""

    __slots__ = ("_held", "_places", "_receive", "_send")

    def __init__(self, places: ConcurrencyLimit, receive: Receive, send: Send):
        self._places, self._receive, self._send = places, receive, send
        places.enter()
        self._held = True

    def leave(self) -> None:
        """Idempotent."""
        if self._held:
            self._held = False
            self._places.leave()

    async def receive(self) -> Message:
        """Of ASGI. Raises OverloadedError if there is no place any more."""
        self.leave()
        message = await self._receive()
        if not self._places.open:
            raise OverloadedError
        self._places.enter()
        self._held = True
        return message

    async def send(self, message: Message) -> None:
        """Of ASGI."""
        self.leave()
        await self._send(message)


def _of_page(scope: Scope) -> bool:
    """Whether a browser sent it from a page."""
    return any(name == b"origin" for name, _ in scope["headers"])


async def read_body(request: Request, limit: int) -> bytes:
    """The body, at most `limit` bytes. Raises TooLargeError as soon as that is known, MalformedBodyError when
    the caller hangs up."""
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
