"""Bytes to messages; what can't be read goes to `dead-letters` with its bytes, its reason and its origin."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace

from services import events
from services.bandit.counting import Fed
from services.errors import BadMessageError, UnavailableError
from services.ports import EventProducer, Record

logger = logging.getLogger(__name__)

KIND = {events.EXPOSURES: events.Exposure, events.EVENTS: events.Event}
ACKNOWLEDGE_S = 5.0
KEPT_BYTES = 64_000  # of a record that is too large to be kept whole

Buried = tuple[Record, str, "Future[Record]"]  # what, why, and the broker's answer


class Decoder:
    """Decodes records, and knows which dead letters the broker still has to acknowledge."""

    def __init__(self, producer: EventProducer):
        self._producer = producer
        self._open: list[Buried] = []

    def decode(self, records: Iterable[Record], is_counted: Callable[[str, int], bool]) -> list[Fed]:
        """(offset, append_ms, message) of every readable record. A bad one that was passed over before, and
        is only read again, was buried then."""
        fed: list[Fed] = []
        for record in records:
            try:
                message = events.decode(KIND[record.topic], record.value)
            except BadMessageError as error:
                if not is_counted(record.topic, record.offset):
                    logger.warning("%s is passed over: %s", _origin(record), error)
                    self._open.append(self._bury(record, str(error)))
                continue
            fed.append((record.offset, record.append_ms, message))
        return fed

    def acknowledged(self) -> None:
        """Wait until every dead letter is safe: only then may positions pass the records they came from.
        Raises UnavailableError; what failed was sent again, so call this again later."""
        waiting, self._open = self._open, []
        self._open = [again for buried in waiting if (again := self._settle(buried)) is not None]
        if self._open:
            raise UnavailableError("dead-letters", f"{len(self._open)} records are not acknowledged yet")

    def _settle(self, buried: Buried) -> Buried | None:
        """None once it is safe, else what to wait for instead."""
        record, reason, answer = buried
        try:
            answer.result(ACKNOWLEDGE_S)
        except BadMessageError:  # too large with its headers
            return self._bury(replace(record, value=record.value[:KEPT_BYTES]), f"{reason} (cut)")
        except (UnavailableError, FutureTimeoutError, CancelledError):
            return self._bury(record, reason)
        return None

    def _bury(self, record: Record, reason: str) -> Buried:
        headers = (("reason", reason.encode()), ("origin", _origin(record).encode()), ("reader", b"bandit"))
        key = None if record.key is None else record.key.decode(errors="replace")
        return record, reason, self._producer.send(events.DEAD_LETTERS, key, record.value, headers)


def _origin(record: Record) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"
