"""The in-memory double of every port, in one place. They pass the conformance suite of the real adapters."""

from services.adapters.memory_broker import MemoryBroker
from services.adapters.memory_decisions import MemoryDecisionLog
from services.adapters.memory_log import (
    MemoryEventConsumer,
    MemoryEventProducer,
    MemoryGroupConsumer,
    MemoryLogAdmin,
)
from services.adapters.memory_overlay import MemoryItemOverlay
from services.adapters.memory_pins import MemoryOnlineReader, MemoryPinStore
from services.adapters.memory_state import MemoryStateCache, MemoryTallyStore
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
