"""A command on an experiment: one decision, built on the newest state and appended to the log.

The command line, the HTTP service, the console and the trainer all command through here.
"""

import logging
from collections.abc import Callable
from dataclasses import fields

from experiments.experiment import Decision, Experiment, Rules
from services.errors import BadInputError, StalePositionError, UnavailableError
from services.ports import DecisionLog
from services.settings import Settings

logger = logging.getLogger(__name__)

ATTEMPTS = 5  # the decider may take the next revision between our look and our append


def decide(log: DecisionLog, experiment: str, build: Callable[[Experiment], Decision]) -> Experiment:
    """Append what `build` makes of the newest state, and again if somebody else decided meanwhile.

    Raises BadInputError if there is no such experiment, what `build` raises, UnavailableError.
    """
    for _ in range(ATTEMPTS):
        state = log.catch_up().get(experiment)
        if state is None:
            raise BadInputError("experiment", f"{experiment!r} was never started")
        try:
            return log.append(build(state))
        except StalePositionError as error:
            logger.info("%s", error)
    raise UnavailableError("the decision log", f"others decided first {ATTEMPTS} times; nothing was changed")


def installation_rules(settings: Settings) -> Rules:
    """What the settings say; the product's defaults for the rest."""
    named = [field.name for field in fields(Rules) if hasattr(settings, field.name)]
    return Rules(**{name: getattr(settings, name) for name in named})
