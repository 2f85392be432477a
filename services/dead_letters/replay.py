"""Letters put back on the topic they came from, with their bytes and their key.

Putting one back twice changes no sum, whoever does it and whatever failed in between, because every reader is
idempotent: an event is known by its `event_id` (a second copy is a duplicate), an exposure by its unit, a
decision by its revision (a second one is void), an activity row by its events. A change of the catalogue says
the same twice, but is laid as the newest: mind what has changed since. A record counts by when it was
appended: what is put back after its attribution window is `late` or a `late_exposure`, and moves no sum.
"""

from collections.abc import Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError

from services.dead_letters.reader import REPLAYED, Letter, Origin
from services.errors import UnavailableError
from services.messages.events import DEAD_LETTERS
from services.ports.event_log import EventProducer, Record
from services.runtime.dead_letters import DEAD_LETTERED_BY, REPLAY_OF

ACKNOWLEDGE_S = 30.0

Planned = tuple[Letter, str]  # why it is not put back; empty: it is


def plan(letters: Iterable[Letter]) -> list[Planned]:
    """What would become of each letter: each record goes back once, however many letters it has."""
    taken: set[Origin] = set()
    planned: list[Planned] = []
    for letter in letters:
        why = _refusal(letter) or ("a copy of one above" if letter.origin in taken else "")
        if letter.origin is not None and not why:
            taken.add(letter.origin)
        planned.append((letter, why))
    return planned


def put_back(producer: EventProducer, letter: Letter, author: str) -> Record:
    """Append the buried bytes to their topic, and then to `dead-letters` that this was done; where they lie
    now. Raises UnavailableError: it may have been put back, and may be again."""
    if letter.origin is None:
        raise ValueError(f"letter {letter.offset} names no origin")
    link = [(REPLAY_OF, str(letter.offset).encode())]
    where = _acknowledged(producer, letter.origin.topic, letter, letter.value, link)
    done = [(REPLAYED, str(letter.offset).encode()), ("by", author.encode())]
    _acknowledged(producer, DEAD_LETTERS, letter, b"", done)
    return where


def _refusal(letter: Letter) -> str:
    if letter.origin is None:
        return "it names no origin"
    if letter.origin.topic not in DEAD_LETTERED_BY:
        return f"{letter.origin.topic} is no topic to put it back on"
    if letter.cut:
        return f"only {len(letter.value)} of its {letter.cut} bytes were kept"
    if letter.replayed_ms:
        return "it was put back before"
    return ""


def _acknowledged(
    producer: EventProducer, topic: str, letter: Letter, value: bytes, headers: list[tuple[str, bytes]]
) -> Record:
    try:
        return producer.send(topic, letter.key, value, headers).result(ACKNOWLEDGE_S)
    except FutureTimeoutError as error:
        raise UnavailableError("broker", f"{topic}: no acknowledgement in {ACKNOWLEDGE_S:g} s") from error
