"""GET and POST /experiments…: state, decisions and commands, for the console and for scripts."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Deployed
from experiments.lifecycle.fold import Decision, Experiment
from experiments.lifecycle.state import to_dict
from services.control.decide import Known, rules_with
from services.control.recount import Asked
from services.recommend.api.experiment_commands import Commanding, existing
from services.recommend.api.openapi import ANY_KEY, failures
from services.settings import Settings
from services.web.access import AccessControl, Caller, KeyFirstRoute
from services.web.api_keys import Principal

ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
ExperimentId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
Version = Annotated[str, Field(min_length=1, max_length=200)]


class Command(BaseModel):
    """Every command may say why."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(max_length=500)] = ""


class Start(Command):
    """The first champion. `rules` overrides the installation's defaults, field by field."""

    model_version: Version
    arm: ArmName | None = Field(None, description="Default: the model version.")
    rules: dict[str, Any] = {}


class Enter(Command):
    """A challenger."""

    model_version: Version
    arm: ArmName | None = Field(None, description="Default: the model version.")


class OnArm(Command):
    """A command on one arm."""

    arm: ArmName


class Undo(Command):
    """Take back a rollback or a promotion, named by its revision."""

    revision: Annotated[int, Field(ge=1, lt=2**31)]


class Resume(Command):
    """Go on; new `rules` start every race anew."""

    rules: dict[str, Any] = {}


