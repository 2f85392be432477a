"""GET and POST /experiments…: state, decisions and commands, for the console and for scripts."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from experiments.lifecycle.decisions import Deployed
from experiments.lifecycle.state import to_dict
from services.control.commands import COMMANDS, ArmName, Command, CommandSpec, Enter, Version
from services.control.decide import ExperimentStates, replace_rules
from services.control.recount import RecountRequest
from services.recommend.api.experiment_commands import ExperimentCommands, existing
from services.recommend.api.openapi import ANY_KEY, failures
from services.settings import Settings
from services.web.access import AccessControl, Caller, KeyFirstRoute
from services.web.api_keys import Principal

ExperimentId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class Start(Command):
    """The first champion. `rules` overrides the installation's defaults, field by field."""

    model_version: Version
    arm: ArmName | None = Field(None, description="Default: the model version.")
    rules: dict[str, Any] = {}


class Recount(Command):
    """Drop sums that can't be trusted, and count again. Without `seen` nothing changes."""

    from_now: bool = Field(
        False,
        description="false: count again from the log; the evidence will be the same, and races go on. "
        "true: only units that begin from now on count, and every race restarts.",
    )
    seen: str | None = Field(
        None,
        max_length=200,
        description="Leave it out for a preview: the answer has the sums that would be dropped, and a "
        "name of the preview in `seen`. Send this name to drop the sums. It is valid for 15 minutes, also "
        "while more is counted, but not after the sums were recounted or lost.",
    )


class Dropped(BaseModel):
    """Sums as they were: by arm `n` units, `s` successes and the account of its events. `unreadable`: why
    they can't be read; they can be dropped all the same."""

    digest: str | None = None
    positions: dict[str, int] = {}
    units: int | None = None
    arms: dict[str, dict[str, int]] = {}
    unreadable: str | None = None


class Recounted(BaseModel):
    """`done` false: a preview, and nothing changed. `dropped`: the sums that would be dropped, or that were
    dropped (as in the record). `seen`: name of a preview. `out_of_reach`: why the log can't give the counts
    again; then only `from_now` is possible. `state`: that of the experiment."""

    done: bool
    dropped: Dropped
    seen: str | None
    out_of_reach: str | None
    state: dict[str, Any]


def experiment_routes(settings: Settings, access: AccessControl, service: ExperimentCommands) -> APIRouter:
    """Routes that read experiments (an analyst's or admin's key) and command them (by the table of
    commands)."""
    router = APIRouter(
        route_class=KeyFirstRoute,
        tags=["experiments"],
        responses=failures("400", "401", "403", "404", "409", "413", "422", "429", "503"),
    )
    _add_reading(router, service, Annotated[Principal, Depends(Caller(access, "analyst", "admin"))])
    admin = Annotated[Principal, Depends(Caller(access, "admin"))]
    _add_start(router, service, settings, admin)
    _add_recount(router, service, admin)
    for spec in COMMANDS.values():
        caller = Annotated[Principal, Depends(Caller(access, spec.role))]
        router.add_api_route(
            f"/experiments/{{experiment}}/{spec.name}",
            _endpoint(service, spec, caller),
            methods=["POST"],
            summary=spec.help,
            operation_id=f"{spec.name}_experiment",
            openapi_extra={"security": ANY_KEY},
        )
    return router


def _add_reading(router: APIRouter, service: ExperimentCommands, reader: Any) -> None:
    extra = {"security": ANY_KEY}

    @router.get("/experiments", openapi_extra=extra)
    async def experiments(by: reader) -> Response:
        """Every experiment with its state. `source`: decisions (the log), or cache while the log can't be
        read; `notice`: what may be missing then, or which replicas may lag."""
        known = await service.states()
        states = [to_dict(known.states[name]) for name in sorted(known.states)]
        return _json({"experiments": states, **_source(known)})

    @router.get("/experiments/{experiment}", openapi_extra=extra)
    async def experiment_state(experiment: ExperimentId, by: reader) -> Response:
        """State after the newest decision: arms, weights, races; `source` and `notice` as above."""
        known = await service.states()
        return _json({**to_dict(existing(known.states, experiment)), **_source(known)})

    @router.get("/experiments/{experiment}/decisions", openapi_extra=extra)
    async def decisions(
        experiment: ExperimentId,
        by: reader,
        after_revision: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> Response:
        """Decisions that count, oldest first, each with every number it was made from."""
        known = await service.states()
        existing(known.states, experiment)
        history = await service.history(experiment, after_revision)
        return _json({"decisions": history[:limit], "more": len(history) > limit, **_source(known)})


def _add_start(router: APIRouter, service: ExperimentCommands, settings: Settings, admin: Any) -> None:
    @router.post(
        "/experiments/{experiment}/start",
        summary="Begin: a first champion serves everyone.",
        openapi_extra={"security": ANY_KEY},
    )
    async def start(experiment: ExperimentId, body: Start, by: admin) -> Response:
        champion = Deployed(body.arm or body.model_version, body.model_version)
        rules = replace_rules(settings.rules, body.rules)
        provenance = service.provenance(by.name, body.reason)
        return _json(to_dict(await service.start(experiment, champion, rules, provenance)))


def _add_recount(router: APIRouter, service: ExperimentCommands, admin: Any) -> None:
    @router.post(
        "/experiments/{experiment}/recount",
        summary="Drop sums that can't be trusted, and count again: first a preview, then what was seen.",
        responses={200: {"model": Recounted, "description": "What would be dropped, or what was."}},
        operation_id="recount_experiment",
        openapi_extra={"security": ANY_KEY},
    )
    async def recount(experiment: ExperimentId, body: Recount, by: admin) -> Response:
        """Send it without `seen` for a preview, then again with the `seen` of the preview. 409: the sums are
        no longer those, or the log can't give them again; nothing was changed."""
        provenance = service.provenance(by.name, body.reason)
        if body.seen is None:
            state, preview = await service.preview(experiment, body.from_now, provenance)
            result = {"seen": preview.seen, "out_of_reach": preview.out_of_reach or None}
            return _json({"done": False, "dropped": preview.dropped, **result, "state": to_dict(state)})
        request = RecountRequest(body.from_now, body.seen)
        state, dropped = await service.recount(experiment, request, provenance)
        result = {"seen": None, "out_of_reach": None}
        return _json({"done": True, "dropped": dropped, **result, "state": to_dict(state)})


def _endpoint(
    service: ExperimentCommands, spec: CommandSpec[Any], caller: Any
) -> Callable[..., Awaitable[Response]]:
    """The endpoint of a command. FastAPI reads its body and `caller`, the check of the key, from
    annotations."""

    async def command(experiment: str, body: Command, by: Principal) -> Response:
        if isinstance(body, Enter):
            service.require_model("model_version", body.model_version)
        provenance = service.provenance(by.name, body.reason)
        state = await service.command(experiment, lambda state: spec.build(state, body, provenance))
        return _json(to_dict(state))

    command.__annotations__ = {
        "experiment": ExperimentId,
        "body": spec.body,
        "by": caller,
        "return": Response,
    }
    return command


def _source(known: ExperimentStates) -> dict[str, str | None]:
    return {"source": known.source, "notice": known.notice}


def _json(value: Any) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), 200, headers, "application/json")
