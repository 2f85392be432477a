"""Recounts by an admin who has seen what goes: the question, with the sums as they are, and the command."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.fold import Experiment, IllegalTransition
from services.console.commands import answered, genuine, reason, refused
from services.console.deps import Found, commander, desk_of, found
from services.console.sessions import Person
from services.control.recount import Asked
from services.errors import RingsideError

router = APIRouter()
Chosen = Annotated[Found, Depends(found)]


def asked(
    seen: Annotated[str, Form(max_length=200)] = "", from_now: Annotated[bool, Form()] = False
) -> Asked:
    """Dependency: what the form asked for."""
    return Asked(from_now, seen)


@router.get("/experiments/{name}/recount")
def question(request: Request, chosen: Chosen, person: Annotated[Person, Depends(commander)]) -> Response:
    """What would be dropped, and whether the log can give it again: the middle of the dialog."""
    desk, state = desk_of(request), chosen.followed.state
    try:
        preview = desk.recounting.preview(state, False, Provenance(person.name, desk.now_ms()))
    except (IllegalTransition, RingsideError) as error:
        return refused(error)
    return HTMLResponse(desk.templates.get_template("part_recount.html").render(preview=preview))


@router.post("/experiments/{name}/commands/recount")
def recount(
    request: Request,
    chosen: Chosen,
    person: Annotated[Person, Depends(genuine)],
    wanted: Annotated[Asked, Depends(asked)],
    why: Annotated[str, Form(alias="reason", max_length=300)] = "",
) -> JSONResponse:
    """Drop the sums that were seen and count anew, or say in a sentence why not."""
    desk = desk_of(request)

    def command() -> Experiment:
        provenance = Provenance(author=person.name, now_ms=desk.now_ms(), reason=reason(why))
        build = desk.recounting.order(chosen.followed.state, wanted, provenance)
        return desk.follower.command(chosen.name, build)

    return answered(command)
