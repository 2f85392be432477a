"""Health, metrics and the kill switch."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from services.keys import Principal
from services.recommend.deps import Deps
from services.recommend.describing import ANY_KEY, failures
from services.recommend.gate import Gate, caller
from services.recommend.loaded import Loaded
from services.recommend.metrics import Metrics
from services.recommend.switch import turn


class Switch(BaseModel):
    """The kill switch: on means that only the champion serves, on every replica that shares this home
    folder."""

    model_config = ConfigDict(extra="forbid", strict=True)

    on: bool
    reason: Annotated[str, Field(max_length=500)] = ""


def operation_routes(deps: Deps, gate: Gate, loaded: Loaded, metrics: Metrics) -> APIRouter:
    """Health and metrics need no key (keep them inside your network); the switch an admin's."""
    router = APIRouter(tags=["operations"])
    admin = Annotated[Principal, Depends(caller(gate, "admin"))]
    path = deps.settings.kill_switch_path

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @router.get("/health/ready", responses={503: {"description": "No catalogue is loaded yet."}})
    async def ready() -> Response:
        """Slates can be made; says what is served."""
        return JSONResponse(_served(deps, loaded), 200 if loaded.ready else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def exposition() -> Response:
        """Prometheus metrics."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post(
        "/champion-only",
        openapi_extra={"security": ANY_KEY},
        responses=failures("400", "401", "403", "413", "422", "429"),
    )
    async def champion_only(said: Switch, by: admin) -> Switch:
        """Champion only, on or off: a file, so it works without Redis and Kafka."""
        turn(path, on=said.on, author=by.name, now_ms=deps.clock_ms(), reason=said.reason)
        return said

    return router


def _served(deps: Deps, loaded: Loaded) -> dict[str, object]:
    serving = loaded.serving
    champion = serving.champion
    return {
        "status": "ready" if loaded.ready else "loading",
        "replica": deps.replica,
        "items": len(serving.shelf),
        "data_version": serving.shelf.data_version,
        "champion": champion.arm if champion is not None else None,
        "models": sorted(serving.models),
        "revision": serving.state.revision if serving.state is not None else 0,
        "champion_only": serving.alone,
    }
