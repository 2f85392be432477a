"""`ringside decider`: one tick a second, through any error, because without a decider no weight changes."""

from functools import partial
from importlib.metadata import version

from models.recommender import ProgressCallback
from services import bootstrap
from services.bandit.decider.decider import Decider, Deps, Identity
from services.runtime.clock import wall_ms
from services.runtime.liveness import set_unhealthy_reason
from services.runtime.process import replica_name, stop_on_signal
from services.runtime.worker_loop import WorkerLoop
from services.settings import Settings

TICK_S = 1.0


def run(settings: Settings) -> None:
    """Decide until SIGTERM."""
    bootstrap.configure_logging(settings, "decider")
    stop = stop_on_signal(settings, "decider")
    with bootstrap.metered(settings, "decider") as meters:
        WorkerLoop(
            "deciding",
            decider(settings, meters).tick,
            every_s=TICK_S,
            retry_s=TICK_S,
            retried=(Exception,),
            metered=meters.step,
            complain=partial(set_unhealthy_reason, settings, "decider"),
        ).run(stop)


def decider(settings: Settings, meters: "bootstrap.Meters") -> Decider:
    """A decider on real adapters."""
    deps = Deps(
        decisions=meters.decisions(bootstrap.decision_log(settings)),
        store=meters.sums(bootstrap.sum_store(settings)),
        cache=bootstrap.state_cache(settings),
    )
    identity = Identity(holder=replica_name(settings), code_version=version("ringside"))
    return Decider(deps, identity, settings.kafka_partitions, clock=wall_ms)


def rebuild(settings: Settings, progress: ProgressCallback) -> str:
    """Cache the state of every experiment from the decision log; a sentence on what was cached. Raises
    UnavailableError."""
    states, cache = bootstrap.decision_log(settings).catch_up(), bootstrap.state_cache(settings)
    for done, state in enumerate(states.values(), start=1):
        cache.put(state)
        progress(done, len(states), "experiments cached")
    cached = ", ".join(f"{state.name} at revision {state.revision}" for state in states.values())
    return cached or "no experiment was ever started"
