"""The ports of the event log over a `MemoryBroker`: producer, consumer, group member, admin."""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from services.adapters.memory.broker import Headers, MemoryBroker, Pair
from services.errors import ConfigurationError
from services.messages.events import EVENTS, EXPOSURES
from services.messages.topics import TOPICS
from services.ports.event_log import Record


class MemoryEventProducer:
    """EventProducer to a MemoryBroker. It delivers at once, in the caller's thread."""

    def __init__(self, broker: MemoryBroker):
        self._broker = broker

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Headers = ()
    ) -> "Future[Record]":
        """See EventProducer."""
        raw = key.encode() if isinstance(key, str) else key
        return self._broker.send(topic, raw, value, headers)

    def flush(self, timeout_s: float) -> bool:
        """See EventProducer. It does not wait, because records are appended in the caller's thread."""
        return self._broker.idle()

    def close(self, timeout_s: float = 5.0) -> None:
        """See EventProducer."""


class MemoryEventConsumer:
    """EventConsumer of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker):
        self._broker = broker
        self._positions: dict[Pair, int] = {}

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """See EventConsumer."""
        self._positions = dict(positions)

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """See EventConsumer."""
        end = time.monotonic() + timeout_s
        while True:
            records = self._read(max_records)
            left = end - time.monotonic()
            if records or left <= 0:
                return records
            with self._broker.changed:
                self._broker.changed.wait(min(left, 0.05))

    def positions(self) -> dict[Pair, int]:
        """See EventConsumer."""
        return dict(self._positions)

    def lag(self) -> dict[Pair, int]:
        """See EventConsumer."""
        return {pair: self._broker.end(pair) - at for pair, at in self._positions.items()}

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See EventConsumer."""
        return self._broker.bounds((topic, partition))

    def end_offsets(self, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """See EventConsumer."""
        return {pair: self.bounds(*pair)[1] for pair in pairs}

    def offsets_since(self, pairs: Iterable[Pair], at_ms: int) -> dict[Pair, int]:
        """See EventConsumer."""
        return {pair: self._broker.since(pair, at_ms) for pair in self.end_offsets(pairs)}

    def close(self) -> None:
        """See EventConsumer."""
        self._positions = {}

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        for pair in sorted(self._positions):
            more, after = self._broker.read(pair, self._positions[pair], max_records - len(records))
            records += more
            self._positions[pair] = after
            if len(records) >= max_records:
                break
        return records


class MemoryGroupConsumer(MemoryEventConsumer):
    """GroupConsumer of a MemoryBroker. A member has the same partition numbers of every topic.

    A member that does not poll is a zombie, because its share changes only inside `poll`.
    """

    def __init__(self, broker: MemoryBroker, group: str, topics: tuple[str, ...]):
        super().__init__(broker)
        self._topics = topics
        self._owned: frozenset[Pair] = frozenset()
        self._members = broker.groups.setdefault((group, topics), [])
        self._members.append(self)

    def assignment(self) -> frozenset[Pair]:
        """See GroupConsumer."""
        return self._owned

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """See GroupConsumer."""
        super().assign({pair: offset for pair, offset in positions.items() if pair in self._owned})

    def close(self) -> None:
        """Leave the group; idempotent."""
        super().close()
        self._owned = frozenset()
        if self in self._members:
            self._members.remove(self)

    def _read(self, max_records: int) -> list[Record]:
        self._owned = self._share()
        self.assign(self.positions())
        return super()._read(max_records)

    def _share(self) -> frozenset[Pair]:
        mine, members = self._members.index(self), len(self._members)
        return frozenset(
            (topic, index)
            for topic in self._topics
            for index in range(self._broker.partitions(topic))
            if index % members == mine
        )


class MemoryLogAdmin:
    """LogAdmin of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker):
        self._broker = broker

    def create_topics(self, partitions: int) -> list[str]:
        """See LogAdmin."""
        if partitions != self._broker.keyed_partitions:
            raise ConfigurationError(
                f"kafka_partitions: {partitions}, but the topics have {self._broker.keyed_partitions}"
            )
        created = [topic for topic in TOPICS if topic not in self._broker.created]
        self._broker.created.update(created)
        return created

    def check_partitions(self) -> None:
        """See LogAdmin. The broker always has the partitions that it was made with."""

    def delete_topics(self) -> None:
        """See LogAdmin. Topics that are created again are another log."""
        self._broker.created.clear()
        self._broker.lose_everything(f"{self._broker.log_id}+")

    def partitions(self, topic: str) -> int:
        """See LogAdmin."""
        return self._broker.partitions(topic)

    def log_id(self, topics: Sequence[str] = (EXPOSURES, EVENTS)) -> str:
        """See LogAdmin."""
        return self._broker.identity()
