"""Count the records of a partition by position alone, as an independent check of the join.

The join decides the category of each record; this module does not know its rules. Records are noted by offset
when they are read, before the join gets them, and counted when the positions pass them. If the join drops or
doubles a record, the two counts differ (`ExperimentSums.gaps`), and the experiment is held.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.counting.attribution_join import Offsets
from experiments.counting.sums import account_key
from experiments.lifecycle.state import Rules

FedRecord = tuple[int, int, Any]  # offset, append time in ms, decoded message
NotedRecord = tuple[int, str, str]  # offset, experiment, arm


class PartitionAudit:
    """Counts of one partition from `offsets` on; `rules` by experiment is read when a record is noted.
    `left_out`: number of records that count nowhere, by reason; shared by all partitions of a worker."""

    def __init__(
        self, rules: Mapping[str, Rules], offsets: Offsets, left_out: Counter[str] | None = None
    ) -> None:
        self._rules = rules
        self._from = offsets
        self._exposures: deque[NotedRecord] = deque()
        self._events: deque[NotedRecord] = deque()
        self.left_out: Counter[str] = Counter() if left_out is None else left_out

    def note_exposures(self, records: Iterable[FedRecord]) -> None:
        """Note the first exposures that count; those below the position were counted before a restart."""
        for offset, _, shown in records:
            if offset < self._from.exposures:
                continue
            if why := self._exclusion_of_exposure(shown):
                self.left_out[why] += 1
            else:
                self._exposures.append((offset, shown.experiment, shown.arm))

    def note_events(self, records: Iterable[FedRecord]) -> None:
        """Note the outcomes of known experiments."""
        for offset, _, event in records:
            if why := self._exclusion_of_event(event):
                self.left_out[why] += 1
            else:
                to = event.attribution
                self._events.append((offset, to.experiment, to.arm))

    def _exclusion_of_exposure(self, shown: Any) -> str:
        if shown.experiment not in self._rules:
            return "exposure_unknown_experiment"
        if shown.excluded is not None:
            return "exposure_excluded"
        return "" if shown.first else "exposure_not_first"

    def _exclusion_of_event(self, event: Any) -> str:
        if event.attribution is None:
            return "event_unattributed"
        rules = self._rules.get(event.attribution.experiment)
        if rules is None:
            return "event_unknown_experiment"
        return "" if rules.outcome == event.type else "event_no_outcome"

    def count_below(self, moved_to: Offsets) -> dict[str, dict[str, int]]:
        """Count the noted records below `moved_to` once, as flat sums by experiment: exposures `exposed`,
        events `acknowledged`."""
        booked: dict[str, Counter[str]] = defaultdict(Counter)
        for noted, end, what in (
            (self._exposures, moved_to.exposures, "exposed"),
            (self._events, moved_to.events, "acknowledged"),
        ):
            while noted and noted[0][0] < end:
                _, experiment, arm = noted.popleft()
                booked[experiment][account_key(arm, what)] += 1
        return {experiment: dict(counts) for experiment, counts in booked.items()}
