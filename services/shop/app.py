"""The sample storefront: the server of a shop that uses Ringside over its public HTTP API, as any customer
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
from starlette.middleware.gzip import GZipMiddleware

from services import bootstrap
from services.client.client import AsyncClient
from services.errors import ConfigurationError
from services.runtime.process import raise_open_files_limit
from services.settings import Settings
from services.shop import pages
from services.shop.images import product_image
from services.shop.pages import ShopDeps
from services.shop.product_cache import ProductCache, product_of
from services.shop.sections import SectionLoader
from services.web.connection_limits import http_protocol
from services.web.page_templates import page_templates

HERE = Path(__file__).parent
FORM_BYTES = 16_384  # of a request's body: forms only
TIMEOUT = httpx.Timeout(1.5, connect=0.5)  # of a call to Ringside: a page waits no longer
REFILL_EVERY_S, REFILL_RETRY_S = 300.0, 5.0


def create_app(settings: Settings, http: httpx.AsyncClient, *, fill_cache: bool = True) -> FastAPI:
    """The application. With `fill_cache` it loads products in the background while it runs.

    Raises ConfigurationError without a storefront key.
    """
    if not settings.storefront_key:
        raise ConfigurationError("RINGSIDE_STOREFRONT_KEY is empty; make one with `ringside keys new`")
    urls, products = settings.replica_urls, ProductCache()
    sections = SectionLoader(AsyncClient(urls, settings.storefront_key, http), products)
    events_origin = (settings.shop_events_url or urls[0]).rstrip("/")
    events_url = f"{events_origin}/events?key={quote(settings.storefront_key)}"

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_keep_filled(sections, products)) if fill_cache else None
        yield
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    functions = {"product_image": product_image, "product_of": product_of}
    templates = page_templates(HERE / "templates", functions)
    app = FastAPI(title="Sample shop", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.deps = ShopDeps(settings, sections, products, templates, events_url)
    app.middleware("http")(_headers(events_origin))
    app.add_middleware(GZipMiddleware, minimum_size=2_000)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.add_exception_handler(RequestValidationError, _bad_request)
    return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Without the recommend service, pages render and say what is missing."""
    bootstrap.configure_logging(settings, "shop")
    raise_open_files_limit()
    with bootstrap.metered(settings, "shop", loops=False) as meters:
        calls = meters.transport(httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=64)))
        app = meters.app(create_app(settings, httpx.AsyncClient(transport=calls, timeout=TIMEOUT)))
        uvicorn.run(
            app, host=settings.host, port=settings.shop_port, log_config=None, access_log=False,
            server_header=False, http=http_protocol(settings, body_bytes=FORM_BYTES), ws="none",
        )  # fmt: skip


async def _keep_filled(sections: SectionLoader, products: ProductCache) -> None:
    while True:
        await sections.fill_cache()
        await asyncio.sleep(REFILL_EVERY_S if len(products) else REFILL_RETRY_S)


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
    """The field and its problem, without the value, which may not be encodable as text."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return PlainTextResponse(f"{first['loc'][-1]}: {first['msg']}", 422)
