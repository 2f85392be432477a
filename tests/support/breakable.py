"""The in-memory doubles with what tests do to them: take them down, empty, stall, truncate, damage."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future
from inspect import isfunction
from typing import Any

from models.recommender import Manifest, Recommender
from services.adapters.memory.activity_store import MemoryActivityStore
from services.adapters.memory.broker import Headers, MemoryBroker, Pair
from services.adapters.memory.decision_log import MemoryDecisionLog
from services.adapters.memory.item_overlay import MemoryItemOverlay
from services.adapters.memory.pins import MemoryOnlineReader, MemoryPinStore
from services.adapters.memory.stores import MemoryModelStore
from services.adapters.memory.sum_store import MemoryStateCache, MemorySumStore
from services.errors import ArtifactError, UnavailableError
from services.ports.event_log import Record


class Breakable:
    """Every public method of the double raises UnavailableError while `down`, as with a dead Redis."""

    down = False

    def __init_subclass__(cls) -> None:
        """Guard the methods of the double, which is the second base of a direct subclass."""
        if Breakable not in cls.__bases__:
            return
        for name, method in vars(cls.__bases__[1]).items():
            if isfunction(method) and not name.startswith("_") and name not in vars(cls):
                setattr(cls, name, _guarded(method))

    def check(self) -> None:
        """Raise while `down`."""
        if self.down:
            raise UnavailableError("Redis", "it is down")


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Breakable, *arguments: Any, **named: Any) -> Any:
        self.check()
        return method(self, *arguments, **named)

    return call


class BreakableActivityStore(Breakable, MemoryActivityStore):
    """An activity store that can be emptied, and whose locks can expire."""

    def expire(self) -> None:
        """Let all locks expire."""
        self._holders.clear()

    def lose_data(self) -> None:
        """Lose everything, as an emptied Redis does."""
        self.rows.clear()
        self.saved.clear()
        self._holders.clear()


class BreakableDecisionLog(Breakable, MemoryDecisionLog):
    """A decision log that can be down."""


class BreakableItemOverlay(Breakable, MemoryItemOverlay):
    """An overlay that can be emptied."""

    def lose_data(self) -> None:
        """Lose everything, as an emptied Redis does."""
        with self._lock:
            self._changes, self._position = {}, None


class BreakableOnlineReader(Breakable, MemoryOnlineReader):
    """A reader whose answers take `delay_s`."""

    delay_s = 0.0

    async def read(self, *arguments: Any) -> Any:
        """Wait, then read."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        self.check()
        return await MemoryOnlineReader.read(self, *arguments)


class BreakablePinStore(Breakable, MemoryPinStore):
    """A pin store that can be emptied."""

    def lose_data(self) -> None:
        """Lose everything, as an emptied Redis does."""
        self.restored.clear()
        self._begun.clear()
        self._reader.pins.clear()
        self._reader.complete = False


class BreakableSumStore(Breakable, MemorySumStore):
    """A sum store that can be emptied."""

    def lose_data(self) -> None:
        """Lose everything, as an emptied Redis does."""
        for part in (self._positions, self._sums, self._watermarks, self._losses, self._accepted):
            part.clear()


class BreakableStateCache(Breakable, MemoryStateCache):
    """A state cache that can be emptied."""

    def lose_data(self) -> None:
        """Lose everything, as an emptied Redis does."""
        self._states.clear()
        self._beats.clear()
        self._leases.clear()


class BreakableModelStore(MemoryModelStore):
    """A model store whose artifacts can be damaged."""

    def __init__(self, code_version: str = "test") -> None:
        super().__init__(code_version)
        self._damaged: dict[str, str] = {}

    def damage(
        self, model_version: str, problem: str = "arrays.npz: sha256 differs from the manifest"
    ) -> None:
        """Reject this version from now on, with `problem`."""
        self._damaged[model_version] = problem

    def load(self, model_version: str) -> tuple[Recommender, Manifest]:
        """The model, unless it is damaged."""
        if model_version in self._damaged:
            raise ArtifactError(f"{model_version}: {self._damaged[model_version]}")
        return super().load(model_version)


class BreakableBroker(MemoryBroker):
    """A broker that can be `down`, stall, leave gaps and lose its records.

    While it is down, sends fail at once, as a dead broker's do after the producer's deadline.
    """

    down = False
    _stalled: list[Callable[[], None]] | None = None

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers = ()) -> "Future[Record]":
        """Append now, or at `release` if the broker is stalled."""
        future: Future[Record] = Future()

        def deliver() -> None:
            if self.down:
                future.set_exception(UnavailableError("broker", "no acknowledgement before the deadline"))
            else:
                future.set_result(MemoryBroker.send(self, topic, key, value, headers).result())

        with self.changed:
            if self._stalled is not None:
                self._stalled.append(deliver)
                return future
        deliver()
        return future

    def idle(self) -> bool:
        """Whether no record waits to be appended."""
        with self.changed:
            return not self._stalled

    def read(self, pair: Pair, offset: int, limit: int) -> tuple[list[Record], int]:
        """Nothing while it is down."""
        return ([], offset) if self.down else super().read(pair, offset, limit)

    def identity(self) -> str:
        """Unknown while it is down."""
        self._check()
        return super().identity()

    def bounds(self, pair: Pair) -> tuple[int, int]:
        """Unknown while it is down."""
        self._check()
        return super().bounds(pair)

    def records(self, topic: str) -> list[Record]:
        """All kept records of a topic, by partition and offset."""
        with self.changed:
            return [
                record
                for index in range(self.partitions(topic))
                for record in self._log((topic, index)).records
            ]

    def skip(self, topic: str, partition: int, offsets: int = 1) -> None:
        """Leave a gap of `offsets` offsets without a record, as transaction markers and compaction do."""
        with self.changed:
            self._log((topic, partition)).end += offsets
            self.changed.notify_all()

    def truncate(self, topic: str, partition: int, before: int) -> None:
        """Delete every record below offset `before`, as retention does."""
        with self.changed:
            log = self._log((topic, partition))
            log.start = before
            log.end = max(log.end, before)
            log.records = [record for record in log.records if record.offset >= before]

    def stall(self) -> None:
        """Leave sends unacknowledged until `release`."""
        with self.changed:
            self._stalled = [] if self._stalled is None else self._stalled

    def release(self) -> None:
        """Append in order what was sent since `stall`."""
        with self.changed:
            waiting, self._stalled = self._stalled or [], None
        for deliver in waiting:
            deliver()

    def _check(self) -> None:
        if self.down:
            raise UnavailableError("broker", "it is down")
