"""The HTTP application of one replica. Every port comes in from outside, so it runs in tests without a
network."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
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

from experiments.lifecycle.transitions import IllegalTransition
from services.errors import RingsideError
from services.recommend.answer import SlateService
from services.recommend.api.events import EventCollector
from services.recommend.api.experiment_commands import ExperimentCommands
from services.recommend.api.experiments import experiment_routes
from services.recommend.api.fast_path import FastPath, FastRoute, RawRoute, guarded
from services.recommend.api.items import LiveCatalogue, catalogue_routes
from services.recommend.api.openapi import describe
from services.recommend.api.operations import operation_routes
from services.recommend.api.routes import storefront_routes
from services.recommend.api.storefront import Storefront
from services.recommend.catalogue_sync import CatalogueSync, ItemsFollower
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.recommendation_id import RecommendationIds
from services.recommend.slate_builder import SlateBuilder
from services.recommend.snapshot.refresher import SnapshotRefresher
from services.web.access import AccessControl
from services.web.api_keys import signing_keys
from services.web.body_limit import BodyLimit
from services.web.load_shedding import Shedder
from services.web.problem import failure, response_to

SUMMARY = "Recommendations whose models compete for traffic."
MODEL_THREADS = 8


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of one replica. `leaving`: set once it drains."""

    deps: Deps
    access: AccessControl
    metrics: Metrics
    refresher: SnapshotRefresher
    sync: CatalogueSync
    experiment_commands: ExperimentCommands
    storefront: Storefront
    threads: ThreadPoolExecutor
    shedder: Shedder
    leaving: Event = field(default_factory=Event)


def assemble(deps: Deps) -> Parts:
    """Compose a replica. Raises ConfigurationError when keys are missing or wrong."""
    settings = deps.settings
    access, signing = AccessControl(settings, time.monotonic), signing_keys(settings)
    metrics = Metrics(deps.replica, merged=settings.recommend_workers > 1)
    refresher = SnapshotRefresher(deps, metrics)
    ids = RecommendationIds(signing, round(settings.recommendation_ttl_s * 1_000))
    threads = ThreadPoolExecutor(MODEL_THREADS, "models")
    builder = SlateBuilder(
        deadline_s=settings.rank_deadline_ms / 1_000,
        threads=threads,
        category_share=settings.category_share,
        now_s=lambda: deps.clock_ms() / 1_000,
    )
    slates = SlateService(deps, lambda: refresher.snapshot, builder, ids, metrics)
    collector = EventCollector(deps, ids, metrics)
    storefront = Storefront(deps, access, lambda: refresher.snapshot, slates, collector)
    sync = CatalogueSync(ItemsFollower(deps.consumer, deps.admin, deps.overlay), settings.refresh_s)
    shedder, commands = Shedder(settings.shed_lag_ms / 1_000), ExperimentCommands(deps)
    return Parts(deps, access, metrics, refresher, sync, commands, storefront, threads, shedder)


def create_app(deps: Deps) -> FastAPI:
    """The application over these ports; `app.state.parts` holds its parts."""
    parts = assemble(deps)
    app: FastAPI = FastAPIOffline(
        title="Ringside", summary=SUMMARY, version="1", lifespan=_lifespan(parts), redoc_url=None
    )
    app.state.parts = parts
    app.state.fast_routes = _add_storefront(app, parts)
    live = LiveCatalogue(deps, lambda: parts.refresher.snapshot.catalogue, parts.sync.catch_up)
    app.include_router(catalogue_routes(deps, parts.access, live))
    app.include_router(experiment_routes(deps.settings, parts.access, parts.experiment_commands))
    app.include_router(operation_routes(deps, parts.access, parts.refresher, parts.metrics, parts.leaving))
    app.add_middleware(BodyLimit, limit=deps.settings.max_body_bytes)
    _add_failures(app)
    describe(app)
    return app


def fast_path(app: FastAPI) -> FastPath:
    """The application behind its fast path for storefront requests, for a server to run."""
    parts: Parts = app.state.parts
    cors = _cors(parts.deps.settings.cors_origins)
    return FastPath(app, app.state.fast_routes, parts.shedder, parts.metrics, cors)


def _add_storefront(app: FastAPI, parts: Parts) -> list[FastRoute]:
    """Register the raw routes; returns them with the endpoints that were registered."""
    routes = []
    for route in storefront_routes(parts.storefront):
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
            openapi_extra=dict(route.openapi),
            operation_id=route.endpoint.__name__,
            route_class_override=RawRoute,
        )
        routes.append(replace(route, endpoint=endpoint))
    return routes


def _cors(origins: Sequence[str]) -> Callable[[ASGIApp], ASGIApp]:
    """The CORS middleware. It must wrap the whole application, because FastAPI answers unexpected errors
    outside of middleware that was added to it."""
    return partial(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-api-key"],
        expose_headers=["Retry-After"],
        max_age=86_400,
    )


def _add_failures(app: FastAPI) -> None:
    async def any_error(request: Request, error: Exception) -> Response:
        return response_to(error)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
        if first["type"] == "json_invalid":
            return failure(400, "malformed_body", f"not JSON: {first['ctx']['error']}", "body")
        return failure(422, "bad_input", first["msg"], where or "body")

    async def illegal(request: Request, error: Exception) -> Response:
        return failure(409, "illegal_transition", str(error))

    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, any_error)
    app.add_exception_handler(IllegalTransition, illegal)
    app.add_exception_handler(RingsideError, any_error)
    app.add_exception_handler(Exception, any_error)


def _lifespan(parts: Parts) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await parts.sync.start()
        await parts.refresher.start()
        yield
        await parts.refresher.stop()
        await parts.sync.stop()
        await asyncio.to_thread(parts.deps.producer.close)
        parts.experiment_commands.close()
        parts.threads.shutdown(wait=False, cancel_futures=True)

    return lifespan
