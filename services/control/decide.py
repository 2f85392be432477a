"""A command on an experiment: one decision, built on the newest state and appended to the log.

The command line, the HTTP service, the console and the trainer all command through here.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from experiments.lifecycle.fold import Decision, Experiment, Rules
from services.errors import BadInputError, StalePositionError, UnavailableError
from services.ports.state import DecisionLog, StateCache

logger = logging.getLogger(__name__)

ATTEMPTS = 5  # the decider may take the next revision between our look and our append


class UnknownExperimentError(BadInputError):
    """A command on an experiment that the log does not know."""


def decide(log: DecisionLog, experiment: str, build: Callable[[Experiment], Decision]) -> Experiment:
    """Append what `build` makes of the newest state, and again if somebody else decided meanwhile.

    Raises UnknownExperimentError, what `build` raises, UnavailableError.
    """
    for _ in range(ATTEMPTS):
        state = newest(log, experiment)
        try:
            return log.append(build(state))
        except StalePositionError as error:
            logger.info("%s", error)
    raise UnavailableError("the decision log", f"others decided first {ATTEMPTS} times; nothing was changed")


def newest(log: DecisionLog, experiment: str) -> Experiment:
    """The state to command from. Raises UnknownExperimentError, UnavailableError."""
    try:
        state = log.catch_up().get(experiment)
    except UnavailableError as error:
        raise UnavailableError("the decision log", f"{error}; nothing was changed") from error
    if state is None:
        raise UnknownExperimentError("experiment", f"{experiment!r} was never started")
    return state


@dataclass(frozen=True, slots=True)
class Known:
    """States by experiment, and where they are from: `decisions` (the log) or `cache`. `notice`: what a
    reader must know about them, None if nothing."""

    states: Mapping[str, Experiment]
    source: str
    notice: str | None = None


def known(log: DecisionLog, cache: StateCache, experiment: str) -> Known:
    """Every experiment by the log; while that can't be read, `experiment` as it was cached.

    Raises UnavailableError naming both when neither answers.
    """
    try:
        states = log.catch_up()
    except UnavailableError as error:
        return _cached(cache, experiment, error)
    try:
        cache.get(experiment)
    except UnavailableError as error:
        return Known(states, "decisions", f"{error}. Replicas may serve an older revision.")
    return Known(states, "decisions")


def _cached(cache: StateCache, experiment: str, lost: UnavailableError) -> Known:
    try:
        state = cache.get(experiment)
    except UnavailableError as error:
        raise UnavailableError("the decision log and its cache", f"{lost}; {error}") from error
    notice = f"{lost}. This is the cached state; later decisions, and other experiments, may be missing."
    return Known({experiment: state} if state else {}, "cache", notice)


def rules_with(base: Rules, said: Mapping[str, Any]) -> Rules:
    """`base` with `said` in it, by name of the rule. Raises BadInputError naming the rule that is wrong.

    >>> rules_with(Rules(), {"margin": 0.05}).margin
    0.05
    """
    names = [field.name for field in fields(Rules)]
    if unknown := sorted(set(said) - set(names)):
        raise BadInputError(f"rules.{unknown[0]}", f"unknown; known are {', '.join(names)}")
    try:
        return replace(base, **said)
    except (TypeError, ValueError) as error:
        field, _, problem = str(error).partition(": ")
        raise BadInputError(field if problem else "rules", problem or str(error)) from error


def rules_from_words(base: Rules, words: list[str]) -> Rules:
    """`base` with "rule=value" words in it, each value read by the type of the one it replaces.

    >>> rules_from_words(Rules(), ["margin=0.05", "ramp=0.1,0.2"]).ramp
    (0.1, 0.2)
    """
    said = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise BadInputError(f"--set {word}", "expected RULE=VALUE")
        said[name] = _parsed(name, getattr(base, name, ""), text)
    return rules_with(base, said)


def _parsed(name: str, now: object, text: str) -> object:
    try:
        if isinstance(now, tuple):
            return tuple(float(part) for part in text.split(","))
        return type(now)(text)
    except ValueError as error:
        raise BadInputError(f"rules.{name}", f"{text!r} is not like {now!r}") from error
