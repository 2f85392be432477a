"""Apply the topic `items`, which is the source of truth of the live catalogue, to the overlay that replicas
read.

Every replica may apply records: after a change that it accepted itself, at its start, if the overlay is
empty, and every few seconds for changes that other replicas could not finish. The position of the overlay
moves by compare-and-set, so replicas may do so at the same time.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.errors import BadMessageError, DataLossError, StalePositionError, UnavailableError
from services.messages.events import ITEMS, ItemChanged, decode
from services.ports.catalogue import ItemOverlay, OverlayPosition
from services.ports.event_log import EventConsumer, LogAdmin

log = logging.getLogger(__name__)

PAIR = (ITEMS, 0)
# Between two checks of the end of the log while the overlay has not moved, and between two checks of the
# identity of the log, because a new log may have grown past the position.
IDLE_S = 5.0
POLL_S = 0.2
BATCH = 1_000  # changes applied at once: a few ms of Redis, which answers slates meanwhile
PATIENCE_S = 10.0
T = TypeVar("T")


class ItemsFollower:
    """Applies the log to the overlay. Blocks; call it from one thread, because a consumer belongs to one.

    `bad`: number of skipped records by error code (the lake worker dead-letters them).
    """

    def __init__(
        self,
        consumer: EventConsumer,
        admin: LogAdmin,
        overlay: ItemOverlay,
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._consumer, self._admin = consumer, admin
        self._overlay = overlay
        self.bad: Counter[str] = Counter()
        self._now_s = now_s
        self._log_id: str | None = None
        self._due_s = float("-inf")
        self._log_id_due_s = float("-inf")  # when to ask the log for its identity again

    def poll(self) -> None:
        """Catch up if the overlay is empty or from an unknown log, or if IDLE_S have passed. If Redis or the
        broker is unavailable, the next poll tries again."""
        try:
            position = self._overlay.position()
            if position is None or position.log != self._log_id or self._now_s() >= self._due_s:
                self.catch_up()
        except UnavailableError as error:
            log.debug("the live catalogue stays as it is: %s", error)

    def catch_up(self) -> OverlayPosition:
        """Apply the log up to its end; returns the position. Raises UnavailableError."""
        until_s = self._now_s() + PATIENCE_S
        while self._now_s() <= until_s:
            try:
                position = self._advance(until_s)
            except StalePositionError:  # another replica applied the records: continue after them
                continue
            except DataLossError as error:  # truncated during the read: ask for the bounds again
                log.warning("changes of items are gone from the log: %s", error)
                continue
            self._due_s = self._now_s() + IDLE_S
            return position
        raise _too_slow()

    def close(self) -> None:
        """Stop reading; idempotent."""
        self._consumer.close()

    def _advance(self, until_s: float) -> OverlayPosition:
        stored = self._overlay.position()
        first, end = self._consumer.bounds(*PAIR)
        position = self._start(stored, first, end)
        if position != stored:
            self._overlay.apply(stored, position, [])
        while position.offset < end:
            position = self._apply_next(position)
            if self._now_s() > until_s:
                raise _too_slow()
        return position

    def _start(self, stored: OverlayPosition | None, first: int, end: int) -> OverlayPosition:
        """Where to continue: at the stored position if this log holds it, else at the start of the log."""
        doubtful = stored is None or stored.log != self._log_id or not first <= stored.offset <= end
        if doubtful or self._now_s() >= self._log_id_due_s:
            self._log_id = self._admin.log_id([ITEMS])
            self._log_id_due_s = self._now_s() + IDLE_S
        start = OverlayPosition(self._log_id or "", first)
        if stored is None:
            log.info("filling the live catalogue from the log, offsets [%d, %d)", first, end)
            return start
        if stored.log == start.log and first <= stored.offset <= end:
            return stored
        log.warning(
            "the log of items, which holds offsets [%d, %d), does not contain %s, the position of the live "
            "catalogue; changes applied before stay, and all records of this log are applied after them",
            first,
            end,
            stored,
        )
        return start

    def _apply_next(self, position: OverlayPosition) -> OverlayPosition:
        if self._consumer.positions().get(PAIR) != position.offset:
            self._consumer.assign({PAIR: position.offset})
        records = self._consumer.poll(POLL_S, BATCH)
        after = OverlayPosition(position.log, self._consumer.positions().get(PAIR, position.offset))
        if after == position:
            return position
        changes: list[ItemChanged] = []
        bad: list[tuple[int, BadMessageError]] = []
        for record in records:
            try:
                changes.append(decode(ItemChanged, record.value))
            except BadMessageError as error:
                bad.append((record.offset, error))
        self._overlay.apply(position, after, changes)
        for offset, reason in bad:  # afterwards, so that only the replica that applied the batch reports them
            self.bad[reason.code] += 1
            log.error("items/%d is not a change of an item and is skipped: %s", offset, reason)
        return after


class CatalogueSync:
    """An ItemsFollower in its own thread, driven by the event loop."""

    def __init__(self, follower: ItemsFollower, every_s: float):
        self._follower = follower
        self._every_s = every_s
        self._thread = ThreadPoolExecutor(1, "items")
        self._task: asyncio.Task[None] | None = None

    async def catch_up(self) -> OverlayPosition:
        """Apply everything that the log holds now. Raises UnavailableError."""
        return await self._on_thread(self._follower.catch_up)

    async def start(self) -> None:
        """Start polling in the background."""
        self._task = asyncio.create_task(self._repeat())

    async def stop(self) -> None:
        """End the task and the thread; a call in progress may continue for a moment."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.submit(self._follower.close)
        self._thread.shutdown(wait=False)

    async def _repeat(self) -> None:
        while True:
            try:
                await self._on_thread(self._follower.poll)
            except Exception:
                log.exception("polling the log of items failed; the next poll follows")
            await asyncio.sleep(self._every_s)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _too_slow() -> UnavailableError:
    return UnavailableError("topic items", f"its end was not reached in {PATIENCE_S:g} s")
