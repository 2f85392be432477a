"""Health, metrics and the kill switch."""

from threading import Event
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from services.control.kill_switch import set_kill_switch
from services.recommend.api.openapi import ANY_KEY, failures
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.snapshot.refresher import SnapshotRefresher
from services.web.access import READERS, AccessControl, Caller, KeyFirstRoute
from services.web.api_keys import Principal


class Switch(BaseModel):
    """The kill switch: on means that only the champion serves, on every replica that shares this home
    folder."""

    model_config = ConfigDict(extra="forbid", strict=True)

    on: bool
    reason: Annotated[str, Field(max_length=500)] = ""


def operation_routes(
    deps: Deps, access: AccessControl, refresher: SnapshotRefresher, metrics: Metrics, leaving: Event
) -> APIRouter:
    """Health answers every caller, with details for an analyst's or admin's key; metrics take
    such a key, the switch an admin's."""
    router = APIRouter(route_class=KeyFirstRoute, tags=["operations"])
    admin = Annotated[Principal, Depends(Caller(access, "admin"))]
    reader = Annotated[Principal, Depends(Caller(access, *READERS))]
    path = deps.settings.kill_switch_path

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @router.get(
        "/health/ready",
        openapi_extra={"security": [{}, *ANY_KEY]},
        responses={503: {"description": "No catalogue is loaded yet, or the replica is draining."}},
    )
    async def ready(request: Request) -> Response:
        """Whether slates can be made; with an analyst's or admin's key, also what is served."""
        status = "draining" if leaving.is_set() else refresher.status
        details = _served(deps, refresher) if access.may_see_details(request) else {}
        return JSONResponse({"status": status, **details}, 200 if status == "ready" else 503)

    @router.get(
        "/metrics",
        response_class=PlainTextResponse,
        openapi_extra={"security": ANY_KEY},
        responses=failures("401", "403", "429"),
    )
    async def exposition(by: reader) -> Response:
        """Prometheus metrics, as at the metrics port, which takes no key."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.post(
        "/champion-only",
        openapi_extra={"security": ANY_KEY},
        responses=failures("400", "401", "403", "413", "422", "429"),
    )
    async def champion_only(switch: Switch, by: admin) -> Switch:
        """Champion only, on or off: a file, so it works without Redis and Kafka."""
        set_kill_switch(path, on=switch.on, author=by.name, now_ms=deps.clock_ms(), reason=switch.reason)
        return switch

    return router


def _served(deps: Deps, refresher: SnapshotRefresher) -> dict[str, object]:
    snapshot = refresher.snapshot
    experiment = snapshot.default_experiment
    return {
        "replica": deps.replica,
        "items": len(snapshot.catalogue),
        "data_version": snapshot.catalogue.data_version,
        "champion": experiment.champion.arm if experiment.champion is not None else None,
        "models": sorted(snapshot.models),
        "revision": experiment.state.revision if experiment.state is not None else 0,
        "champion_only": experiment.champion_only == "champion_only",
        "cut_off": experiment.champion_only == "cut_off",
    }
