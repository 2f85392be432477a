"""Metrics of HTTP: an ASGI wrapper for applications with pages, and a transport for clients.

The recommend service measures itself at less cost (services.recommend.metrics)."""

import time

import httpx
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class MeteredApp:
    """Measures time and status of each request by the pattern of its route (`other`: no route matched)."""

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
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "") or "other"
            self._seconds.labels(route).observe(time.perf_counter() - began)
            self._responses.labels(route, str(status)).inc()


class MeteredTransport(httpx.AsyncBaseTransport):
    """Measures time and result of each call: the status, or the kind of error."""

    def __init__(self, inner: httpx.AsyncBaseTransport, registry: CollectorRegistry):
        self._inner = inner
        self._seconds = Histogram(
            "ringside_call_seconds",
            "Time until the head of the response.",
            buckets=LATENCY_S,
            registry=registry,
        )
        self._calls = Counter(
            "ringside_calls", "Calls to the recommend service by result.", ["result"], registry=registry
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.AsyncBaseTransport."""
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
        """See httpx.AsyncBaseTransport."""
        await self._inner.aclose()
