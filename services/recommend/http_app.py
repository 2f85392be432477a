"""The HTTP application: every port comes in from outside, so it runs in tests without a network."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from experiments.lifecycle.fold import IllegalTransition
from services.errors import RingsideError
from services.recommend.answer import Answering
from services.recommend.api.events import Collecting
from services.recommend.api.experiment_commands import Commanding
from services.recommend.api.experiments import experiment_routes
from services.recommend.api.fast_path import HotPath, RawRoute, Routes, guarded
from services.recommend.api.items import LiveCatalogue, catalogue_routes
from services.recommend.api.openapi import describe
from services.recommend.api.operations import operation_routes
from services.recommend.api.routes import hot_routes
from services.recommend.api.storefront import Storefront
from services.recommend.catalogue_sync import Following, ItemsFollower
from services.recommend.deps import Deps, Endpoint
from services.recommend.metrics import Metrics
from services.recommend.recommendation_id import Tokens
from services.recommend.slate_builder import Slates
from services.recommend.snapshot.refresher import Loaded
from services.web.access import AccessControl
from services.web.api_keys import signing_keys
from services.web.body_limit import BodyLimit
from services.web.load_shedding import Shedder
from services.web.problem import failure, response_to

SUMMARY = "Recommendations whose models compete for traffic."


@dataclass(frozen=True, slots=True)
class Parts:
    """What one replica is made of. `leaving`: set once it drains."""

    deps: Deps
    access: AccessControl
    metrics: Metrics
    loaded: Loaded
    items: Following
    commanding: Commanding
    storefront: Storefront
    threads: ThreadPoolExecutor
    shedder: Shedder
    leaving: Event


def assemble(deps: Deps) -> Parts:
    """Put a replica together. Raises ConfigurationError when keys are missing or wrong."""
    settings = deps.settings
    access, signing = AccessControl(settings, time.monotonic), signing_keys(settings)
    metrics = Metrics(merged=settings.recommend_workers > 1)
    loaded = Loaded(deps, metrics)
    tokens = Tokens(signing, round(settings.recommendation_ttl_s * 1_000))
    threads = ThreadPoolExecutor(8, "models")
    slates = Slates(
        deadline_s=settings.rank_deadline_ms / 1_000,
        threads=threads,
        category_share=settings.category_share,
        now_s=lambda: deps.clock_ms() / 1_000,
    )
    answering = Answering(deps, lambda: loaded.serving, slates, tokens, metrics)
    collecting = Collecting(deps, tokens, metrics)
    storefront = Storefront(access, lambda: loaded.serving, answering, collecting, settings.max_body_bytes)
    follower = ItemsFollower(deps.consumer, deps.admin, deps.overlay)
    items = Following(follower, settings.refresh_s)
    shedder = Shedder(settings.shed_lag_ms / 1_000)
    return Parts(
        deps, access, metrics, loaded, items, Commanding(deps), storefront, threads, shedder, Event()
    )


def create_app(deps: Deps) -> FastAPI:
    """The application over these ports; `app.state.parts` holds what it is made of."""
    parts = assemble(deps)
    app: FastAPI = FastAPIOffline(
        title="Ringside", summary=SUMMARY, version="1", lifespan=_lifespan(parts), redoc_url=None
    )
    app.state.parts = parts
    app.state.hot = _add_storefront(app, parts)
    live = LiveCatalogue(deps, lambda: parts.loaded.serving.shelf, parts.items.follow)
    app.include_router(catalogue_routes(deps, parts.access, live))
    app.include_router(experiment_routes(deps.settings, parts.access, parts.commanding))
    app.include_router(operation_routes(deps, parts.access, parts.loaded, parts.metrics, parts.leaving))
    app.add_middleware(BodyLimit, limit=deps.settings.max_body_bytes)
    _add_failures(app)
    describe(app)
    return app


def hot_path(app: FastAPI) -> HotPath:
    """What a server should run: the application with its short way for storefront requests."""
    parts: Parts = app.state.parts
    return HotPath(
        app, app.state.hot, parts.shedder, parts.metrics, _across_origins(parts.deps.settings.cors_origins)
    )


def _add_storefront(app: FastAPI, parts: Parts) -> Routes:
    """Register the raw routes; returns what `HotPath` needs."""
    exact: dict[tuple[str, str], Endpoint] = {}
    under: dict[tuple[str, str], tuple[str, Endpoint]] = {}
    for route in hot_routes(parts.storefront):
        name = route.path.replace(":path", "")
        endpoint = guarded(name, route.endpoint, parts.metrics)
        if parts.deps.traced is not None:
            endpoint = parts.deps.traced(name, endpoint)
        app.router.add_api_route(
            route.path,
            endpoint,
            methods=[route.method],
            tags=["storefront"],
            summary=(endpoint.__doc__ or "").partition(": ")[2],
            openapi_extra=dict(route.described),
            operation_id=route.endpoint.__name__,
            route_class_override=RawRoute,
        )
        first, _, rest = route.path[1:].partition("/")
        if rest:
            under[route.method, first] = rest.strip("{}").removesuffix(":path"), endpoint
        else:
            exact[route.method, route.path] = endpoint
    return exact, under


def _across_origins(origins: Sequence[str]) -> Callable[[ASGIApp], ASGIApp]:
    """Around everything: inside the application FastAPI would answer what it did not foresee without it."""
    return partial(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-api-key"],
        expose_headers=["Retry-After"],
        max_age=86_400,
    )


def _add_failures(app: FastAPI) -> None:
    async def ours(request: Request, error: Exception) -> Response:
        return response_to(error)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        if first["type"] == "json_invalid":
            return failure(400, "malformed_body", f"not JSON: {first['ctx']['error']}", "body")
        return failure(422, "bad_input", first["msg"], where or "body")

    async def illegal(request: Request, error: IllegalTransition) -> Response:
        return failure(409, "illegal_transition", str(error))

    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, ours)
    app.add_exception_handler(IllegalTransition, illegal)  # type: ignore[arg-type]
    app.add_exception_handler(RingsideError, ours)
    app.add_exception_handler(Exception, ours)


def _lifespan(parts: Parts):
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await parts.items.start()
        await parts.loaded.start()
        yield
        await parts.loaded.stop()
        await parts.items.stop()
        await asyncio.to_thread(parts.deps.producer.close)
        parts.commanding.close()
        parts.threads.shutdown(wait=False, cancel_futures=True)

    return lifespan
