"""`ringside simulate`: shoppers of known truth at a storefront's public HTTP, and a JSON summary of what
they saw."""

import asyncio
import contextlib
import json
import logging
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from experiments.simulation.synthetic_shop import synthetic_shop
from services import bootstrap
from services.errors import ConfigurationError
from services.runtime.atomic_write import write_atomically
from services.runtime.process import stop_on_signal
from services.settings import Settings
from services.simulator.arrivals import Traffic
from services.simulator.http_client import HttpClient
from services.simulator.measurements import Measures
from services.simulator.session import Habits, Session, Visit
from services.simulator.shoppers import Shoppers, acquainted, holdout_crowd, synthetic_crowd

log = logging.getLogger(__name__)
_SYNTHETIC = re.compile(r"synthetic shop, seed (\d+)")
_MOST_OPEN_S = 2.0  # seconds of traffic that may be open at once


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
    shoppers = known_crowd(settings, options.seed)
    stop = stop_on_signal()
    measures = Measures()
    log.info(
        "%d shoppers, %g sessions/s at %s",
        shoppers.world.n_shoppers,
        options.sessions_per_s,
        targets(settings),
    )
    uvloop.run(simulate(shoppers, targets(settings), settings.storefront_key, options, measures, stop))


def targets(settings: Settings) -> list[str]:
    """Origins of the recommend service's replicas."""
    listed = [origin.strip() for origin in settings.recommend_url.split(",") if origin.strip()]
    return listed or [f"http://{settings.host}:{settings.recommend_port}"]


def known_crowd(settings: Settings, seed: int = 0) -> Shoppers:
    """The people of the current data version: of the synthetic shop, or of its held-out weeks."""
    store = bootstrap.data_store(settings)
    dataset = store.load()
    if made := _SYNTHETIC.fullmatch(dataset.source):
        shoppers = synthetic_crowd(synthetic_shop(seed=int(made[1])))
        return acquainted(shoppers, dataset.catalogue, dataset.interactions)
    try:
        shoppers = holdout_crowd(dataset.catalogue, store.load_holdout(), seed=seed)
        return acquainted(shoppers, dataset.catalogue, dataset.interactions)
    except ConfigurationError as error:
        raise ConfigurationError(f"simulated shoppers need a truth to click by, and {error}") from error


async def simulate(
    shoppers: Shoppers,
    origins: list[str],
    key: str,
    options: Options,
    measures: Measures,
    stop: threading.Event,
) -> None:
    """Open sessions at the rate wanted, over all replicas in turn, until `stop` is set or the time is
    over."""
    clients = [HttpClient(origin, {"authorization": f"Bearer {key}"}) for origin in origins]
    rng = np.random.default_rng([options.seed, 3])
    run_id = f"{int(time.time()):x}"  # other sessions than those of an earlier run on the same log
    began = time.monotonic()

    async def session(number: int) -> None:
        visit = Visit(int(shoppers.world.visitors(rng, 1)[0]), f"{run_id}-{number}", time.time())
        await Session(shoppers, clients[number % len(clients)], measures, options.habits, visit).run()

    def over() -> bool:
        return stop.is_set() or (options.for_s is not None and time.monotonic() - began >= options.for_s)

    most_open = max(16, round(_MOST_OPEN_S * options.sessions_per_s))
    traffic = Traffic(options.sessions_per_s, most_open, rng, measures.skip)
    writer = asyncio.create_task(_keep_writing(options, measures, began))
    try:
        await traffic.run(session, over)
    finally:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writer
        for client in clients:
            await client.close()
        write_summary(options, measures, time.monotonic() - began)


async def _keep_writing(options: Options, measures: Measures, began: float, every_s: float = 1.0) -> None:
    while options.summary is not None:
        write_summary(options, measures, time.monotonic() - began)
        await asyncio.sleep(every_s)


def write_summary(options: Options, measures: Measures, elapsed_s: float) -> None:
    """Replace the summary file, so that a reader sees a whole one."""
    if options.summary is None:
        return
    found = {"elapsed_s": round(elapsed_s, 1), "sessions_per_s": options.sessions_per_s, **measures.summary()}
    write_atomically(options.summary, json.dumps(found, indent=1))
