"""The table of commands on a running experiment. HTTP, the console and the command line are made from it.

A row says what a command is called, which fields it takes, who may give it and how it becomes a decision. A
new command is a row here and its builder in `experiments.lifecycle.commands`. `start` and `recount` are not
in the table: the first needs no experiment, the second a preview.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment
from services.control.decide import replace_rules
from services.errors import BadInputError


@dataclass(frozen=True, slots=True)
class Argument:
    """A required field of a command. `help`: on the command line; `request`: what a form says where
    it is missing; `form_name`: its name in forms, if that is another one."""

    help: str
    request: str
    form_name: str = ""


ArmName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Version = Annotated[str, Field(min_length=1, max_length=200)]
ModelVersion = Annotated[Version, Argument("A model version with an artifact.", "name the model version")]


class Command(BaseModel):
    """Base of all commands: an optional reason."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Annotated[str, Field(max_length=500)] = ""


class Enter(Command):
    """Enter a challenger."""

    model_version: ModelVersion
    arm: ArmName | None = Field(None, description="Default: the model version.")


class ArmCommand(Command):
    """A command on one arm."""

    arm: Annotated[ArmName, Argument("Name of the arm.", "name the arm")]


class Undo(Command):
    """Take back a rollback or a promotion, named by its revision."""

    revision: Annotated[
        int,
        Field(ge=1, lt=2**31),
        Argument("Of the rollback or promotion to take back.", "name the revision to undo", "reverts"),
    ]


class Resume(Command):
    """Go on; new `rules` restart every race."""

    rules: dict[str, Any] = {}


Body = TypeVar("Body", bound=Command)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec(Generic[Body]):
    """One command. `body` parses its fields; `build` makes the decision, on the newest state; `role`: of the
    API keys that may give it; `on_console`: the console offers it, and asks for a reason; `needs_model`: its
    `model_version` must have an artifact."""

    name: str
    body: type[Body]
    help: str
    build: Callable[[Experiment, Body, Provenance], Decision]
    role: str = "admin"
    on_console: bool = True
    needs_model: bool = False

    def parse(self, fields: Mapping[str, object]) -> Body:
        """The body with these fields. Raises BadInputError naming the one that is wrong."""
        try:
            return self.body.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise BadInputError(".".join(map(str, first["loc"])), first["msg"]) from error

    def arguments(self) -> dict[str, Argument]:
        """The required fields, by name."""
        marks = {name: field.metadata for name, field in self.body.model_fields.items()}
        return {name: mark for name, values in marks.items() for mark in values if isinstance(mark, Argument)}


def _resume(state: Experiment, body: Resume, provenance: Provenance) -> Decision:
    return commands.resume(state, provenance, replace_rules(state.rules, body.rules) if body.rules else None)


_TABLE: tuple[CommandSpec[Any], ...] = (
    CommandSpec(
        name="enter",
        body=Enter,
        help="A challenger joins at weight 0; it gets weight once every replica has its model loaded.",
        build=lambda state, body, provenance: commands.enter(
            state, body.arm or body.model_version, body.model_version, provenance
        ),
        on_console=False,
        needs_model=True,
    ),
    CommandSpec(
        name="pause",
        body=Command,
        help="Champion only, until resumed.",
        build=lambda state, body, provenance: commands.pause(state, provenance),
    ),
    CommandSpec(
        name="resume",
        body=Resume,
        help="Go on after a pause or a hold.",
        build=_resume,
    ),
    CommandSpec(
        name="promote",
        body=ArmCommand,
        help="A challenger becomes champion; the old champion is kept as holdback.",
        build=lambda state, body, provenance: commands.promote(state, body.arm, provenance),
    ),
    CommandSpec(
        name="rollback",
        body=ArmCommand,
        help="Take an arm out; a champion is replaced by its holdback.",
        build=lambda state, body, provenance: commands.rollback(state, body.arm, provenance),
    ),
    CommandSpec(
        name="undo",
        body=Undo,
        help="Take back a rollback or a promotion.",
        build=lambda state, body, provenance: commands.undo(state, body.revision, provenance),
    ),
    CommandSpec(
        name="end",
        body=Command,
        help="The experiment is over; the champion stays.",
        build=lambda state, body, provenance: commands.end(state, provenance),
        on_console=False,
    ),
)
COMMANDS: Mapping[str, CommandSpec[Any]] = {spec.name: spec for spec in _TABLE}
