"""The event log behind one face, whichever adapter it is, so that one suite runs on all of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.breakable import BreakableBroker

from services.adapters.memory.event_log import (
    MemoryEventConsumer,
    MemoryEventProducer,
    MemoryGroupConsumer,
    MemoryLogAdmin,
)
from services.ports.event_log import EventConsumer, EventProducer, GroupConsumer, LogAdmin
from services.settings import Settings


@dataclass
class MemoryLog:
    """The in-memory broker."""

    broker: BreakableBroker
    name: str = "memory"

    def producer(self) -> EventProducer:
        return MemoryEventProducer(self.broker)

    def consumer(self) -> EventConsumer:
        return MemoryEventConsumer(self.broker)

    def member(self, group: str, topics: tuple[str, ...]) -> GroupConsumer:
        return MemoryGroupConsumer(self.broker, group, topics)

    def admin(self) -> LogAdmin:
        return MemoryLogAdmin(self.broker)

    def kill(self) -> None:
        self.broker.down = True

    def revive(self) -> None:
        self.broker.down = False

    def freeze(self) -> None:
        self.broker.down = True  # a caller can't tell a hung broker from a dead one: no acknowledgement

    thaw = revive


@dataclass
class KafkaLog:
    """A broker that speaks Kafka's protocol; `server` is an EmbeddedBroker or a LocalKafka."""

    server: Any
    settings: Settings
    name: str
    opened: list[Any] = field(default_factory=list)

    def _keep(self, client: Any) -> Any:
        self.opened.append(client)
        return client

    def producer(self) -> EventProducer:
        from services.adapters.kafka.producer import KafkaEventProducer

        return self._keep(KafkaEventProducer(self.settings))

    def consumer(self) -> EventConsumer:
        from services.adapters.kafka.consumer import KafkaEventConsumer

        return self._keep(KafkaEventConsumer(self.settings))

    def member(self, group: str, topics: tuple[str, ...]) -> GroupConsumer:
        from services.adapters.kafka.consumer import KafkaGroupConsumer

        return self._keep(KafkaGroupConsumer(self.settings, group, topics))

    def admin(self) -> LogAdmin:
        from services.adapters.kafka.admin import KafkaLogAdmin

        return KafkaLogAdmin(self.settings)

    def kill(self) -> None:
        self.server.server.kill()

    def revive(self) -> None:
        self.server.restart()

    def freeze(self) -> None:
        self.server.server.freeze()

    def thaw(self) -> None:
        self.server.server.thaw()

    def close(self) -> None:
        for client in self.opened:
            client.close(0.5) if hasattr(client, "flush") else client.close()


@pytest.fixture(params=["memory", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest, settings_for: Callable[..., Settings]) -> Iterator[Any]:
    """An empty log with four partitions a keyed topic: in memory, on the embedded broker, on Apache Kafka."""
    if request.param == "memory":
        yield MemoryLog(request.getfixturevalue("memory_broker"))
        return
    server = request.getfixturevalue(f"{request.param}_broker")
    settings = settings_for(server, broker_ack_deadline_ms=1_500, lateness_s=20.0)
    running = KafkaLog(server, settings, request.param)
    yield running
    running.close()
