"""Detection of data loss: the broker holds another log, or uncounted records were deleted. Pure functions."""

from collections.abc import Mapping
from dataclasses import replace

from services.messages.events import EVENTS, EXPOSURES
from services.ports.state import Positions, Sums

Bounds = Mapping[str, tuple[int, int]]  # topic -> (first offset kept, offset after the last)


def find_loss(partition: int, at: Positions, log_id: str, bounds: Bounds) -> str | None:
    """Describe the records that are gone if counting continues at `at`; None if there are none."""
    if at.log_id != log_id:
        return (
            f"counted up to {EXPOSURES}/{partition}@{at.exposures} and {EVENTS}/{partition}@{at.events} "
            f"of log {at.log_id}, but the broker holds log {log_id}: later records of the old log are gone"
        )
    needed = ((EXPOSURES, min(at.exposures, at.rebuild), at.exposures), (EVENTS, at.events, at.events))
    losses = [_describe_gap(topic, partition, low, high, bounds[topic]) for topic, low, high in needed]
    return "; ".join(text for text in losses if text) or None


def _describe_gap(topic: str, partition: int, low: int, high: int, bounds: tuple[int, int]) -> str | None:
    start, end = bounds
    if low < start:
        return f"offsets {low} to {start - 1} of {topic}/{partition} are gone, the log begins at {start}"
    if high > end:
        return f"{topic}/{partition} was counted up to offset {high}, but the log ends at {end}"
    return None


def describe_missing_start(
    partition: int, bounds: Bounds, first_ms: Mapping[str, int | None], since_ms: int | None
) -> str:
    """Describe which topics no longer hold the records needed to count a partition from the start; empty if
    they all do.

    first_ms: append time of the first record of each topic, None if it is empty. since_ms: start of the
    oldest experiment that has not ended, None without one; records appended before it count for no
    experiment.
    """
    if since_ms is None:
        return ""
    cut = [
        topic
        for topic, (start, _) in sorted(bounds.items())
        if start and ((first := first_ms[topic]) is None or first > since_ms)
    ]
    return " and ".join(f"{topic}/{partition} begins at offset {bounds[topic][0]}" for topic in cut)


def start_of_log(log_id: str, bounds: Bounds) -> Positions:
    """Return positions from which the whole log is counted."""
    exposures, events = bounds[EXPOSURES][0], bounds[EVENTS][0]
    return Positions(log_id, exposures=exposures, events=events, rebuild=exposures)


def end_of_log(log_id: str, bounds: Bounds) -> Positions:
    """Return positions that skip everything in the log."""
    exposures, events = bounds[EXPOSURES][1], bounds[EVENTS][1]
    return Positions(log_id, exposures=exposures, events=events, rebuild=exposures)


def after_loss(at: Positions, log_id: str, bounds: Bounds) -> Positions:
    """Return the positions from which counting continues once a loss is accepted.

    A new log that is complete is counted from its start. Otherwise the log is skipped: exposures whose clicks
    are gone would count as failures, so everything in it is given up, which treats all arms alike.
    """
    complete = at.log_id != log_id and all(start == 0 for start, _ in bounds.values())
    return start_of_log(log_id, bounds) if complete else end_of_log(log_id, bounds)


def rewinds(stored: Positions | None, to: Positions) -> bool:
    """Return whether counting at `to` would read records again that are in the stored sums."""
    if stored is None or stored.log_id != to.log_id:
        return False
    return to.exposures < stored.exposures or to.events < stored.events


def changes_position(stored: Positions | None, to: Positions) -> bool:
    """Return whether `to` is another place in the log than that of the stored sums."""
    return stored is not None and replace(to, counts=stored.counts) != stored


def missing_credits(sums: Mapping[str, Sums]) -> dict[str, Sums]:
    """Return deltas that restore the identity s = c (successes = credits) by experiment.

    They are needed where events of counted units are gone and can no longer credit these units.
    """
    deltas = {
        name: {
            f"{key[:-1]}c": successes - of.get(f"{key[:-1]}c", 0)
            for key, successes in of.items()
            if key.endswith("|s") and successes != of.get(f"{key[:-1]}c", 0)
        }
        for name, of in sums.items()
    }
    return {name: of for name, of in deltas.items() if of}
