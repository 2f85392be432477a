"""Replaying dead letters: append their bytes to the topic they came from, with the same key.

Replaying a record twice changes no sum, because every reader is idempotent. It recognises an event by its
`event_id` (a second copy is a duplicate), an exposure by its unit, a decision by its revision (a second one
is void), an activity row by its events. The exception is a change of the catalogue: it is applied as the
newest one, so first check what has changed since. A record counts by its append time: one replayed after its
attribution window is `late` or a `late_exposure`.
"""

from collections.abc import Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError

from services.dead_letters.reader import REPLAYED, DeadLetter
from services.errors import UnavailableError
from services.messages.events import DEAD_LETTERS
from services.ports.event_log import EventProducer, Record
from services.runtime.dead_letters import DEAD_LETTERED_BY, REPLAY_OF

ACKNOWLEDGE_S = 30.0

Planned = tuple[DeadLetter, str]  # why it is not replayed; empty if it is


def plan(letters: Iterable[DeadLetter]) -> list[Planned]:
    """Decide for each dead letter whether to replay it: each source record once, and only if it is whole."""
    taken: set[str] = set()
    planned: list[Planned] = []
    for letter in letters:
        reason = _obstacle(letter) or ("a copy of a dead letter above" if letter.source in taken else "")
        if letter.source is not None and not reason:
            taken.add(letter.source)
        planned.append((letter, reason))
    return planned


def replay(producer: EventProducer, letter: DeadLetter, author: str) -> Record:
    """Append the bytes of `letter` to their topic, then record the replay on `dead-letters`.

    Returns the position of the new record. Raises ValueError for a dead letter without a source, and
    UnavailableError, after which the record may or may not have been appended; replaying it again is safe.
    """
    if letter.source is None:
        raise ValueError(f"dead letter {letter.offset} has no source record")
    link = [(REPLAY_OF, str(letter.offset).encode())]
    where = _append(producer, letter.topic, letter, letter.value, link)
    done = [(REPLAYED, str(letter.offset).encode()), ("by", author.encode())]
    _append(producer, DEAD_LETTERS, letter, b"", done)
    return where


def _obstacle(letter: DeadLetter) -> str:
    if letter.source is None:
        return "its source record is unknown"
    if letter.topic not in DEAD_LETTERED_BY:
        return f"{letter.topic} is not a topic for replays"
    if letter.cut:
        return f"only {len(letter.value)} of its {letter.cut} bytes were kept"
    if letter.replayed_ms:
        return "already replayed"
    return ""


def _append(
    producer: EventProducer, topic: str, letter: DeadLetter, value: bytes, headers: list[tuple[str, bytes]]
) -> Record:
    try:
        return producer.send(topic, letter.key, value, headers).result(ACKNOWLEDGE_S)
    except FutureTimeoutError as error:
        raise UnavailableError("broker", f"{topic}: no acknowledgement in {ACKNOWLEDGE_S:g} s") from error
