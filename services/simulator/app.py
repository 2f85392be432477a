"""`ringside simulate`: simulated shoppers at a storefront's public HTTP API, and a JSON summary of what they
saw."""

import asyncio
import json
import logging
import re
import threading
import time
from dataclasses import dataclass
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
from services.simulator.arrivals import poisson_arrivals
from services.simulator.lean_http import LeanHttp
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


def run(settings: Settings, options: Options) -> None:
    """Simulate until the time is over or a signal comes."""
    bootstrap.configure_logging(settings, "simulator")
    shoppers = load_shoppers(settings, options.seed)
    rate, count = options.sessions_per_s, shoppers.world.n_shoppers
    log.info("simulating %d shoppers with %g sessions/s at %s", count, rate, settings.replica_urls)
    uvloop.run(simulate(settings, shoppers, options, stop_on_signal()))


def load_shoppers(settings: Settings, seed: int) -> Shoppers:
    """The shoppers of the current data version: of the synthetic shop, or of its held-out weeks. Raises
    ConfigurationError for data without either."""
    store = bootstrap.data_store(settings)
    dataset = store.load()
    if match := _SYNTHETIC.fullmatch(dataset.source):
        shoppers = synthetic_shoppers(synthetic_shop(seed=int(match[1])))
    else:
        try:
            held_out = store.load_holdout()
        except ConfigurationError as error:
            raise ConfigurationError(
                f"simulated shoppers click what users bought in held-out weeks, but {error}"
            ) from error
        shoppers = holdout_shoppers(dataset.catalogue, held_out, seed=seed)
    return with_history(shoppers, dataset.catalogue, dataset.interactions)


async def simulate(settings: Settings, shoppers: Shoppers, options: Options, stop: threading.Event) -> None:
    """Open sessions at the given rate, at each replica in turn, until `stop` is set or the time is over."""
    clients = [AsyncClient(url, settings.storefront_key, LeanHttp(url)) for url in settings.replica_urls]
    measurements, rng = Measurements(), np.random.default_rng([options.seed, 3])
    run_id = f"{int(time.time()):x}"  # so that session ids differ from those of earlier runs in the same log
    began = time.monotonic()

    async def session(number: int) -> None:
        visitor = Visitor(int(shoppers.world.visitors(rng, 1)[0]), f"{run_id}-{number}", time.time())
        client = clients[number % len(clients)]
        await Session(shoppers, client, measurements, Habits(), visitor).run()

    def over() -> bool:
        return stop.is_set() or (options.for_s is not None and time.monotonic() - began >= options.for_s)

    def write_summary() -> None:
        """Replace the file atomically, so that a reader never sees half of it."""
        if options.summary is not None:
            elapsed_s = round(time.monotonic() - began, 1)
            head = {"elapsed_s": elapsed_s, "sessions_per_s": options.sessions_per_s}
            write_atomically(options.summary, json.dumps({**head, **measurements.summary()}, indent=1))

    async def keep_writing() -> None:
        while True:
            write_summary()
            await asyncio.sleep(1.0)

    writer = asyncio.create_task(keep_writing())
    try:
        await poisson_arrivals(
            session,
            over,
            rng,
            rate_per_s=options.sessions_per_s,
            max_open=max(16, round(_MOST_OPEN_S * options.sessions_per_s)),
            on_skip=measurements.session_skipped,
        )
    finally:
        writer.cancel()
        for client in clients:
            await client.close()
        write_summary()
