"""Bytes to messages; what can't be read is buried."""

from collections.abc import Callable, Iterable

from services import events
from services.bandit.counting import Fed
from services.dead_letters import DeadLetters
from services.errors import BadMessageError
from services.ports import EventProducer, Record

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
                    self._letters.bury(record, error)
                continue
            fed.append((record.offset, record.append_ms, message))
        return fed

    def acknowledged(self) -> None:
        """As DeadLetters.acknowledged."""
        self._letters.acknowledged()
