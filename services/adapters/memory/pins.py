"""OnlineReader and PinStore in memory: rows, and pins that expire by `clock` (ms)."""

from collections.abc import Iterable, Mapping

from services.adapters.memory.broker import Clock
from services.ports.features import UserRow
from services.ports.pins import Pin
from services.runtime.clock import wall_ms


class MemoryOnlineReader:
    """OnlineReader: `rows` by user, pins that expire by `clock`."""

    def __init__(self, clock: Clock = wall_ms):
        self.rows: dict[str, UserRow] = {}
        self.pins: dict[str, tuple[Pin, float]] = {}
        self.complete = True
        self.clock = clock

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """See OnlineReader."""
        row = self.rows.get(user, UserRow())
        if unit_key is None:
            return row, None, False
        if proposal is not None and not self.complete:
            return row, None, False
        pin, until = self.pins.get(unit_key, (None, 0.0))
        if pin is not None and until > self.clock():
            return row, pin, False
        if proposal is None:
            return row, None, False
        self.pins[unit_key] = (proposal, self.clock() + ttl_s * 1_000)
        return row, proposal, True

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """See OnlineReader."""
        self.pins[unit_key] = (pin, self.clock() + ttl_s * 1_000)


class MemoryPinStore:
    """PinStore that restores the pins of a MemoryOnlineReader and marks them as complete."""

    def __init__(self, reader: MemoryOnlineReader):
        self._reader = reader
        self.restored: set[int] = set()
        self._begun: set[int] = set()

    def restored_partitions(self) -> frozenset[int]:
        """See PinStore."""
        return frozenset(self.restored)

    def begin_restore(self, partitions: Iterable[int]) -> None:
        """See PinStore."""
        self._begun.update(partitions)

    def restore(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """See PinStore."""
        now_ms = self._reader.clock()
        self._reader.pins.update({key: (pin, now_ms + ttl_ms) for key, (pin, ttl_ms) in pins.items()})

    def mark_restored(self, partition: int) -> bool:
        """See PinStore."""
        if partition in self._begun:
            self.restored.add(partition)
        return partition in self._begun

    def mark_complete(self, experiments: Iterable[str], partitions: int) -> bool:
        """See PinStore."""
        self._reader.complete = self._reader.complete or len(self.restored) >= partitions
        return len(self.restored) >= partitions
