"""The counting of one partition: what was read goes into the join, what is final goes into the store,
exactly once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.counting.attribution_join import Join, Offsets
from experiments.counting.audit import Account
from experiments.counting.sums import merge
from experiments.lifecycle.fold import Counting, Rules
from services.bandit.attribution.watermark import ReadProgress
from services.errors import StalePositionError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.state import Positions, Sums, SumStore

Fed = tuple[int, int, Any]  # offset, append time in ms, decoded message


class Count:
    """What a worker counts: `rules` of each experiment, and since when if its sums were dropped once.
    `left_out`: records that count nowhere, by why; of all partitions."""

    def __init__(self) -> None:
        self.rules: dict[str, Rules] = {}
        self.again: dict[str, Counting] = {}  # experiments whose counting started anew
        self.left_out: Counter[str] = Counter()

    def behind(self, stored: Positions) -> list[str]:
        """Experiments whose sums at these positions are of an older count than the one in force."""
        return [name for name, again in self.again.items() if stored.generation(name) < again.generation]

    def admits(self, topic: str, record: Fed) -> bool:
        """Whether a record is of the count in force, by its own times; others are as if they were not in the
        log."""
        _, append_ms, message = record
        of = message if topic == EXPOSURES else message.attribution
        if of is None or (again := self.again.get(of.experiment)) is None:
            return True
        at_ms = message.received_at if topic == EXPOSURES else of.unit_at
        lateness_ms = round(1_000 * self.rules[of.experiment].lateness_s)
        return at_ms >= again.from_ms and append_ms >= again.from_ms - lateness_ms


class Partition:
    """Counts one partition from stored positions on. Raises StalePositionError from `settle` when somebody
    else moved them: then drop this object, load, and read again from `wanted`."""

    def __init__(self, index: int, stored: Positions, count: Count, safety_ms: int):
        self.index = index
        self.stored = stored  # as this object found them
        self.log_id = stored.log_id
        self.reach = {EXPOSURES: ReadProgress(stored.rebuild), EVENTS: ReadProgress(stored.events)}
        self.wanted = {(EXPOSURES, index): stored.rebuild, (EVENTS, index): stored.events}
        at = Offsets(stored.exposures, stored.events, stored.rebuild)
        self._count = count
        self._join, self._account = Join(count.rules, at), Account(count.rules, at, count.left_out)
        self._safety_ms = safety_ms
        self._pending: tuple[Positions, Positions, Mapping[str, Sums]] | None = None

    @property
    def overtaken(self) -> int:
        """Records that came after a watermark that promised there were none; see watermark."""
        return self._join.overtaken

    @property
    def lag(self) -> int:
        """Records known to be unread, of both topics."""
        return sum(reach.lag for reach in self.reach.values())

    def is_counted(self, topic: str, offset: int) -> bool:
        """Whether a record is only read again to rebuild the join."""
        return topic == EXPOSURES and offset < self._join.offsets.exposures

    def feed(self, topic: str, records: Sequence[Fed], next_offset: int) -> None:
        """Take what was read of one topic; reading stands at `next_offset` after it."""
        reach = self.reach[topic]
        for _, append_ms, _ in records:
            reach.saw(append_ms)
        reach.moved(next_offset)
        if any(again.from_ms for again in self._count.again.values()):
            read, records = len(records), [fed for fed in records if self._count.admits(topic, fed)]
            self._count.left_out["before_recount"] += read - len(records)
        if topic == EXPOSURES:
            self._account.note_exposures(records)
            self._join.feed_exposures(records, next_offset)
        else:
            self._account.note_events(records)
            self._join.feed_events(records, next_offset)

    def watermark(self, now_ms: int) -> int:
        """The lower one of both topics, ms."""
        return min(reach.watermark(now_ms, self._safety_ms) for reach in self.reach.values())

    def settle(self, store: SumStore, now_ms: int) -> None:
        """Store what is final by now.

        After an UnavailableError it is unknown whether the batch was applied; the next call finds out.
        Positions determine the sums (they are a function of the log), so positions that stand where the batch
        leads say yes.
        """
        if self._pending is None:
            batch = self._join.advance(self.watermark(now_ms))
            if batch.empty:
                return
            booked = self._account.book(batch.moved_to)
            deltas = {
                name: merge((batch.deltas.get(name, {}), booked.get(name, {})))
                for name in batch.deltas.keys() | booked.keys()
            }
            self._pending = (self._at(batch.fetched_from), self._at(batch.moved_to), deltas)
        fetched_from, moved_to, deltas = self._pending
        try:
            store.apply(self.index, fetched_from, moved_to, deltas)
        except StalePositionError:
            if store.positions([self.index]).get(self.index) != moved_to:
                raise
        self._pending = None

    def _at(self, offsets: Offsets) -> Positions:
        at = Positions(self.log_id, offsets.exposures, offsets.events, offsets.rebuild)
        return replace(at, counts=self.stored.counts)
