"""The in-memory double of every port, in one place. They pass the conformance suite of the real adapters."""

from services.adapters.memory_broker import MemoryBroker
from services.adapters.memory_log import (
    MemoryEventConsumer,
    MemoryEventProducer,
    MemoryGroupConsumer,
    MemoryLogAdmin,
)
from services.adapters.memory_state import (
    MemoryDecisionLog,
    MemoryItemOverlay,
    MemoryOnlineReader,
    MemoryPinStore,
    MemoryStateCache,
    MemoryTallyStore,
)
from services.adapters.memory_store import MemoryDataStore, MemoryModelRegistry, MemoryModelStore

__all__ = [
    "MemoryBroker",
    "MemoryDataStore",
    "MemoryDecisionLog",
    "MemoryEventConsumer",
    "MemoryEventProducer",
    "MemoryGroupConsumer",
    "MemoryItemOverlay",
    "MemoryLogAdmin",
    "MemoryModelRegistry",
    "MemoryModelStore",
    "MemoryOnlineReader",
    "MemoryPinStore",
    "MemoryStateCache",
    "MemoryTallyStore",
]
