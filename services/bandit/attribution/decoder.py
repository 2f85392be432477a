"""Bytes to messages; what can't be read is buried."""

from collections.abc import Callable, Iterable

from services.bandit.attribution.partition import Fed
from services.errors import BadMessageError
from services.messages import events
from services.ports.event_log import EventProducer, Record
from services.runtime.dead_letters import DeadLetters

KIND = {events.EXPOSURES: events.Exposure, events.EVENTS: events.Event}


class Decoder:
    """Decodes records, and knows which dead letters the broker still has to acknowledge."""

    def __init__(self, producer: EventProducer):
        self._letters = DeadLetters(producer, "bandit")

    def decode(self, records: Iterable[Record], is_counted: Callable[[str, int], bool]) -> list[Fed]:
        """(offset, append_ms, message) of every readable record. A bad one that was passed over before, and
        is only read again, was buried then."""
        fed: list[Fed] = []
        for record in records:
            try:
                message = events.decode(KIND[record.topic], record.value)
            except BadMessageError as error:
                if not is_counted(record.topic, record.offset):
                    self._letters.dead_letter(record, error)
                continue
            fed.append((record.offset, record.append_ms, message))
        return fed

    def acknowledged(self) -> None:
        """As DeadLetters.acknowledged."""
        self._letters.acknowledged()
