"""The topic `items` is the truth of the live catalogue; the overlay that replicas read is laid from it.

Every replica may lay: after a change that it took itself, at its start, when the overlay turns up empty, and
every few seconds for what others could not finish. The place moves by compare-and-set, so it does no harm
that several do it at once.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from services.errors import BadMessageError, DataLossError, StalePositionError, UnavailableError
from services.messages.events import ITEMS, ItemChanged, decode
from services.ports.catalogue import ItemOverlay, OverlayPosition
from services.ports.event_log import EventConsumer, LogAdmin, Record

log = logging.getLogger(__name__)

PAIR = (ITEMS, 0)
IDLE_S = 5.0  # between two looks at the end of the log while the overlay stands where we left it, and
# between two questions which log it is: a new one may have grown past the place
POLL_S = 0.2
BATCH = 1_000  # changes laid at once: a few ms of Redis, which answers slates meanwhile
PATIENCE_S = 10.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Batch:
    """Records of the log as they are laid; `bad` with the reason."""

    changes: list[ItemChanged]
    bad: list[tuple[Record, BadMessageError]]


class ItemsFollower:
    """Lays the log over the overlay. Blocking; all calls from one thread (a consumer belongs to its
    thread). `bad`: records passed over, by code (the lake worker buries them)."""

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
        self._ask_s = float("-inf")  # when to ask the log for its identity again

    def look(self) -> None:
        """Follow if the overlay is empty, stands in a log that is new to us, or it is time. What is
        unavailable is tried at the next look."""
        try:
            laid = self._overlay.position()
            if laid is None or laid.log != self._log_id or self._now_s() >= self._due_s:
                self.follow()
        except UnavailableError as error:
            log.debug("the live catalogue stays as it is: %s", error)

    def follow(self) -> OverlayPosition:
        """Lay everything up to the end of the log; returns the place. Raises UnavailableError."""
        until_s = self._now_s() + PATIENCE_S
        while self._now_s() <= until_s:
            try:
                laid = self._advance(until_s)
            except StalePositionError:  # somebody else laid it: go on from there
                continue
            except DataLossError as error:  # cut while we read: its bounds are asked for again
                log.warning("changes of items are gone from the log: %s", error)
                continue
            self._due_s = self._now_s() + IDLE_S
            return laid
        raise _slow()

    def close(self) -> None:
        """Stop reading; idempotent."""
        self._consumer.close()

    def _advance(self, until_s: float) -> OverlayPosition:
        stored = self._overlay.position()
        first, end = self._consumer.bounds(*PAIR)
        here = self._standing(stored, first, end)
        if here != stored:
            self._overlay.apply(stored, here, [])
        while here.offset < end:
            here = self._lay_next(here)
            if self._now_s() > until_s:
                raise _slow()
        return here

    def _standing(self, stored: OverlayPosition | None, first: int, end: int) -> OverlayPosition:
        """Where to read on: from the stored place if this log holds it, else from its start."""
        doubtful = stored is None or stored.log != self._log_id or not first <= stored.offset <= end
        if doubtful or self._now_s() >= self._ask_s:
            self._log_id = self._admin.log_id([ITEMS])
            self._ask_s = self._now_s() + IDLE_S
        here = OverlayPosition(self._log_id or "", first)
        if stored is None:
            log.info("laying the live catalogue from the log, offsets [%d, %d)", first, end)
            return here
        if stored.log == here.log and first <= stored.offset <= end:
            return stored
        log.warning(
            "the log of items is not, or no longer, the one laid up to %s; it holds [%d, %d). What was laid "
            "stays, and what this log says comes on top",
            stored,
            first,
            end,
        )
        return here

    def _lay_next(self, here: OverlayPosition) -> OverlayPosition:
        if self._consumer.positions().get(PAIR) != here.offset:
            self._consumer.assign({PAIR: here.offset})
        records = self._consumer.poll(POLL_S, BATCH)
        following = OverlayPosition(here.log, self._consumer.positions().get(PAIR, here.offset))
        if following == here:
            return here
        batch = _decoded(records)
        self._overlay.apply(here, following, batch.changes)
        self._pass_over(
            batch
        )  # after: of several who met the same bad record only the one that laid it tells
        return following

    def _pass_over(self, batch: _Batch) -> None:
        for record, error in batch.bad:
            self.bad[error.code] += 1
            log.error("items/%d is no change of an item and does not count: %s", record.offset, error)


class Following:
    """An ItemsFollower in a thread of its own, beside the event loop."""

    def __init__(self, follower: ItemsFollower, every_s: float):
        self._follower = follower
        self._every_s = every_s
        self._thread = ThreadPoolExecutor(1, "items")
        self._task: asyncio.Task[None] | None = None

    async def follow(self) -> OverlayPosition:
        """Lay everything that the log holds now. Raises UnavailableError."""
        return await self._on_thread(self._follower.follow)

    async def start(self) -> None:
        """Look at once and again every few moments; nobody waits for it."""
        self._task = asyncio.create_task(self._repeat())

    async def stop(self) -> None:
        """End the task and the thread; what it does just now may go on for a moment."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.submit(self._follower.close)
        self._thread.shutdown(wait=False)

    async def _repeat(self) -> None:
        while True:
            try:
                await self._on_thread(self._follower.look)
            except Exception:
                log.exception("a look at the log of items failed; the next one follows")
            await asyncio.sleep(self._every_s)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _decoded(records: list[Record]) -> _Batch:
    batch = _Batch([], [])
    for record in records:
        try:
            batch.changes.append(decode(ItemChanged, record.value))
        except BadMessageError as error:
            batch.bad.append((record, error))
    return batch


def _slow() -> UnavailableError:
    return UnavailableError("topic items", f"its end was not reached in {PATIENCE_S:g} s")
