"""Append a command on an experiment to the log of decisions, and read the states of experiments.

The command line, the HTTP API, the console and training command through `decide`: one decision, built on the
newest state.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment, Rules
from services.errors import BadInputError, NotFoundError, StalePositionError, UnavailableError
from services.ports.state import DecisionLog, StateCache

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # the decider may take the next revision between reading the state and appending


def decide(log: DecisionLog, experiment: str, build: Callable[[Experiment], Decision]) -> Experiment:
    """Append the decision that `build` makes of the newest state; retry if another process decided first.

    Raises NotFoundError, UnavailableError, and what `build` raises.
    """
    for _ in range(MAX_ATTEMPTS):
        state = newest_state(log, experiment)
        try:
            return log.append(build(state))
        except StalePositionError as error:
            logger.info("%s", error)
    problem = f"another process decided first {MAX_ATTEMPTS} times; nothing was changed, try again"
    raise UnavailableError("the decision log", problem)


def newest_state(log: DecisionLog, experiment: str) -> Experiment:
    """The newest state of an experiment. Raises NotFoundError, UnavailableError."""
    try:
        state = log.catch_up().get(experiment)
    except UnavailableError as error:
        raise UnavailableError("the decision log", f"{error}; nothing was changed") from error
    if state is None:
        raise NotFoundError("experiment", f"{experiment!r} was never started")
    return state


@dataclass(frozen=True, slots=True)
class ExperimentStates:
    """States by experiment. `source`: `decisions` (the log) or `cache`; `notice`: what may be missing or
    stale, None if nothing is."""

    states: Mapping[str, Experiment]
    source: str
    notice: str | None = None


def read_states(log: DecisionLog, cache: StateCache, experiment: str) -> ExperimentStates:
    """Every experiment from the log; while that can't be read, `experiment` as it was cached.

    Raises UnavailableError naming both when neither answers.
    """
    try:
        states = log.catch_up()
    except UnavailableError as error:
        return _cached(cache, experiment, error)
    try:
        cache.get(experiment)
    except UnavailableError as error:
        return ExperimentStates(states, "decisions", f"{error}. Replicas may serve an older revision.")
    return ExperimentStates(states, "decisions")


def _cached(cache: StateCache, experiment: str, log_error: UnavailableError) -> ExperimentStates:
    try:
        state = cache.get(experiment)
    except UnavailableError as error:
        raise UnavailableError("the decision log and its cache", f"{log_error}; {error}") from error
    missing = "later decisions, and other experiments, may be missing"
    notice = f"{log_error}. This is the cached state; {missing}."
    return ExperimentStates({experiment: state} if state else {}, "cache", notice)


def replace_rules(base: Rules, values: Mapping[str, object]) -> Rules:
    """`base` with other values, by name of the rule. Raises BadInputError naming the rule that is wrong.

    >>> replace_rules(Rules(), {"margin": 0.05}).margin
    0.05
    """
    names = [field.name for field in fields(Rules)]
    if unknown := sorted(values.keys() - set(names)):
        raise BadInputError(f"rules.{unknown[0]}", f"unknown; known are {', '.join(names)}")
    try:
        return replace(base, **values)  # type: ignore[arg-type]  # Rules checks the values itself
    except (TypeError, ValueError) as error:
        field, _, problem = str(error).partition(": ")
        raise BadInputError(field if problem else "rules", problem or str(error)) from error


def rule_values(words: list[str]) -> dict[str, object]:
    """The values in "rule=value" words, each parsed as the type of its default. Raises BadInputError.

    >>> rule_values(["margin=0.05", "ramp=0.1,0.2"])
    {'margin': 0.05, 'ramp': (0.1, 0.2)}
    """
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise BadInputError(f"--set {word}", "expected RULE=VALUE")
        values[name] = _parse_rule(name, text)
    return values


def _parse_rule(name: str, text: str) -> object:
    default = getattr(Rules(), name, "")
    try:
        if isinstance(default, tuple):
            return tuple(float(part) for part in text.split(","))
        return type(default)(text)
    except ValueError as error:
        raise BadInputError(
            f"rules.{name}", f"{text!r} can't be parsed; write it like {default!r}"
        ) from error
