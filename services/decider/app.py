"""The process: a tick a second, whatever happens to broker and Redis."""

import logging
import threading
import time
from importlib.metadata import version

from services import bootstrap
from services.decider.deciding import Decider, Identity, Ports
from services.errors import UnavailableError
from services.settings import Settings

logger = logging.getLogger(__name__)

TICK_S = 1.0


def run(settings: Settings) -> None:
    """Decide until SIGTERM."""
    bootstrap.configure_logging(settings, "decider")
    stop = bootstrap.stop_on_signal(settings, "decider")
    loop(decider(settings), stop)


def decider(settings: Settings) -> Decider:
    """A decider on real adapters."""
    ports = Ports(
        decisions=bootstrap.decision_log(settings),
        store=bootstrap.tally_store(settings),
        cache=bootstrap.state_cache(settings),
    )
    identity = Identity(holder=bootstrap.replica_name(settings), code_version=version("ringside"))
    return Decider(ports, identity, settings.kafka_partitions, clock=lambda: time.time_ns() // 1_000_000)


def loop(deciding: Decider, stop: threading.Event) -> None:
    """Tick until `stop`; what is unavailable is tried again at the next tick."""
    while not stop.wait(TICK_S):
        try:
            deciding.tick()
        except UnavailableError as error:
            logger.warning("%s; trying again", error)
