"""When counting can't go on: the log is another one, or records that were not counted yet are gone."""

from collections.abc import Mapping
from dataclasses import replace

from services.messages.events import EVENTS, EXPOSURES
from services.ports.state import Positions, Sums

Bounds = Mapping[str, tuple[int, int]]  # topic -> (first offset kept, offset after the last)


def loss_at(partition: int, at: Positions, log_id: str, bounds: Bounds) -> str | None:
    """What is gone if counting should go on from `at`; None: nothing."""
    if at.log_id != log_id:
        return (
            f"counted up to {EXPOSURES}/{partition}@{at.exposures} and {EVENTS}/{partition}@{at.events} "
            f"of log {at.log_id}, but the broker holds log {log_id}: whatever followed there is gone"
        )
    wanted = ((EXPOSURES, min(at.exposures, at.rebuild), at.exposures), (EVENTS, at.events, at.events))
    gone = [_outside(topic, partition, low, high, bounds[topic]) for topic, low, high in wanted]
    return "; ".join(text for text in gone if text) or None


def forgotten(
    partition: int, bounds: Bounds, first_ms: Mapping[str, int | None], since_ms: int | None
) -> str:
    """What can't be counted again if Redis forgot the sums of a partition; empty: nothing.

    first_ms: append time of the first record that the log of a topic holds, None if it holds none; since_ms:
    when the oldest living experiment started, None without one. What was appended before counts for nobody.
    """
    gone = [topic for topic, (start, _) in bounds.items() if start and since_ms is not None]
    gone = [topic for topic in gone if (first := first_ms[topic]) is None or first > since_ms]
    parts = [f"{topic}/{partition} begins at offset {bounds[topic][0]}" for topic in sorted(gone)]
    return " and ".join(parts)


def at_start(log_id: str, bounds: Bounds) -> Positions:
    """Where counting begins when all that counts is in the log."""
    exposures, events = bounds[EXPOSURES][0], bounds[EVENTS][0]
    return Positions(log_id, exposures=exposures, events=events, rebuild=exposures)


def at_end(log_id: str, bounds: Bounds) -> Positions:
    """Where counting begins when what lies in the log is given up as a whole."""
    exposures, events = bounds[EXPOSURES][1], bounds[EVENTS][1]
    return Positions(log_id, exposures=exposures, events=events, rebuild=exposures)


def _outside(topic: str, partition: int, low: int, high: int, bounds: tuple[int, int]) -> str | None:
    start, end = bounds
    if low < start:
        return f"offsets {low} to {start - 1} of {topic}/{partition} are gone, the log begins at {start}"
    if high > end:
        return f"{topic}/{partition} was counted up to offset {high}, but the log ends at {end}"
    return None


def after_loss(at: Positions, log_id: str, bounds: Bounds) -> Positions:
    """Where counting begins anew once the loss is accepted.

    A new log that is complete is counted from its start. Otherwise from the end: exposures whose clicks are
    gone would count as failures, so what lies in the log is given up as a whole, the same for every arm.
    """
    complete = at.log_id != log_id and all(start == 0 for start, _ in bounds.values())
    return at_start(log_id, bounds) if complete else at_end(log_id, bounds)


def goes_back(stored: Positions | None, again: Positions) -> bool:
    """Whether records that are in the sums would be read again."""
    if stored is None or stored.log_id != again.log_id:
        return False
    return again.exposures < stored.exposures or again.events < stored.events


def leaps(stored: Positions | None, again: Positions) -> bool:
    """Whether counting goes on elsewhere than where the sums stand."""
    return stored is not None and replace(again, counts=stored.counts) != stored


def written_off(sums: Mapping[str, Sums]) -> dict[str, Sums]:
    """What closes the identity s = c where events of counted units are gone: they can't credit them any
    more."""
    open_by = {
        name: {
            f"{key[:-1]}c": count - of.get(f"{key[:-1]}c", 0)
            for key, count in of.items()
            if key.endswith("|s") and count != of.get(f"{key[:-1]}c", 0)
        }
        for name, of in sums.items()
    }
    return {name: deltas for name, deltas in open_by.items() if deltas}
