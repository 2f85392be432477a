"""Recounts on the console: the dialog shows the sums that would be dropped, then an admin confirms."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.transitions import IllegalTransition
from services.console.commands import Why, append, genuine, refused
from services.console.deps import Selected, commander, deps_of
from services.console.sessions import Person
from services.control.recount import RecountRequest
from services.errors import RingsideError

router = APIRouter()


def recount_request(
    seen: Annotated[str, Form(max_length=200)] = "", from_now: Annotated[bool, Form()] = False
) -> RecountRequest:
    """Dependency: the request in the form."""
    return RecountRequest(from_now, seen)


@router.get("/experiments/{name}/recount")
def preview(request: Request, selected: Selected, person: Annotated[Person, Depends(commander)]) -> Response:
    """The middle of the dialog: the sums that would be dropped, and whether the log can give them again."""
    deps, state = deps_of(request), selected.state
    try:
        sums = deps.recounting.preview(state, False, Provenance(person.name, deps.now_ms()))
    except (IllegalTransition, RingsideError) as error:
        return refused(error)
    return HTMLResponse(deps.templates.get_template("part_recount.html").render(preview=sums))


@router.post("/experiments/{name}/commands/recount")
def recount(
    request: Request,
    selected: Selected,
    person: Annotated[Person, Depends(genuine)],
    wanted: Annotated[RecountRequest, Depends(recount_request)],
    why: Why = "",
) -> JSONResponse:
    """Drop the previewed sums and count again, or answer with the reason why not."""
    recounting, state = deps_of(request).recounting, selected.state
    return append(
        request, selected, person, why, lambda provenance: recounting.builder(state, wanted, provenance)
    )
