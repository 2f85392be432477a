"""The state of one partition: records go into the join, and final sums are committed with their positions."""

from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.counting.attribution_join import FedRecord, Join, Offsets
from experiments.counting.audit import PartitionAudit
from experiments.counting.sums import merge
from experiments.lifecycle.state import Counting, Experiment, Rules
from services.bandit.attribution.watermark import ReadProgress
from services.errors import StalePositionError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.state import Positions, Sums, SumStore


class CountedExperiments:
    """What all partitions of a worker know of the experiments: rules, recounts, and excluded records."""

    def __init__(self) -> None:
        self.rules: dict[str, Rules] = {}  # the joins hold this mapping, so it is updated in place
        self.recounts: dict[str, Counting] = {}  # latest recount of the experiments that had one
        self.left_out: Counter[str] = Counter()  # records that count nowhere, by reason

    def update(self, states: Mapping[str, Experiment]) -> None:
        """Take over rules and recounts from the newest states."""
        for name, state in states.items():
            self.rules[name] = state.rules
            if state.counting.generation:
                self.recounts[name] = state.counting

    def outdated(self, stored: Positions) -> list[str]:
        """Return the experiments whose sums at `stored` are from before their latest recount."""
        return [
            name for name, recount in self.recounts.items() if stored.generation(name) < recount.generation
        ]

    def admit(self, topic: str, records: Sequence[FedRecord]) -> Sequence[FedRecord]:
        """Return the records that belong to the latest recount; count the others as left out."""
        if not any(recount.from_ms for recount in self.recounts.values()):
            return records
        admitted = [record for record in records if self._admits(topic, record)]
        self.left_out["before_recount"] += len(records) - len(admitted)
        return admitted

    def _admits(self, topic: str, record: FedRecord) -> bool:
        """Decide by the record's own times, so that every worker decides alike."""
        _, append_ms, message = record
        of = message if topic == EXPOSURES else message.attribution
        if of is None or (recount := self.recounts.get(of.experiment)) is None:
            return True
        unit_ms = message.received_at if topic == EXPOSURES else of.unit_at
        lateness_ms = round(1_000 * self.rules[of.experiment].lateness_s)
        return unit_ms >= recount.from_ms and append_ms >= recount.from_ms - lateness_ms


class Partition:
    """The counting of one partition from stored positions on.

    stored: positions that were loaded. start: offsets by (topic, partition) from which to read. progress: of
    reading, by topic.
    """

    def __init__(self, index: int, stored: Positions, experiments: CountedExperiments, safety_ms: int):
        self.index = index
        self.stored = stored
        self.log_id = stored.log_id
        self.progress = {EXPOSURES: ReadProgress(stored.rebuild), EVENTS: ReadProgress(stored.events)}
        self.start = {(EXPOSURES, index): stored.rebuild, (EVENTS, index): stored.events}
        at = Offsets(stored.exposures, stored.events, stored.rebuild)
        self._experiments = experiments
        self._join = Join(experiments.rules, at)
        self._audit = PartitionAudit(experiments.rules, at, experiments.left_out)
        self._safety_ms = safety_ms
        self._pending: tuple[Positions, Positions, Mapping[str, Sums]] | None = None

    @property
    def overtaken(self) -> int:
        """Number of records that came later than a watermark had promised; see services…watermark."""
        return self._join.overtaken

    @property
    def lag(self) -> int:
        """Number of records of both topics that are known to be unread."""
        return sum(progress.lag for progress in self.progress.values())

    def is_counted(self, topic: str, offset: int) -> bool:
        """Return whether a record is already counted and is read again only to rebuild the join."""
        return topic == EXPOSURES and offset < self._join.offsets.exposures

    def feed(self, topic: str, records: Sequence[FedRecord], next_offset: int) -> None:
        """Take records of one topic; `next_offset`: the reading position after them."""
        progress = self.progress[topic]
        for _, append_ms, _ in records:
            progress.note_record(append_ms)
        progress.advance(next_offset)
        records = self._experiments.admit(topic, records)
        if topic == EXPOSURES:
            self._audit.note_exposures(records)
            self._join.feed_exposures(records, next_offset)
        else:
            self._audit.note_events(records)
            self._join.feed_events(records, next_offset)

    def watermark(self, now_ms: int) -> int:
        """Return the lower watermark of both topics, ms."""
        return min(progress.watermark(now_ms, self._safety_ms) for progress in self.progress.values())

    def commit(self, store: SumStore, now_ms: int) -> None:
        """Store the sums that are final now, together with the positions that they reach.

        After an UnavailableError it is not known whether the write was applied. The next call writes it again
        and compares: sums are a function of the log and the positions, so if the stored positions are already
        those of this batch, it was applied. Raises StalePositionError if another worker moved the positions;
        then drop this object, load the partition again and read from its `start`.
        """
        if self._pending is None:
            batch = self._join.advance(self.watermark(now_ms))
            if batch.empty:
                return
            booked = self._audit.count_below(batch.moved_to)
            deltas = {
                name: merge((batch.deltas.get(name, {}), booked.get(name, {})))
                for name in batch.deltas.keys() | booked.keys()
            }
            self._pending = (self._positions(batch.fetched_from), self._positions(batch.moved_to), deltas)
        fetched_from, moved_to, new_sums = self._pending
        try:
            store.apply(self.index, fetched_from, moved_to, new_sums)
        except StalePositionError:
            if store.positions([self.index]).get(self.index) != moved_to:
                raise
        self._pending = None

    def _positions(self, offsets: Offsets) -> Positions:
        exposures, events, rebuild = offsets.exposures, offsets.events, offsets.rebuild
        return Positions(self.log_id, exposures, events, rebuild, counts=self.stored.counts)
