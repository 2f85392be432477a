"""Commands of an admin, confirmed on the page: pause, resume, promote, roll back, undo. Each is an
audited decision."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request
from fastapi.responses import JSONResponse

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.fold import Decision, Experiment, IllegalTransition
from services.console.deps import Found, commander, desk_of, found
from services.console.sessions import Person, csrf_holds
from services.errors import BadInputError, RingsideError, UnavailableError

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Order:
    """What an admin asked for: `arm` for promote and rollback, `reverts` (a revision) for undo."""

    arm: str = ""
    reverts: int = 0


COMMANDS: Mapping[str, Callable[[Experiment, Order, Provenance], Decision]] = {
    "pause": lambda state, order, provenance: commands.pause(state, provenance),
    "resume": lambda state, order, provenance: commands.resume(state, provenance),
    "promote": lambda state, order, provenance: commands.promote(state, order.arm, provenance),
    "rollback": lambda state, order, provenance: commands.rollback(state, order.arm, provenance),
    "undo": lambda state, order, provenance: commands.undo(state, order.reverts, provenance),
}


def build(kind: str, order: Order, provenance: Provenance) -> Callable[[Experiment], Decision]:
    """The builder of a command. Raises BadInputError naming what is missing."""
    if kind not in COMMANDS:
        raise BadInputError("command", f"{kind} is not one of {', '.join(COMMANDS)}")
    if kind in ("promote", "rollback") and not order.arm:
        raise BadInputError("arm", "name the arm")
    if kind == "undo" and not order.reverts:
        raise BadInputError("reverts", "name the revision to undo")
    return lambda state: COMMANDS[kind](state, order, provenance)


def reason(text: str) -> str:
    """The sentence that goes into the record. Raises BadInputError when it is empty."""
    words = " ".join(text.split())
    if not words:
        raise BadInputError("reason", "say why in one sentence; it goes into the record")
    return words


def order(arm: Annotated[str, Form(max_length=64)] = "", reverts: Annotated[int, Form(ge=0)] = 0) -> Order:
    """Dependency: what the form asked for."""
    return Order(arm, reverts)


def genuine(person: Annotated[Person, Depends(commander)], csrf: Annotated[str, Form()] = "") -> Person:
    """Dependency: an admin whose form comes from this session."""
    if not csrf_holds(person, csrf):
        raise HTTPException(403, "This form is not from this session; load the page again.")
    return person


@router.post("/experiments/{name}/commands/{kind}")
def carry_out(
    request: Request,
    chosen: Annotated[Found, Depends(found)],
    person: Annotated[Person, Depends(genuine)],
    ordered: Annotated[Order, Depends(order)],
    kind: str,
    why: Annotated[str, Form(alias="reason", max_length=300)] = "",
) -> JSONResponse:
    """Append the command to the log, or say in a sentence why not."""
    desk = desk_of(request)

    def command() -> Experiment:
        provenance = Provenance(author=person.name, now_ms=desk.now_ms(), reason=reason(why))
        return desk.follower.command(chosen.name, build(kind, ordered, provenance))

    return answered(command)


def answered(command: Callable[[], Experiment]) -> JSONResponse:
    """What a command made of the experiment, or a sentence that says why not."""
    try:
        state = command()
    except (IllegalTransition, RingsideError) as error:
        return refused(error)
    return JSONResponse({"revision": state.revision, "status": state.status, "champion": state.champion})


def refused(error: Exception) -> JSONResponse:
    """Why not, in a sentence."""
    return JSONResponse({"error": str(error)}, _status(error))


def _status(error: Exception) -> int:
    if isinstance(error, BadInputError):
        return 422
    return 503 if isinstance(error, UnavailableError) else 409
