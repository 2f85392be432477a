"""`ringside experiment …`: each command is one audited decision, appended by whoever is logged in."""

import getpass
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from secrets import token_hex
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Deployed, Dropped
from experiments.lifecycle.fold import Decision, Experiment, IllegalTransition
from services import bootstrap
from services.cli.progress_report import Counted, progress
from services.control.decide import decide, known, newest, rules_from_words
from services.control.recount import Asked, RecountRefusedError
from services.errors import BadInputError
from services.ports.state import DecisionLog
from services.runtime.clock import wall_ms
from services.settings import EXPERIMENT_NAME, Settings

app = typer.Typer(no_args_is_help=True, help="Experiments: what serves, what competes, what was decided.")

Name = Annotated[str, typer.Option("--experiment", help="Default: RINGSIDE_EXPERIMENT.")]
Why = Annotated[str, typer.Option("--reason", help="For the record.")]
ArmName = Annotated[str, typer.Argument(help="Name of the arm.")]
ModelVersion = Annotated[str, typer.Argument(help="A model version with an artifact.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A rule, like margin=0.05; repeatable.")]


@app.command()
def start(
    model_version: ModelVersion, arm: str = "", experiment: Name = "", reason: Why = "", rule: Set = None
) -> None:
    """Begin, with a first champion."""
    settings = Settings()
    name = experiment or settings.experiments.default
    if re.fullmatch(EXPERIMENT_NAME, name) is None:  # the other commands reach what an older version began
        raise BadInputError("--experiment", f"{name!r} does not match {EXPERIMENT_NAME}")
    _require_model(settings, model_version)
    champion = Deployed(arm or model_version, model_version)
    with _log(settings) as log:
        if name in log.catch_up():
            raise BadInputError("experiment", f"{name!r} was already started; see `ringside experiment show`")
        rules = rules_from_words(settings.rules, rule or [])
        _tell(log.append(commands.start(name, champion, rules, token_hex(8), _provenance(reason))))


@app.command()
def enter(model_version: ModelVersion, arm: str = "", experiment: Name = "", reason: Why = "") -> None:
    """A challenger joins; it gets weight once every live replica has its model loaded."""
    _require_model(Settings(), model_version)
    _decide(
        experiment,
        lambda state: commands.enter(state, arm or model_version, model_version, _provenance(reason)),
    )


@app.command()
def pause(experiment: Name = "", reason: Why = "") -> None:
    """Champion only, until resumed."""
    _decide(experiment, lambda state: commands.pause(state, _provenance(reason)))


@app.command()
def resume(experiment: Name = "", reason: Why = "", rule: Set = None) -> None:
    """Go on after a pause (held, if it was held before), or accept what an experiment is held for; new
    rules start every race anew."""

    def build(state: Experiment) -> Decision:
        return commands.resume(
            state, _provenance(reason), rules_from_words(state.rules, rule) if rule else None
        )

    _decide(experiment, build)


@app.command()
def recount(
    experiment: Name = "",
    reason: Why = "",
    from_now: Annotated[
        bool, typer.Option("--from-now", help="Count only units that come from now on; races start anew.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this it only says what would go.")
    ] = False,
) -> None:
    """Drop sums that can't be trusted and count again from the log, or from now on.

    For an experiment that broken-identity holds. After lost data `resume` is enough, and keeps the sums.
    """
    settings = Settings()
    name, console = experiment or settings.experiments.default, Console()
    with _log(settings) as log:
        state = newest(log, name)
        recounting, provenance = bootstrap.recounting(settings), _provenance(reason)
        preview = recounting.preview(state, from_now, provenance)
        console.print(dropped_table(preview.dropped))
        if preview.out_of_reach:
            raise RecountRefusedError(f"{preview.out_of_reach}; --from-now counts what comes")
        if not yes:
            console.print("These sums would be dropped; --yes does it.")
            return
        _tell(decide(log, name, recounting.order(state, Asked(from_now, preview.seen), provenance)))
        console.print(log.history(name)[-1].reason)


@app.command()
def promote(arm: ArmName, experiment: Name = "", reason: Why = "") -> None:
    """A challenger becomes champion; the old champion stays as holdback."""
    _decide(experiment, lambda state: commands.promote(state, arm, _provenance(reason)))


@app.command()
def rollback(arm: ArmName, experiment: Name = "", reason: Why = "") -> None:
    """Take an arm out; a champion is replaced by its holdback."""
    _decide(experiment, lambda state: commands.rollback(state, arm, _provenance(reason)))


