"""Decoding the records of `exposures` and `events`; those that can't be decoded become dead letters."""

from collections.abc import Callable, Iterable

from experiments.counting.attribution_join import FedRecord
from services.errors import BadMessageError
from services.messages import events
from services.messages.events import EXPOSURES
from services.ports.event_log import EventProducer, Record
from services.runtime.dead_letters import DeadLetterWriter


class Decoder:
    """Decodes records, and writes the dead letters of `exposures` and `events`."""

    def __init__(self, producer: EventProducer):
        self._dead_letters = DeadLetterWriter(producer, "bandit")

    def decode(self, records: Iterable[Record], is_counted: Callable[[str, int], bool]) -> list[FedRecord]:
        """Return (offset, append_ms, message) of each record that can be decoded, in order.

        Others get a dead letter, unless `is_counted(topic, offset)`: such a record is only read again to
        rebuild the join, and its dead letter was written when it was counted.
        """
        decoded: list[FedRecord] = []
        for record in records:
            try:
                message = _decode(record)
            except BadMessageError as error:
                if not is_counted(record.topic, record.offset):
                    self._dead_letters.dead_letter(record, error)
                continue
            decoded.append((record.offset, record.append_ms, message))
        return decoded

    def flush_dead_letters(self) -> None:
        """Wait until every dead letter is acknowledged. Raises UnavailableError if some are not."""
        self._dead_letters.flush()


def _decode(record: Record) -> events.Exposure | events.Event:
    if record.topic == EXPOSURES:
        return events.decode(events.Exposure, record.value)
    return events.decode(events.Event, record.value)
