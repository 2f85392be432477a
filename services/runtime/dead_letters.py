"""The dead-letter writer that workers share: what can't be decoded goes to the topic `dead-letters`.

A dead letter holds the bytes and key of the source record. Its headers are `reason` (a sentence), `code` (one
of BadMessageError's, for counters), `origin` (topic/partition/offset of the source record) and `reader` (the
worker); where they apply, `cut` (size of a source record too large to be kept whole) and `replay-of` (the
dead letter of which the source record is a replay).

One worker writes the dead letters of each topic, so that a record gets one dead letter (at least once): the
attribution worker those of exposures and events, the lake worker those of the other topics. Other readers
skip a bad record and count it.
"""

import logging
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, replace

from cachetools import FIFOCache

from services.errors import BadMessageError, UnavailableError
from services.messages.events import ACTIVITY, DEAD_LETTERS, DECISIONS, EVENTS, EXPOSURES, ITEMS
from services.ports.event_log import EventProducer, Record

logger = logging.getLogger(__name__)

# Topic -> the value of the header `reader`.
DEAD_LETTERED_BY = {EXPOSURES: "bandit", EVENTS: "bandit", DECISIONS: "lake", ITEMS: "lake", ACTIVITY: "lake"}
CODES = ("not-json", "schema", "version", "too-large", "not-storable")  # of BadMessageError
ACKNOWLEDGE_S = 5.0  # for all dead letters together; a longer wait would make the worker look dead
KEPT_BYTES = 64_000  # of a record that is too large to be kept whole
REMEMBERED = 10_000  # acknowledged source records, so that reading them again writes no second dead letter
REPLAY_OF = "replay-of"


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A dead letter that the broker has not acknowledged. `cut`: size of the whole record; 0: not cut."""

    record: Record
    reason: str
    code: str
    future: "Future[Record]"
    cut: int = 0


class DeadLetterWriter:
    """Writes the dead letters of one reader."""

    def __init__(self, producer: EventProducer, reader: str):
        self._producer = producer
        self._reader = reader
        self._in_flight: dict[str, _InFlight] = {}  # by source record
        self._acknowledged: FIFOCache[str, None] = FIFOCache(REMEMBERED)

    def dead_letter(self, record: Record, error: BadMessageError) -> None:
        """Send a dead letter without waiting, unless one of this record is in flight or acknowledged."""
        source = source_of(record)
        if source in self._in_flight or source in self._acknowledged:
            return
        logger.warning("skipping %s: %s", source, error)
        self._in_flight[source] = self._send(record, str(error), error.code)

    def flush(self) -> None:
        """Wait until every dead letter is acknowledged; only then may positions pass the source records.

        Raises UnavailableError if some are not, so that the caller tries again later. By then the failed ones
        have been sent again. Those in flight have not: the producer may try for longer than this waits.
        """
        wait([sent.future for sent in self._in_flight.values()], ACKNOWLEDGE_S)
        for source, sent in list(self._in_flight.items()):
            if sent.future.done():
                self._settle(source, sent)
        if self._in_flight:
            raise UnavailableError("dead-letters", f"{len(self._in_flight)} records are not acknowledged yet")

    def _settle(self, source: str, sent: _InFlight) -> None:
        """Note the acknowledgement of a dead letter; send it again if it failed, cut if it was too large."""
        record = sent.record
        try:
            sent.future.result()
        except BadMessageError:  # too large together with its headers
            cut = replace(record, value=record.value[:KEPT_BYTES])
            size = sent.cut or len(record.value)
            self._in_flight[source] = self._send(cut, sent.reason, sent.code, size)
        except (UnavailableError, CancelledError):
            self._in_flight[source] = self._send(record, sent.reason, sent.code, sent.cut)
        else:
            del self._in_flight[source]
            self._acknowledged[source] = None

    def _send(self, record: Record, reason: str, code: str, cut: int = 0) -> _InFlight:
        headers = [
            ("reason", (f"{reason} (cut)" if cut else reason).encode()),
            ("code", code.encode()),
            ("origin", source_of(record).encode()),
            ("reader", self._reader.encode()),
        ]
        headers += [("cut", str(cut).encode())] if cut else []
        headers += [(name, value) for name, value in record.headers if name == REPLAY_OF]
        future = self._producer.send(DEAD_LETTERS, record.key, record.value, headers)
        return _InFlight(record, reason, code, future, cut)


def source_of(record: Record) -> str:
    """Return the header `origin` of the dead letter of `record`: `topic/partition/offset`."""
    return f"{record.topic}/{record.partition}/{record.offset}"
