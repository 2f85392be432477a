"""The counting of one partition: what was read goes into the join, what is final goes into the store,
exactly once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.account import Account
from experiments.experiment import Rules
from experiments.maturity import Join, Offsets
from experiments.tally import merge
from services.bandit.watermark import Reach
from services.errors import StalePositionError
from services.events import EVENTS, EXPOSURES
from services.ports import Positions, Sums, TallyStore

Fed = tuple[int, int, Any]  # offset, append time in ms, decoded message


class Partition:
    """Counts one partition from stored positions on. Raises StalePositionError from `settle` when somebody
    else moved them: then drop this object, load, and read again from `wanted`."""

    def __init__(
        self,
        index: int,
        stored: Positions,
        rules: Mapping[str, Rules],
        safety_ms: int,
        left_out: Counter[str] | None = None,
    ):
        self.index = index
        self.log_id = stored.log_id
        self.reach = {EXPOSURES: Reach(stored.rebuild), EVENTS: Reach(stored.events)}
        self.wanted = {(EXPOSURES, index): stored.rebuild, (EVENTS, index): stored.events}
        at = Offsets(stored.exposures, stored.events, stored.rebuild)
        self._join, self._account = Join(rules, at), Account(rules, at, left_out)
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
        if topic == EXPOSURES:
            self._account.note_exposures(records)
            self._join.feed_exposures(records, next_offset)
        else:
            self._account.note_events(records)
            self._join.feed_events(records, next_offset)
        reach = self.reach[topic]
        for _, append_ms, _ in records:
            reach.saw(append_ms)
        reach.moved(next_offset)

    def watermark(self, now_ms: int) -> int:
        """The lower one of both topics, ms."""
        return min(reach.watermark(now_ms, self._safety_ms) for reach in self.reach.values())

    def settle(self, store: TallyStore, now_ms: int) -> None:
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
            if store.load(self.index)[0] != moved_to:
                raise
        self._pending = None

    def _at(self, offsets: Offsets) -> Positions:
        return Positions(self.log_id, offsets.exposures, offsets.events, offsets.rebuild)