@app.command()
def undo(
    revision: Annotated[
        int, typer.Argument(min=1, max=2**53, help="Of the rollback or promotion to take back.")
    ],
    experiment: Name = "",
    reason: Why = "",
) -> None:
    """Take back a rollback or a promotion."""
    _decide(experiment, lambda state: commands.undo(state, revision, _provenance(reason)))


@app.command()
def end(experiment: Name = "", reason: Why = "") -> None:
    """The experiment is over; its champion stays."""
    _decide(experiment, lambda state: commands.end(state, _provenance(reason)))


@app.command()
def show(
    experiment: Name = "", last: Annotated[int, typer.Option(min=1, help="Decisions to list.")] = 10
) -> None:
    """Arms, weights, what was counted so far, the next look and the latest decisions."""
    settings = Settings()
    with _log(settings) as log:
        name = experiment or settings.experiments.default
        found = known(log, bootstrap.state_cache(settings), settings.experiments.default)
        if found.notice:
            Console(stderr=True).print(f"[yellow]{escape(found.notice)}[/]")
        if name not in found.states:
            raise BadInputError("experiment", f"{name!r} was never started")
        history = log.history(name) if found.source == "decisions" else []
        counted = Counted.of(bootstrap.sum_store(settings), found.states[name], settings.kafka_partitions)
        if counted.problem and not found.notice:
            told = f"Not shown is what was counted: {counted.problem}"
            Console(stderr=True).print(f"[yellow]{escape(told)}[/]")
        _show(found.states[name], counted, history, last)


def _show(state: Experiment, counted: Counted, history: list[Decision], last: int) -> None:
    console = Console()
    console.print(arms_table(state, counted))
    for sentence in progress(state, counted, history, wall_ms()):
        console.print(sentence, highlight=False)
    if history:
        console.print(decisions_table(history[-last:]))


def arms_table(state: Experiment, counted: Counted | None = None) -> Table:
    """One row an arm, live ones first, with what was `counted` of it if that is known."""
    table = Table(title=f"{state.name}: {state.status}, revision {state.revision}", title_justify="left")
    numbers = ["weight"] if counted is None or counted.tally is None else ["weight", "units", "successes"]
    for column in ("arm", "role", "model version", *numbers):
        table.add_column(column, justify="right" if column in numbers else "left")
    retired = [arm for arm in state.arms.values() if arm.role == "retired"]
    for arm in [*state.live_arms(), *retired]:
        weight = state.weights.shares.get(arm.name)
        counts = counted.arm(arm.name) if counted is not None else None
        cells = ["" if weight is None else f"{weight:.1%}"]
        cells += [f"{counts.n:,}", f"{counts.s:,}"] if counts is not None else []
        table.add_row(arm.name, arm.role, arm.model_version, *cells)
    return table


def dropped_table(dropped: Dropped) -> Table:
    """One row an arm, or why the sums can't be read."""
    content = dropped.unreadable or f"{dropped.units} units"
    title = f"sums {(dropped.digest or '')[:12]}: {content}"
    table = Table("arm", "units", "successes", "acknowledged events", title=title, title_justify="left")
    for arm, counts in (dropped.arms or {}).items():
        table.add_row(arm, *(str(counts.get(what, 0)) for what in ("n", "s", "acknowledged")))
    return table


def decisions_table(history: list[Decision]) -> Table:
    """One row a decision, oldest first."""
    table = Table("revision", "time (UTC)", "kind", "author", "reason")
    for decision in history:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(decision.received_at / 1_000))
        table.add_row(str(decision.revision), at, decision.kind, decision.author, decision.reason)
    return table


def _decide(experiment: str, build: Callable[[Experiment], Decision]) -> None:
    settings = Settings()
    with _log(settings) as log:
        _tell(decide(log, experiment or settings.experiments.default, build))


def _provenance(reason: str) -> Provenance:
    return Provenance(
        f"shell:{getpass.getuser()}",
        wall_ms(),
        reason=reason,
        code_version=version("ringside"),
    )


@contextmanager
def _log(settings: Settings) -> Iterator[DecisionLog]:
    """The log of decisions; a decision that makes no sense becomes an error of the command's."""
    try:
        yield bootstrap.decision_log(settings)
    except IllegalTransition as error:
        raise BadInputError("experiment", str(error)) from error


def _require_model(settings: Settings, model_version: str) -> None:
    known = bootstrap.model_store(settings).versions()
    if model_version not in known:
        there = f"there are {', '.join(known)}" if known else "there is none yet: train one"
        raise BadInputError("MODEL_VERSION", f"no artifact of {model_version!r}; {there}")


def _tell(state: Experiment) -> None:
    Console().print(arms_table(state))
