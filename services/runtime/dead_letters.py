"""How every worker buries what it can't read: one way, on the topic `dead-letters`.

A letter holds the record's bytes and key. Its headers: `reason` (a sentence), `code` (one of
BadMessageError's, for counters), `origin` (topic/partition/offset), `reader`; where it applies `cut` (size of
a record that was too large to keep whole) and `replay-of` (the letter from which the record was put back).

Each topic has one burier, so that a record has one letter, at least once: the bandit worker buries exposures
and events, which it judges; the lake worker the rest. Other readers pass a bad record over and count it.
"""

import logging
from collections import Counter, OrderedDict
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, replace

from services.errors import BadMessageError, UnavailableError
from services.messages.events import ACTIVITY, DEAD_LETTERS, DECISIONS, EVENTS, EXPOSURES, ITEMS
from services.ports.event_log import EventProducer, Record

logger = logging.getLogger(__name__)

DEAD_LETTERED_BY = {EXPOSURES: "bandit", EVENTS: "bandit", DECISIONS: "lake", ITEMS: "lake", ACTIVITY: "lake"}
CODES = ("not-json", "schema", "version", "too-large", "not-storable")  # of BadMessageError
ACKNOWLEDGE_S = 5.0  # for all letters together: a worker that waits longer leaves no sign of life
KEPT_BYTES = 64_000  # of a record that is too large to be kept whole
REMEMBERED = 10_000  # origins whose letters are safe: a worker that reads again does not bury again
REPLAY_OF = "replay-of"


@dataclass(frozen=True, slots=True)
class _Burial:
    record: Record
    reason: str
    code: str
    answer: "Future[Record]"
    cut: int = 0  # size of the whole record, 0: it is whole


class DeadLetters:
    """Letters of one reader. `buried` counts them by (topic, code) since the process started."""

    def __init__(self, producer: EventProducer, reader: str):
        self._producer = producer
        self._reader = reader
        self._open: dict[str, _Burial] = {}  # by origin
        self._safe: OrderedDict[str, None] = OrderedDict()
        self.dead_lettered: Counter[tuple[str, str]] = Counter()

    def dead_letter(self, record: Record, error: BadMessageError) -> None:
        """Send a letter and go on; a record whose letter is safe or on its way is not buried again."""
        origin = origin_of(record)
        if origin in self._open or origin in self._safe:
            return
        self.dead_lettered[record.topic, error.code] += 1
        logger.warning("%s is passed over: %s", origin, error)
        self._open[origin] = self._send(record, str(error), error.code)

    def acknowledged(self) -> None:
        """Wait until every letter is safe: only then may positions pass the records they came from.

        Raises UnavailableError; what failed was sent again, so call this again later. What is still under way
        was not: the producer may try for longer than anybody waits here.
        """
        wait([burial.answer for burial in self._open.values()], ACKNOWLEDGE_S)
        for origin, burial in list(self._open.items()):
            if burial.answer.done():
                self._settle(origin, burial)
        if self._open:
            raise UnavailableError("dead-letters", f"{len(self._open)} records are not acknowledged yet")

    def _settle(self, origin: str, burial: _Burial) -> None:
        again = self._again(burial)
        if again is not None:
            self._open[origin] = again
            return
        del self._open[origin]
        self._safe[origin] = None
        if len(self._safe) > REMEMBERED:
            self._safe.popitem(last=False)

    def _again(self, burial: _Burial) -> _Burial | None:
        """None if it is safe, else what was sent instead. Only for letters that are answered."""
        record, reason, code, size = burial.record, burial.reason, burial.code, burial.cut
        try:
            burial.answer.result()
        except BadMessageError:  # too large with its headers
            kept = replace(record, value=record.value[:KEPT_BYTES])
            return self._send(kept, reason, code, size or len(record.value))
        except (UnavailableError, CancelledError):
            return self._send(record, reason, code, size)
        return None

    def _send(self, record: Record, reason: str, code: str, cut: int = 0) -> _Burial:
        headers = [
            ("reason", (f"{reason} (cut)" if cut else reason).encode()),
            ("code", code.encode()),
            ("origin", origin_of(record).encode()),
            ("reader", self._reader.encode()),
        ]
        headers += [("cut", str(cut).encode())] if cut else []
        headers += [(name, value) for name, value in record.headers if name == REPLAY_OF]
        answer = self._producer.send(DEAD_LETTERS, record.key, record.value, headers)
        return _Burial(record, reason, code, answer, cut)


def origin_of(record: Record) -> str:
    """`topic/partition/offset`."""
    return f"{record.topic}/{record.partition}/{record.offset}"
