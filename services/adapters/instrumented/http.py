"""HTTP measured from outside the application: an ASGI wrapper for the pages, a transport for the calls of a
client. The recommend service has its own, cheaper way (services.recommend.metrics)."""

import time

import httpx
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class MeteredApp:
    """ASGI: time and status of each request, by the route's own pattern (`other`: no route)."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry):
        self._app = app
        self._seconds = Histogram(
            "ringside_http_request_seconds", "Time to answer, by route.", ["route"],
            buckets=LATENCY_S, registry=registry,
        )  # fmt: skip
        self._responses = Counter(
            "ringside_http_responses",
            "Responses by route and status.",
            ["route", "status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "") or "other"
            self._seconds.labels(route).observe(time.perf_counter() - began)
            self._responses.labels(route, str(status)).inc()


class MeteredTransport(httpx.AsyncBaseTransport):
    """Calls of a client: time, and what came of them: the status, or the kind of error."""

    def __init__(self, inner: httpx.AsyncBaseTransport, registry: CollectorRegistry):
        self._inner = inner
        self._seconds = Histogram(
            "ringside_call_seconds", "Time to an answer's head.", buckets=LATENCY_S, registry=registry
        )
        self._calls = Counter(
            "ringside_calls", "Calls to the recommend service by result.", ["result"], registry=registry
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx.AsyncBaseTransport."""
        result = "unexpected"
        with self._seconds.time():
            try:
                response = await self._inner.handle_async_request(request)
                result = str(response.status_code)
                return response
            except httpx.TransportError as error:
                result = type(error).__name__
                raise
            finally:
                self._calls.labels(result).inc()

    async def aclose(self) -> None:
        """As httpx.AsyncBaseTransport."""
        await self._inner.aclose()
