"""`ringside simulate`: simulated shoppers at a storefront's public HTTP API, and a JSON summary of what they
saw."""

import asyncio
import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from experiments.simulation.synthetic_shop import synthetic_shop
from services import bootstrap
from services.client.client import AsyncClient
from services.errors import ConfigurationError
from services.runtime.atomic_write import write_atomically
from services.runtime.process import stop_on_signal
from services.settings import Settings
from services.simulator.arrivals import PoissonArrivals
from services.simulator.lean_transport import LeanTransport
from services.simulator.measurements import Measurements
from services.simulator.session import Habits, Session, Visitor
from services.simulator.shoppers import Shoppers, holdout_shoppers, synthetic_shoppers, with_history

log = logging.getLogger(__name__)
_SYNTHETIC = re.compile(r"synthetic shop, seed (\d+)")
_MOST_OPEN_S = 2.0  # seconds of arrivals that may be open at once


@dataclass(frozen=True, slots=True)
class Options:
    """What to simulate. for_s: how long (None: until stopped); summary: JSON file, replaced every second."""

    sessions_per_s: float = 10.0
    for_s: float | None = None
    summary: Path | None = None
    seed: int = 0
    habits: Habits = field(default_factory=Habits)


def run(settings: Settings, options: Options) -> None:
    """Simulate until the time is over or a signal comes."""
    bootstrap.configure_logging(settings, "simulator")
    shoppers = load_shoppers(settings, options.seed)
    stop, urls = stop_on_signal(), settings.replica_urls
    rate, count = options.sessions_per_s, shoppers.world.n_shoppers
    log.info("simulating %d shoppers with %g sessions/s at %s", count, rate, urls)
    uvloop.run(simulate(shoppers, urls, settings.storefront_key, options, Measurements(), stop))


def load_shoppers(settings: Settings, seed: int = 0) -> Shoppers:
    """The shoppers of the current data version: of the synthetic shop, or of its held-out weeks. Raises
    ConfigurationError for data without either."""
    store = bootstrap.data_store(settings)
    dataset = store.load()
    if match := _SYNTHETIC.fullmatch(dataset.source):
        shoppers = synthetic_shoppers(synthetic_shop(seed=int(match[1])))
        return with_history(shoppers, dataset.catalogue, dataset.interactions)
    try:
        shoppers = holdout_shoppers(dataset.catalogue, store.load_holdout(), seed=seed)
        return with_history(shoppers, dataset.catalogue, dataset.interactions)
    except ConfigurationError as error:
        raise ConfigurationError(f"simulated shoppers need held-out weeks to click by: {error}") from error


async def simulate(
    shoppers: Shoppers,
    urls: Sequence[str],
    key: str,
    options: Options,
    measurements: Measurements,
    stop: threading.Event,
) -> None:
    """Open sessions at the given rate, at each replica in turn, until `stop` is set or the time is over."""
    clients = [AsyncClient(url, key, LeanTransport(url)) for url in urls]
    rng = np.random.default_rng([options.seed, 3])
    run_id = f"{int(time.time()):x}"  # so that session ids differ from those of earlier runs in the same log
    began = time.monotonic()

    async def session(number: int) -> None:
        visitor = Visitor(int(shoppers.world.visitors(rng, 1)[0]), f"{run_id}-{number}", time.time())
        client = clients[number % len(clients)]
        await Session(shoppers, client, measurements, options.habits, visitor).run()

    def over() -> bool:
        return stop.is_set() or (options.for_s is not None and time.monotonic() - began >= options.for_s)

    max_open = max(16, round(_MOST_OPEN_S * options.sessions_per_s))
    arrivals = PoissonArrivals(options.sessions_per_s, max_open, rng, measurements.session_skipped)
    writer = asyncio.create_task(_keep_writing(options, measurements, began))
    try:
        await arrivals.run(session, over)
    finally:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer
        for client in clients:
            await client.close()
        write_summary(options, measurements, time.monotonic() - began)


async def _keep_writing(
    options: Options, measurements: Measurements, began: float, every_s: float = 1.0
) -> None:
    while options.summary is not None:
        write_summary(options, measurements, time.monotonic() - began)
        await asyncio.sleep(every_s)


def write_summary(options: Options, measurements: Measurements, elapsed_s: float) -> None:
    """Replace the summary file atomically, so that a reader never sees half of it."""
    if options.summary is None:
        return
    head = {"elapsed_s": round(elapsed_s, 1), "sessions_per_s": options.sessions_per_s}
    write_atomically(options.summary, json.dumps({**head, **measurements.summary()}, indent=1))
