"""The instants between two writes at which a process is killed on purpose; from outside nobody hits them.

Each is a call of the product after or before which the process ends by SIGKILL, sent to itself, once the
supervisor has armed it.
"""

import functools
import importlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

DISARMED = -1
HANGS = 100  # armed with this much more than its place, an instant stops the process instead of killing it


@dataclass(frozen=True, slots=True)
class Instant:
    """`what` is told in the table; `call`: "module:Class.method" or "module:function"; `given`: only calls
    with this among their arguments."""

    what: str
    call: str
    after: bool
    given: str = ""


INSTANTS: dict[str, tuple[Instant, ...]] = {
    "bandit": (
        Instant(
            "batch made, not applied", "services.adapters.redis.sum_store:RedisSumStore.apply", after=False
        ),
        Instant(
            "batch applied, not known", "services.adapters.redis.sum_store:RedisSumStore.apply", after=True
        ),
        Instant("read, not fed", "services.bandit.attribution.worker:Worker._feed", after=False),
    ),
    "decider": (
        Instant(
            "in the log, not cached",
            "services.adapters.kafka.decision_log:KafkaDecisionLog._send",
            after=True,
        ),
        Instant(
            "decided, not in the log",
            "services.adapters.kafka.decision_log:KafkaDecisionLog._send",
            after=False,
        ),
        Instant("cached", "services.adapters.redis.state_cache:RedisStateCache.put", after=True),
    ),
    "activity": (
        Instant(
            "row pushed, not published",
            "services.adapters.feast.activity_store:FeastActivityStore.push",
            after=True,
        ),
        Instant(
            "published, position not saved",
            "services.adapters.feast.activity_store:FeastActivityStore.save_positions",
            after=False,
        ),
    ),
    "lake": (
        Instant("rows in hand, not held", "services.adapters.files.lake_files:LakeFiles.hold", after=False),
        Instant("draft written, not renamed", "pyarrow.parquet:write_table", after=True),
        Instant("file in place", "services.adapters.files.lake_files:LakeFiles.write", after=True),
        Instant(
            "history extended, no file",
            "services.adapters.feast.feature_store:FeastFeatureStore.extend",
            after=True,
        ),
    ),
    "trainer": (
        Instant("model saved, not entered", "services.training.worker:enter", after=False),
        Instant("entered, not registered", "services.training.worker:enter", after=True),
    ),
    "recommend": (
        Instant(
            "exposure queued, not answered",
            "services.recommend.answer:SlateService._log_exposure",
            after=True,
        ),
        Instant(
            "events in the log, not answered",
            "services.recommend.metrics:Metrics.events",
            after=True,
            given="acknowledged",
        ),
    ),
}


# Where a process that hangs past its session has the most to say when it wakes: something it made before.
HANGING = {
    "bandit": "batch made, not applied",
    "decider": "decided, not in the log",
    "activity": "published, position not saved",
    "lake": "rows in hand, not held",
}


def hanging(kind: str) -> int:
    """What to arm a process with so that it hangs there."""
    return HANGS + [point.what for point in INSTANTS[kind]].index(HANGING[kind])


def install(points: Sequence[Instant], armed: Any) -> None:
    """Wrap the calls. `armed.value`: place in `points` of the one that kills (plus HANGS: that hangs), or
    DISARMED."""
    for place, point in enumerate(points):
        owner, name = _found(point.call)
        setattr(owner, name, _wrapped(getattr(owner, name), point, place, armed))


def _found(call: str) -> tuple[Any, str]:
    module, _, path = call.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    return functools.reduce(getattr, parents, owner), name


def _wrapped(original: Callable[..., Any], point: Instant, place: int, armed: Any) -> Callable[..., Any]:
    def meet(arguments: tuple[Any, ...]) -> None:
        if armed.value % HANGS != place or (point.given and point.given not in arguments):
            return
        fatal, armed.value = armed.value < HANGS, DISARMED
        os.kill(os.getpid(), signal.SIGKILL if fatal else signal.SIGSTOP)

    @functools.wraps(original)
    def call(*arguments: Any, **named: Any) -> Any:
        if not point.after:
            meet(arguments)
        result = original(*arguments, **named)
        if point.after:
            meet(arguments)
        return result

    return call