class Recount(Command):
    """Drop sums that can't be trusted, and count anew. Without `seen` nothing changes."""

    from_now: bool = Field(
        False,
        description="false: count again from the log; the evidence will be the same, and races go on. "
        "true: only units that come from now on count, and every race starts anew.",
    )
    seen: str | None = Field(
        None,
        max_length=200,
        description="Without it you are told what would be dropped, with its name in `seen`. Say that name "
        "back to drop these sums. It holds for 15 minutes, and for what is counted meanwhile; not when the "
        "sums were counted anew or lost since.",
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
    """`done` false: a preview, and nothing changed. `dropped`: what would go, or what went (as the record
    says). `seen`: name of a preview. `out_of_reach`: why the log can't give the counts again; then only
    `from_now` is possible. `state`: the experiment's."""

    done: bool
    dropped: Dropped
    seen: str | None
    out_of_reach: str | None
    state: dict[str, Any]


Make = Callable[[Experiment, Any, Provenance, Settings], Decision]


def _resume(state: Experiment, said: Resume, provenance: Provenance, settings: Settings) -> Decision:
    rules = rules_with(state.rules, said.rules) if said.rules else None
    return commands.resume(state, provenance, rules)


# Each command: its body, what it does (for the documentation), and how it makes the next decision.
COMMANDS: dict[str, tuple[type[Command], str, Make]] = {
    "enter": (
        Enter,
        "A challenger joins at weight 0; it gets weight once every replica has its model loaded.",
        lambda state, said, provenance, _: commands.enter(
            state, said.arm or said.model_version, said.model_version, provenance
        ),
    ),
    "pause": (
        Command,
        "Champion only, until resumed.",
        lambda state, said, provenance, _: commands.pause(state, provenance),
    ),
    "resume": (Resume, "Go on after a pause or a hold.", _resume),
    "promote": (
        OnArm,
        "A challenger becomes champion; the old champion is kept as holdback.",
        lambda state, said, provenance, _: commands.promote(state, said.arm, provenance),
    ),
    "rollback": (
        OnArm,
        "Take an arm out; a champion is replaced by its holdback.",
        lambda state, said, provenance, _: commands.rollback(state, said.arm, provenance),
    ),
    "undo": (
        Undo,
        "Take back a rollback or a promotion.",
        lambda state, said, provenance, _: commands.undo(state, said.revision, provenance),
    ),
    "end": (
        Command,
        "The experiment is over; the champion stays.",
        lambda state, said, provenance, _: commands.end(state, provenance),
    ),
}


def experiment_routes(settings: Settings, access: AccessControl, commanding: Commanding) -> APIRouter:
    """Reading takes an analyst's or admin's key, commands an admin's."""
    router = APIRouter(
        route_class=KeyFirstRoute,
        tags=["experiments"],
        responses=failures("400", "401", "403", "404", "409", "413", "422", "429", "503"),
    )
    _reading(router, commanding, Annotated[Principal, Depends(Caller(access, "analyst", "admin"))])
    admin = Annotated[Principal, Depends(Caller(access, "admin"))]
    _starting(router, commanding, settings, admin)
    _recounting(router, commanding, admin)
    for name, (body, doc, make) in COMMANDS.items():
        router.add_api_route(
            f"/experiments/{{experiment}}/{name}",
            _endpoint(commanding, settings, admin, body, make),
            methods=["POST"],
            summary=doc,
            operation_id=f"{name}_experiment",
            openapi_extra={"security": ANY_KEY},
        )
    return router


def _reading(router: APIRouter, commanding: Commanding, reader: Any) -> None:
    extra = {"security": ANY_KEY}

    @router.get("/experiments", openapi_extra=extra)
    async def experiments(by: reader) -> Response:
        """Every experiment with its state. `source`: decisions (the log), or cache while the log is away;
        `notice`: what may be missing then, or which replicas may lag."""
        found = await commanding.known()
        states = [to_dict(found.states[name]) for name in sorted(found.states)]
        return _json({"experiments": states, **_source(found)})

    @router.get("/experiments/{experiment}", openapi_extra=extra)
    async def experiment_state(experiment: ExperimentId, by: reader) -> Response:
        """State after the newest decision: arms, weights, races; `source` and `notice` as above."""
        found = await commanding.known()
        return _json({**to_dict(existing(found.states, experiment)), **_source(found)})

    @router.get("/experiments/{experiment}/decisions", openapi_extra=extra)
    async def decisions(
        experiment: ExperimentId,
        by: reader,
        after_revision: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> Response:
        """Decisions that count, oldest first, each with every number it was made from."""
        seen = await commanding.known()
        existing(seen.states, experiment)
        found = await commanding.history(experiment, after_revision)
        return _json({"decisions": found[:limit], "more": len(found) > limit, **_source(seen)})


def _starting(router: APIRouter, commanding: Commanding, settings: Settings, admin: Any) -> None:
    @router.post(
        "/experiments/{experiment}/start",
        summary="Begin: a first champion serves everyone.",
        openapi_extra={"security": ANY_KEY},
    )
    async def start(experiment: ExperimentId, said: Start, by: admin) -> Response:
        champion = Deployed(said.arm or said.model_version, said.model_version)
        rules = rules_with(settings.rules, said.rules)
        provenance = commanding.provenance(by.name, said.reason)
        return _json(to_dict(await commanding.start(experiment, champion, rules, provenance)))


def _recounting(router: APIRouter, commanding: Commanding, admin: Any) -> None:
    @router.post(
        "/experiments/{experiment}/recount",
        summary="Drop sums that can't be trusted, and count anew: first a preview, then what was seen.",
        responses={200: {"model": Recounted, "description": "What would be dropped, or what was."}},
        operation_id="recount_experiment",
        openapi_extra={"security": ANY_KEY},
    )
    async def recount(experiment: ExperimentId, said: Recount, by: admin) -> Response:
        """Send it without `seen` to be told what would go, then again with the `seen` that you were told.
        409: the sums are no longer those, or the log can't give them again; nothing was changed."""
        provenance = commanding.provenance(by.name, said.reason)
        if said.seen is None:
            state, preview = await commanding.preview(experiment, said.from_now, provenance)
            told = {"seen": preview.seen, "out_of_reach": preview.out_of_reach or None}
            return _json({"done": False, "dropped": preview.dropped, **told, "state": to_dict(state)})
        state, dropped = await commanding.recount(experiment, Asked(said.from_now, said.seen), provenance)
        told = {"seen": None, "out_of_reach": None}
        return _json({"done": True, "dropped": dropped, **told, "state": to_dict(state)})


def _endpoint(commanding: Commanding, settings: Settings, admin: Any, body: type[Command], make: Make) -> Any:
    async def command(experiment: ExperimentId, said: body, by: admin) -> Response:
        if isinstance(said, Enter):
            commanding.require_model("model_version", said.model_version)
        provenance = commanding.provenance(by.name, said.reason)
        return _json(
            to_dict(
                await commanding.command(experiment, lambda state: make(state, said, provenance, settings))
            )
        )

    return command


def _source(found: Known) -> dict[str, str | None]:
    return {"source": found.source, "notice": found.notice}


def _json(value: Any) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), 200, headers, "application/json")
