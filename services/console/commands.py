"""Commands that an admin confirms on the page. Each appends one audited decision."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import JSONResponse

from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment
from experiments.lifecycle.transitions import IllegalTransition
from services.console.deps import Selected, check_csrf, commander, deps_of
from services.console.log_follower import FollowedExperiment
from services.console.sessions import Person
from services.control.commands import COMMANDS
from services.errors import BadInputError, RingsideError, UnavailableError

router = APIRouter()

FormFields = dict[str, object]
Builder = Callable[[Experiment], Decision]
Why = Annotated[str, Form(alias="reason", max_length=300)]


def build(kind: str, form: FormFields, provenance: Provenance) -> Builder:
    """The builder of a command. Raises BadInputError naming the field that is missing."""
    spec = COMMANDS.get(kind)
    if spec is None or not spec.on_console:
        offered = [spec.name for spec in COMMANDS.values() if spec.on_console]
        raise BadInputError("command", f"{kind} is not one of {', '.join(offered)}")
    fields: FormFields = {"reason": provenance.reason}
    for name, argument in spec.arguments().items():
        form_name = argument.form_name or name
        if not form[form_name]:
            raise BadInputError(form_name, argument.request)
        fields[name] = form[form_name]
    body = spec.parse(fields)
    return lambda state: spec.build(state, body, provenance)


def reason(text: str) -> str:
    """The reason for the record, with single spaces. Raises BadInputError if it is empty."""
    words = " ".join(text.split())
    if not words:
        raise BadInputError("reason", "say why in one sentence; it goes into the record")
    return words


def fields(
    arm: Annotated[str, Form(max_length=64)] = "", reverts: Annotated[int, Form(ge=0)] = 0
) -> FormFields:
    """Dependency: the fields of the form other than the reason."""
    return {"arm": arm, "reverts": reverts}


def genuine(person: Annotated[Person, Depends(commander)], csrf: Annotated[str, Form()] = "") -> Person:
    """Dependency: an admin whose form comes from this session."""
    check_csrf(person, csrf)
    return person


@router.post("/experiments/{name}/commands/{kind}")
def carry_out(
    request: Request,
    selected: Selected,
    person: Annotated[Person, Depends(genuine)],
    form: Annotated[FormFields, Depends(fields)],
    kind: str,
    why: Why = "",
) -> JSONResponse:
    """Append the command to the log, or answer with the reason why not."""
    return append(request, selected, person, why, lambda provenance: build(kind, form, provenance))


def append(
    request: Request,
    selected: FollowedExperiment,
    person: Person,
    why: str,
    builder: Callable[[Provenance], Builder],
) -> JSONResponse:
    """Append a decision; answer with the new revision, status and champion, or with the reason why not."""
    deps = deps_of(request)
    try:
        provenance = Provenance(author=person.name, now_ms=deps.now_ms(), reason=reason(why))
        state = deps.follower.command(selected.state.name, builder(provenance))
    except (IllegalTransition, RingsideError) as error:
        return refused(error)
    return JSONResponse({"revision": state.revision, "status": state.status, "champion": state.champion})


def refused(error: Exception) -> JSONResponse:
    """The answer to a command that was refused."""
    return JSONResponse({"error": str(error)}, _status(error))


def _status(error: Exception) -> int:
    if isinstance(error, BadInputError):
        return 422
    return 503 if isinstance(error, UnavailableError) else 409
