"""The process: a tick a second, whatever happens to broker and Redis."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

from models.recommender import Progress
from services import bootstrap
from services.bandit.decider.decider import Decider, Deps, Identity, LooksFailedError
from services.errors import UnavailableError
from services.runtime.liveness import complain
from services.runtime.process import replica_name, stop_on_signal
from services.settings import Settings

logger = logging.getLogger(__name__)

TICK_S = 1.0


def run(settings: Settings) -> None:
    """Decide until SIGTERM."""
    bootstrap.configure_logging(settings, "decider")
    stop = stop_on_signal(settings, "decider")
    with bootstrap.metered(settings, "decider") as meters:
        loop(decider(settings, meters), stop, meters, partial(complain, settings, "decider"))


def decider(settings: Settings, meters: "bootstrap.Meters") -> Decider:
    """A decider on real adapters."""
    deps = Deps(
        decisions=meters.decisions(bootstrap.decision_log(settings)),
        store=meters.tally(bootstrap.sum_store(settings)),
        cache=bootstrap.state_cache(settings),
    )
    identity = Identity(holder=replica_name(settings), code_version=version("ringside"))
    return Decider(deps, identity, settings.kafka_partitions, clock=lambda: time.time_ns() // 1_000_000)


def loop(
    deciding: Decider,
    stop: threading.Event,
    meters: "bootstrap.Meters",
    complain: Callable[[str], None] = lambda _: None,
) -> None:
    """Tick until `stop`; what is unavailable is tried again at the next tick. What goes wrong by itself is
    told to `complain` (empty: nothing any more). All is said when it changes, not at every tick."""
    logged, complained = "", "?"  # a process before this one may have left a complaint
    while not stop.wait(TICK_S):
        why, wrong = "", ""
        try:
            with meters.step():
                deciding.tick()
        except LooksFailedError as error:  # they are in the log of this process
            wrong = str(error)
        except UnavailableError as error:
            why, wrong = str(error), complained
            if why != logged:
                logger.warning("%s; trying again", error)
        except Exception as error:  # whatever somebody put there: a dead decider would help nobody
            why = wrong = f"{type(error).__name__}: {error}"
            if why != logged:
                logger.exception("a tick failed; trying again")
        logged = why
        if wrong != complained:
            complain(wrong)
            complained = wrong


def rebuild(settings: Settings, progress: Progress) -> str:
    """Cache the state of every experiment as the log says it; a sentence on what was cached. Raises
    UnavailableError."""
    states, cache = bootstrap.decision_log(settings).catch_up(), bootstrap.state_cache(settings)
    for done, state in enumerate(states.values(), start=1):
        cache.put(state)
        progress(done, len(states), "experiments cached")
    told = ", ".join(f"{state.name} at revision {state.revision}" for state in states.values())
    return told or "no experiment was ever started"
