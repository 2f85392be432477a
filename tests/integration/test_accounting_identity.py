"""A join that drops, doubles or misplaces records breaks the accounting identity, and the experiment is held.

Each mutation is a bug that the join might have. Worker, decider and log of decisions are the real ones, with
stores in memory.
"""

from collections.abc import Callable
from itertools import count

import msgspec
import pytest
from support.counted_installation import CountedInstallation

from experiments.counting import attribution_join

HOUR_MS = 3_600_000
SOON_MS = 400_000  # a look is due, all units are mature, the hour is not over


def taking(method: str, change: Callable) -> Callable[[pytest.MonkeyPatch], None]:
    """Patch a method of the join: it is called with each of the argument lists that `change` returns."""
    real = getattr(attribution_join.Join, method)

    def broken(join: attribution_join.Join, *args: object) -> None:
        for changed in change(*args):
            real(join, *changed)

    return lambda patch: patch.setattr(attribution_join.Join, method, broken)


def every_seventh(other: Callable) -> Callable:
    numbers = count(1)

    def change(offset: int, append_ms: int, message: object) -> list[tuple]:
        record = (offset, append_ms, message)
        return [record] if next(numbers) % 7 else other(*record)

    return change


def dropped(*record: object) -> list[tuple]:
    return []


def doubled(*record: object) -> list[tuple]:
    return [record, record]


def of_another_arm(offset: int, append_ms: int, event: object) -> list[tuple]:
    """Attribute the event to the other arm, in whose cell its unit does not exist."""
    to = event.attribution
    other = None if to is None else _with(to, weights_version=3 - to.weights_version)
    return [(offset, append_ms, _with(event, attribution=other))]


def _with(message: object, **changes: object) -> object:
    return msgspec.structs.replace(message, **changes)


def always_succeeds(patch: pytest.MonkeyPatch) -> None:
    real = attribution_join._Sums.unit
    patch.setattr(attribution_join._Sums, "unit", lambda sums, unit, succeeded: real(sums, unit, True))


def matures_at_once(patch: pytest.MonkeyPatch) -> None:
    """Count units before their clicks arrive."""
    real = attribution_join.Join._pop_exposures

    def early(join: attribution_join.Join, sums: object) -> int:
        for unit in join._exposures:
            if isinstance(unit, attribution_join._Unit):
                unit.mature_ms = 0
        return real(join, sums)

    patch.setattr(attribution_join.Join, "_pop_exposures", early)


def passes_over_events(patch: pytest.MonkeyPatch) -> None:
    """Move the position of events without accounting for the ones it passes."""
    real = attribution_join.Join._pass_events

    def hasty(join: attribution_join.Join, sums: object) -> int:
        if len(join._events) > 3:
            join._events.popleft()
        return real(join, sums)

    patch.setattr(attribution_join.Join, "_pass_events", hasty)


BUGS = {
    "an event is dropped": (taking("_take_event", every_seventh(dropped)), SOON_MS),
    "an event is doubled": (taking("_take_event", every_seventh(doubled)), SOON_MS),
    "an exposure is dropped": (taking("_take_exposure", every_seventh(dropped)), SOON_MS),
    "an exposure is doubled": (taking("_take_exposure", every_seventh(doubled)), SOON_MS),
    "an event is joined in another cell": (taking("_take_event", every_seventh(of_another_arm)), SOON_MS),
    "a unit is counted before its clicks": (matures_at_once, SOON_MS),
    "a position passes over events": (passes_over_events, SOON_MS),
    "a unit succeeds without a click": (always_succeeds, HOUR_MS),
}


def test_a_join_without_a_bug_is_not_held() -> None:
    shop = CountedInstallation()
    shop.simulate_traffic()
    assert shop.look(SOON_MS).kind == "allocate"
    assert shop.look(2 * HOUR_MS).kind == "allocate"


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_of_the_join_holds_the_experiment(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks, after_ms = BUGS[bug]
    breaks(monkeypatch)
    shop = CountedInstallation()
    shop.simulate_traffic()
    held = shop.look(after_ms)
    assert (held.kind, held.rule) == ("hold", "broken-identity")
    assert shop.state.status == "held"
    assert all(cause in held.reason for cause in held.detail.causes)
