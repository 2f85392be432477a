"""Seeded traffic with retries, late records, records of unknown experiments, and garbage."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from experiments.lifecycle.state import Rules
from services.messages import events
from support.breakable import BreakableBroker

START_MS = 1_700_000_000_000
RULES = Rules(window_s=4.0, lateness_s=1.0)
WINDOW_MS, LATENESS_MS = 4_000, 1_000
EXPERIMENT = "storefront"


class Clock:
    """A clock that the test moves, ms."""

    def __init__(self, now_ms: int = START_MS):
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


@dataclass(frozen=True)
class TimedRecord:
    """A record to be appended at `at_ms`."""

    at_ms: int
    topic: str
    key: str
    value: bytes


def traffic(seed: int, units: int, per_s: float = 40.0) -> list[TimedRecord]:
    """Records of `units` units in order of their append time."""
    rng = random.Random(seed)
    sent: list[TimedRecord] = []
    at_ms = float(START_MS)
    for number in range(units):
        at_ms += rng.expovariate(per_s) * 1_000
        sent += _visit(rng, number, int(at_ms))
    return sorted(sent, key=lambda record: record.at_ms)


def play(broker: BreakableBroker, clock: Clock, sent: list[TimedRecord], step_ms: int) -> Iterator[None]:
    """Append the records that are due; yields after each step of the clock."""
    waiting = list(sent)
    while waiting:
        due, waiting = _split(waiting, clock.now_ms + step_ms)
        for record in due:
            clock.now_ms = max(clock.now_ms, record.at_ms)
            broker.append(record.topic, record.key.encode(), record.value)
        clock.now_ms += 1
        yield


def exposure(number: int, at_ms: int, arm: str = "als", **changes: object) -> events.Exposure:
    """First exposure of unit `number`."""
    values = {
        "received_at": at_ms, "recommendation_id": f"rec-{number}", "experiment": EXPERIMENT,
        "routing_key": f"user-{number}", "unit": f"s:user-{number}:1", "unit_at": at_ms, "first": True,
        "arm": arm, "answered_by": arm, "model_version": f"{arm}-1", "weights_version": 1, "propensity": 0.5,
        "placement": "home", "items": ["a", "b"],
    }  # fmt: skip
    return events.Exposure(**(values | changes))


def click(shown: events.Exposure, at_ms: int, event_id: str, **changes: object) -> events.Event:
    """A click on the slate of `shown`."""
    attribution = events.Attribution(
        recommendation_id=shown.recommendation_id, experiment=shown.experiment, routing_key=shown.routing_key,
        unit=shown.unit, unit_at=shown.unit_at, exposed_at=shown.received_at, arm=shown.arm,
        weights_version=shown.weights_version, propensity=shown.propensity, position=0,
    )  # fmt: skip
    values = {
        "received_at": at_ms,
        "event_id": event_id,
        "type": "click",
        "item_id": "a",
        "attribution": attribution,
    }
    return events.Event(**(values | changes))


def _visit(rng: random.Random, number: int, at_ms: int) -> list[TimedRecord]:
    shown = _shown(rng, number, at_ms)
    delay = rng.choice([2, 5, 30, 30, 400, LATENESS_MS + 300 if rng.random() < 0.1 else 3])
    records = [_sent(at_ms + delay, shown)]
    if rng.random() < 0.1:
        records.append(_sent(at_ms + delay + rng.randrange(1, 500), shown))  # a retried produce
    if rng.random() < 0.03:
        topic = rng.choice([events.EXPOSURES, events.EVENTS])
        records.append(
            TimedRecord(at_ms, topic, shown.routing_key, rng.choice([b"\xff\xfe", b"{}", b'{"v":9}']))
        )
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 3])):
        records += _clicks(rng, shown)
    return records


def _shown(rng: random.Random, number: int, at_ms: int) -> events.Exposure:
    arm = rng.choice(["als", "popularity"])
    changes: dict[str, object] = {"weights_version": rng.choice([1, 2])}
    kind = rng.random()
    if kind < 0.05:
        changes["answered_by"] = "popularity"
    elif kind < 0.10:
        changes |= {"first": False, "unit_at": at_ms - 700}
    elif kind < 0.13:
        changes |= {"excluded": "bot", "propensity": 0.0}
    elif kind < 0.16:
        changes["experiment"] = "never-started"
    return exposure(number, at_ms, arm, **changes)


def _clicks(rng: random.Random, shown: events.Exposure) -> list[TimedRecord]:
    age = rng.choice([-50, 0, 10, 900, 2_500, WINDOW_MS - 1, WINDOW_MS, WINDOW_MS + 1, WINDOW_MS + 3_000])
    kind = "click" if rng.random() < 0.8 else "view"
    event = click(shown, shown.unit_at + age, f"e{rng.randrange(10**9)}", type=kind)
    if rng.random() < 0.1:
        event = click(shown, shown.unit_at + age, event.event_id, attribution=None, user_id="stranger")
    delays = [rng.choice([1, 4, 40, 700, LATENESS_MS + 200]) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return [_sent(max(event.received_at, START_MS) + delay, event) for delay in delays]


def _sent(at_ms: int, message: events.Exposure | events.Event) -> TimedRecord:
    is_exposure = isinstance(message, events.Exposure)
    topic = events.EXPOSURES if is_exposure else events.EVENTS
    return TimedRecord(
        at_ms, topic, message.routing_key if is_exposure else message.key, events.encode(message)
    )


def _split(waiting: list[TimedRecord], until_ms: int) -> tuple[list[TimedRecord], list[TimedRecord]]:
    cut = next((i for i, record in enumerate(waiting) if record.at_ms > until_ms), len(waiting))
    return waiting[:cut], waiting[cut:]
