"""The sample storefront: a shop's own server, which talks to the recommend service as any customer of it
would."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.middleware.gzip import GZipMiddleware

from services import bootstrap
from services.errors import ConfigurationError
from services.runtime.process import many_connections
from services.settings import Settings
from services.shop import pages
from services.shop.api import RecommendApi
from services.shop.images import tile
from services.shop.pages import Store
from services.shop.product_cache import Shelf
from services.shop.sections import Rails
from services.web.connection_limits import http_protocol

HERE = Path(__file__).parent
FORM_BYTES = 16_384  # of a request's body: forms only
STOCK_EVERY_S, STOCK_RETRY_S = 300.0, 5.0


def origins(settings: Settings) -> list[str]:
    """Where the recommend service answers."""
    listed = [origin.strip().rstrip("/") for origin in settings.recommend_url.split(",") if origin.strip()]
    return listed or [f"http://{settings.host}:{settings.recommend_port}"]


def create_app(settings: Settings, client: httpx.AsyncClient, *, stock: bool = True) -> FastAPI:
    """The application. With `stock` it learns products in the background while it runs.

    Raises ConfigurationError without a storefront key.
    """
    if not settings.storefront_key:
        raise ConfigurationError("RINGSIDE_STOREFRONT_KEY is empty; make one with `ringside keys new`")
    shelf = Shelf()
    rails = Rails(RecommendApi(client, origins(settings), settings.storefront_key), shelf)
    browser_origin = (settings.shop_events_url or origins(settings)[0]).rstrip("/")
    events_url = f"{browser_origin}/events?key={quote(settings.storefront_key)}"

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_keep_stocked(rails, shelf)) if stock else None
        yield
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app = FastAPI(title="Sample shop", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store = Store(settings, rails, shelf, _templates(), events_url)
    app.middleware("http")(_headers(browser_origin))
    app.add_middleware(GZipMiddleware, minimum_size=2_000)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.add_exception_handler(RequestValidationError, _bad_request)
    return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Needs nobody: without the recommend service the shelves say so."""
    bootstrap.configure_logging(settings, "shop")
    many_connections()
    with bootstrap.metered(settings, "shop", loops=False) as meters:
        calls = meters.transport(httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=64)))
        app = meters.app(create_app(settings, httpx.AsyncClient(transport=calls)))
        uvicorn.run(
            app, host=settings.host, port=settings.shop_port, log_config=None, access_log=False,
            server_header=False, http=http_protocol(settings, body_bytes=FORM_BYTES), ws="none",
        )  # fmt: skip


async def _keep_stocked(rails: Rails, shelf: Shelf) -> None:
    while True:
        await rails.stock_the_shelf()
        await asyncio.sleep(STOCK_EVERY_S if len(shelf) else STOCK_RETRY_S)


def _headers(
    events_origin: str,
) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    parts = urlsplit(events_origin)
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' {parts.scheme}://{parts.netloc}; form-action 'self'; "
        f"base-uri 'none'; frame-ancestors 'none'"
    )

    async def add(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        if not request.url.path.startswith("/static/"):
            response.headers["Cache-Control"] = "no-store"
        return response

    return add


async def _bad_request(_: Request, error: Exception) -> Response:
    """Which field is wrong and how, without what was sent: not all of that is text that can be sent back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return PlainTextResponse(f"{first['loc'][-1]}: {first['msg']}", 422)


def _templates() -> Jinja2Templates:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= {"tile": tile}
    return Jinja2Templates(env=env)
