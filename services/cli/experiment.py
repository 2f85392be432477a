"""`ringside experiment …`: each command appends one audited decision with the name of the shell user."""

import getpass
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from inspect import Parameter, Signature
from secrets import token_hex
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Decision, Deployed, Dropped
from experiments.lifecycle.state import Experiment
from experiments.lifecycle.transitions import IllegalTransition
from services import bootstrap
from services.cli.progress_report import CountedSums, progress
from services.control.commands import COMMANDS, CommandSpec, Enter
from services.control.decide import decide, newest_state, read_states, replace_rules, rule_values
from services.control.recount import RecountRefusedError, RecountRequest
from services.errors import BadInputError
from services.ports.state import DecisionLog
from services.runtime.clock import wall_ms
from services.settings import EXPERIMENT_NAME, Settings

app = typer.Typer(no_args_is_help=True, help="Experiments: what serves, what competes, what was decided.")

Name = Annotated[str, typer.Option("--experiment", help="Default: RINGSIDE_EXPERIMENT.")]
Reason = Annotated[str, typer.Option("--reason", help="Reason, stored with the decision.")]
ModelVersion = Annotated[str, typer.Argument(help="A model version with an artifact.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A rule, like margin=0.05; repeatable.")]


@app.command()
def start(
    model_version: ModelVersion, arm: str = "", experiment: Name = "", reason: Reason = "", rule: Set = None
) -> None:
    """Start an experiment with its first champion, which serves all traffic."""
    settings = Settings()
    name = experiment or settings.experiments.default
    if re.fullmatch(EXPERIMENT_NAME, name) is None:  # other commands still reach names of older releases
        raise BadInputError("--experiment", f"{name!r} does not match {EXPERIMENT_NAME}")
    _require_model(settings, model_version)
    champion = Deployed(arm or model_version, model_version)
    with _log(settings) as log:
        if name in log.catch_up():
            raise BadInputError("experiment", f"{name!r} was already started; see `ringside experiment show`")
        rules = replace_rules(settings.rules, rule_values(rule or []))
        _print(log.append(commands.start(name, champion, rules, token_hex(8), _provenance(reason))))


def _add(spec: CommandSpec[Any]) -> None:
    """Add a command of the table: its required fields become arguments, the others options."""

    def run(experiment: str, **fields: Any) -> None:
        if words := fields.pop("rules", None):
            fields["rules"] = rule_values(words)
        body = spec.parse({name: value for name, value in fields.items() if value is not None})
        if isinstance(body, Enter):
            _require_model(Settings(), body.model_version)
        _decide(experiment, lambda state: spec.build(state, body, _provenance(body.reason)))

    parameters = [_parameter(spec, name) for name in spec.arguments()]
    options = [name for name in spec.body.model_fields if name not in spec.arguments() and name != "reason"]
    parameters += [_parameter(spec, name) for name in options]
    parameters += [_keyword("experiment", Name, ""), _keyword("reason", Reason, "")]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(spec.name, help=spec.help)(run)


def _parameter(spec: CommandSpec[Any], name: str) -> Parameter:
    if name == "rules":
        return _keyword(name, Set, None)
    kind = spec.body.model_fields[name].annotation
    if argument := spec.arguments().get(name):
        return _keyword(name, Annotated[kind, typer.Argument(help=argument.help)], Parameter.empty)
    return _keyword(name, kind, None)


def _keyword(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


for _spec in COMMANDS.values():
    _add(_spec)


@app.command()
def recount(
    experiment: Name = "",
    reason: Reason = "",
    from_now: Annotated[
        bool, typer.Option("--from-now", help="Count only units that begin from now on; races restart.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this option it only shows what would be dropped.")
    ] = False,
) -> None:
    """Drop sums that can't be trusted and count again from the log, or from now on.

    Use it if the rule broken-identity holds the experiment. After lost data `resume` is enough: it keeps
    the sums.
    """
    settings = Settings()
    name, console = experiment or settings.experiments.default, Console()
    with _log(settings) as log:
        state = newest_state(log, name)
        recounting, provenance = bootstrap.recounting(settings), _provenance(reason)
        preview = recounting.preview(state, from_now, provenance)
        console.print(dropped_table(preview.dropped))
        if preview.out_of_reach:
            raise RecountRefusedError(f"{preview.out_of_reach}; add --from-now to count only new units")
        if not yes:
            console.print("These sums would be dropped; add --yes to drop them.")
            return
        _print(
            decide(log, name, recounting.builder(state, RecountRequest(from_now, preview.seen), provenance))
        )
        console.print(log.history(name)[-1].reason)


@app.command()
def show(
    experiment: Name = "", last: Annotated[int, typer.Option(min=1, help="Decisions to list.")] = 10
) -> None:
    """Show arms, weights, counts so far, the next look and the latest decisions."""
    settings = Settings()
    with _log(settings) as log:
        name = experiment or settings.experiments.default
        result = read_states(log, bootstrap.state_cache(settings), settings.experiments.default)
        if result.notice:
            Console(stderr=True).print(f"[yellow]{escape(result.notice)}[/]")
        if name not in result.states:
            raise BadInputError("experiment", f"{name!r} was never started")
        history = log.history(name) if result.source == "decisions" else []
        counted = CountedSums.of(
            bootstrap.sum_store(settings), result.states[name], settings.kafka_partitions
        )
        if counted.problem and not result.notice:
            problem = f"The counts are not shown: {counted.problem}"
            Console(stderr=True).print(f"[yellow]{escape(problem)}[/]")
        _show(result.states[name], counted, history, last)


def _show(state: Experiment, counted: CountedSums, history: list[Decision], last: int) -> None:
    console = Console()
    console.print(arms_table(state, counted))
    for sentence in progress(state, counted, history, wall_ms()):
        console.print(sentence, highlight=False)
    if history:
        console.print(decisions_table(history[-last:]))


def arms_table(state: Experiment, counted: CountedSums | None = None) -> Table:
    """One row an arm, live ones first, with what was `counted` of it if that is known."""
    table = Table(title=f"{state.name}: {state.status}, revision {state.revision}", title_justify="left")
    numbers = ["weight"] if counted is None or counted.sums is None else ["weight", "units", "successes"]
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
        _print(decide(log, experiment or settings.experiments.default, build))


def _provenance(reason: str) -> Provenance:
    return Provenance(
        f"shell:{getpass.getuser()}",
        wall_ms(),
        reason=reason,
        code_version=version("ringside"),
    )


@contextmanager
def _log(settings: Settings) -> Iterator[DecisionLog]:
    """The log of decisions; an illegal decision becomes a BadInputError."""
    try:
        yield bootstrap.decision_log(settings)
    except IllegalTransition as error:
        raise BadInputError("experiment", str(error)) from error


def _require_model(settings: Settings, model_version: str) -> None:
    known = bootstrap.model_store(settings).versions()
    if model_version not in known:
        existing = (
            f"there are {', '.join(known)}" if known else "no model exists yet: run `ringside models fit`"
        )
        raise BadInputError("MODEL_VERSION", f"no artifact of {model_version!r}; {existing}")


def _print(state: Experiment) -> None:
    Console().print(arms_table(state))
