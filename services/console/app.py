"""`ringside console`: the analysts' web server, with a thread that follows the decision log."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.gzip import GZipMiddleware

from services import bootstrap
from services.console import access, commands, metrics, pages, recount, web
from services.console.deps import ConsoleDeps, LogInFirstError, deps_of
from services.console.log_follower import LogFollower
from services.console.sessions import COOKIE, WRONG_KEYS_BURST_S, WRONG_KEYS_PER_S, Sessions
from services.control.recount import RecountService
from services.runtime.clock import wall_ms
from services.runtime.process import raise_open_files_limit
from services.settings import Settings
from services.web.connection_limits import http_protocol
from services.web.rate_limit import RateLimiter

FOLLOW_EVERY_S = 1.0
FORM_BYTES = 16_384  # of a request's body: forms only


def create_app(
    settings: Settings,
    follower: LogFollower,
    recounting: RecountService,
    now_ms: Callable[[], int],
    *,
    follow: bool = True,
) -> FastAPI:
    """The application. With `follow`, a thread refreshes the view while it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        thread = threading.Thread(
            target=follower.follow, args=(stop, FOLLOW_EVERY_S), name="follower", daemon=True
        )
        if follow:
            thread.start()
        yield
        stop.set()
        if follow:
            thread.join(timeout=5)

    app = FastAPI(
        title="Ringside console", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    wrong_keys = RateLimiter(WRONG_KEYS_PER_S, WRONG_KEYS_BURST_S)
    app.state.deps = ConsoleDeps(
        settings, follower, recounting, Sessions(settings), wrong_keys, web.templates(), now_ms
    )
    app.middleware("http")(web.harden)
    app.add_middleware(GZipMiddleware, minimum_size=2_000)
    for router in (access.router, pages.router, recount.router, commands.router):
        app.include_router(router)
    app.add_api_route("/static/plotly-{digest}.js", plotting_script, include_in_schema=False)
    app.mount("/static/{version}", StaticFiles(directory=web.HERE / "static"))
    app.add_exception_handler(LogInFirstError, _log_in_first)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    return app


def plotting_script(digest: str) -> Response:
    """The plotting script, compressed; its address changes with its content."""
    if digest != web.plotting_script()[0]:
        raise HTTPException(404, "Another version of the plotting script is installed. Reload the page.")
    headers = {"Content-Encoding": "gzip", "Cache-Control": web.IMMUTABLE, "Vary": "Accept-Encoding"}
    return Response(web.plotting_script()[1], media_type="text/javascript", headers=headers)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Starts without Kafka and Redis; pages name what is missing."""
    bootstrap.configure_logging(settings, "console")
    raise_open_files_limit()
    follower = LogFollower(
        lambda: (bootstrap.decision_log(settings), bootstrap.state_cache(settings)),
        wall_ms,
        settings.kill_switch_path,
    )
    app = create_app(settings, follower, bootstrap.recounting(settings), wall_ms)
    with bootstrap.metered(settings, "console", loops=False) as meters:
        metrics.watch(follower, meters.registry)
        uvicorn.run(
            meters.app(app), host=settings.host, port=settings.console_port, log_config=None,
            access_log=False, server_header=False, ws="none",
            http=http_protocol(settings, body_bytes=FORM_BYTES),
        )  # fmt: skip


def _wants_json(request: Request) -> bool:
    return "text/html" not in request.headers.get("accept", "")


async def _log_in_first(request: Request, _: Exception) -> Response:
    if _wants_json(request):
        return JSONResponse(
            {"error": "Log in first: this address needs the session of an analyst or admin."}, 401
        )
    return RedirectResponse(access.login_address(request), 303)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail = "There is no such page." if error.detail == "Not Found" else str(error.detail)
    return _error(request, error.status_code, detail)


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _error(request, 422, f"{first['loc'][-1]}: {first['msg']}")


def _error(request: Request, status_code: int, message: str) -> Response:
    if _wants_json(request):
        return JSONResponse({"error": message}, status_code)
    deps = deps_of(request)
    person = deps.sessions.person(request.cookies.get(COOKIE))
    values = {"message": message, "status_code": status_code, "person": person}
    return deps.templates.TemplateResponse(request, "error.html", values, status_code=status_code)
