"""Counting anew: what a recount would drop, whether the log holds what is to be counted again, the decision.

The command line, the HTTP service and the console recount through here. A recount can't be taken back, so
whoever asks for one names the sums that they have looked at: `Preview.seen`. That is no digest, because
workers count on while a person reads: it stands for the sums that were seen and whatever honest counting has
added since.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from experiments.counting.sums import Tally
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import Dropped
from experiments.lifecycle.fold import Decision, Experiment
from services.errors import BadInputError, DataLossError, RingsideError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer
from services.ports.state import Sums, SumStore

FIRST_RECORD_S = 5.0
MOST = 2**63 - 1
SEEN_FOR_S = 900  # who looked longer ago must look again

Seen = tuple[str, int, int]  # which sums, the total of all their counts, when (s)


class RecountRefusedError(RingsideError):
    """A recount that would not do what was asked for; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a recount would drop: digest, positions, units and counts by arm, or why it is `unreadable`.
    `seen` names it. `out_of_reach`: why the log can't give it again; empty if it can, or if only what comes
    is to be counted."""

    dropped: Dropped
    seen: str
    out_of_reach: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants: count again from the log, or only units `from_now` on. `seen`: of the preview."""

    from_now: bool = False
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Recounting:
    """What recounts need. `open_log`: a consumer for one look, because a consumer belongs to one thread."""

    store: SumStore
    open_log: Callable[[], EventConsumer]
    partitions: int

    def preview(self, state: Experiment, from_now: bool, provenance: Provenance) -> Preview:
        """What would go; changes nothing. Raises IllegalTransition, UnavailableError."""
        dropped, seen = self._look(state, provenance.now_ms)
        commands.recount(state, 0, dropped, provenance)  # refuse before anyone confirms
        return Preview(dropped, seen, "" if from_now else self._out_of_reach(state))

    def order(
        self, state: Experiment, asked: Asked, provenance: Provenance
    ) -> Callable[[Experiment], Decision]:
        """The builder of the decision, for services.control.decide.decide; it looks at the sums once more.

        Raises BadInputError, RecountRefusedError, UnavailableError; so does the builder, and
        IllegalTransition.
        """
        _parts(asked.seen)  # a name that is none is said before anybody looks into a long log
        if not asked.from_now and (why := self._out_of_reach(state)):
            raise RecountRefusedError(f"{why}; only units from now on can be counted")

        def build(now: Experiment) -> Decision:
            dropped, seen = self._look(now, provenance.now_ms)
            _require_same(asked.seen, seen, dropped)
            from_ms = commands.recount_from(now, provenance.now_ms) if asked.from_now else 0
            return commands.recount(now, from_ms, dropped, provenance)

        return build

    def _look(self, state: Experiment, now_ms: int) -> tuple[Dropped, str]:
        with _nothing_changed():
            sums, dropped = _read(state, self.store, self.partitions)
        readable = dropped.unreadable is None
        which = f"{state.name}|{state.started_ms}|{state.counting.generation}|{readable}"
        short = hashlib.sha256(which.encode()).hexdigest()[:12]
        return dropped, f"{short}.{sum(sums.values())}.{now_ms // 1_000}"

    def _out_of_reach(self, state: Experiment) -> str:
        with _nothing_changed():
            consumer = self.open_log()
            try:
                missing = out_of_reach(state, consumer, self.partitions)
            finally:
                consumer.close()
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        return f"the log does not hold all since the start: {missing[0]}{more}" if missing else ""


def _read(state: Experiment, store: SumStore, partitions: int) -> tuple[Sums, Dropped]:
    """The sums (none if they can't be read), and what the record will say of them."""
    try:
        found, positions, _ = store.load_all(state.name, partitions, state.counting.generation)
    except ValueError as error:
        return {}, Dropped(unreadable=str(error))
    if wild := sorted(key for key, count in found.items() if abs(count) > MOST):
        return {}, Dropped(unreadable=f"sums: {wild[0]!r} is more than a record can hold")
    sums = dict(sorted(found.items()))
    canonical = json.dumps(sums, separators=(",", ":"))
    digest, stored = hashlib.sha256(canonical.encode()).hexdigest(), dict(positions)
    try:
        tally = Tally.parse(sums)
    except ValueError as error:
        return sums, Dropped(digest=digest, positions=stored, unreadable=str(error))
    return sums, Dropped(digest=digest, positions=stored, units=tally.units, arms=_arms(tally))


def _arms(tally: Tally) -> dict[str, dict[str, int]]:
    names = sorted({arm for _, arm, _ in tally.cells} | tally.accounts.keys())
    counts = {name: tally.arm(name) for name in names}
    return {name: {"n": c.n, "s": c.s, **tally.accounts.get(name, {})} for name, c in counts.items()}


def _require_same(asked: str, now: str, dropped: Dropped) -> None:
    """Raises RecountRefusedError with what is there now, unless that is what was looked at."""
    if why := _difference(_parts(asked), _parts(now)):
        there = dropped.unreadable or f"{dropped.units} units"
        told = f"sums {(dropped.digest or '')[:12]}: {there}"
        raise RecountRefusedError(f"{why}; nothing was changed. Look again at what would go now ({told})")


def _difference(asked: Seen, now: Seen) -> str:
    """Why these are not the sums that were looked at, plus what honest counting added; empty if they are."""
    (which, total, at_s), (which_now, total_now, now_s) = asked, now
    if which != which_now:
        return "the sums are not those that were looked at: counted anew since, or no longer as readable"
    if total_now < total:  # counting only ever adds
        return "less is there than was looked at"
    if now_s - at_s > SEEN_FOR_S:
        return f"the sums were looked at more than {SEEN_FOR_S // 60} minutes ago"
    return ""


def _parts(seen: str) -> Seen:
    try:
        which, total, at_s = seen.split(".")
        return which, int(total), int(at_s)
    except ValueError as error:
        raise BadInputError("seen", "not what a preview says; ask for one first") from error


def out_of_reach(state: Experiment, consumer: EventConsumer, partitions: int) -> list[str]:
    """Where the log begins after the experiment did, or was cut by a loss that somebody accepted: then a
    recount would not find all of its units."""
    found = [cause for cause in state.acknowledged if cause.startswith("partition ")]  # of a loss, by verdict
    for pair in [(topic, index) for topic in (EXPOSURES, EVENTS) for index in range(partitions)]:
        start, end = consumer.bounds(*pair)
        if start and not _held_from(state.started_ms, consumer, pair, (start, end)):
            found.append(f"{pair[0]}/{pair[1]} begins at offset {start}")
    return found


def _held_from(
    since_ms: int, consumer: EventConsumer, pair: tuple[str, int], bounds: tuple[int, int]
) -> bool:
    """Whether the first record there is was appended before `since_ms`; nothing is waited for in an empty
    log."""
    if bounds[0] >= bounds[1]:
        return False
    first_ms = first_append_ms(consumer, pair, bounds[0], FIRST_RECORD_S)
    return first_ms is not None and first_ms <= since_ms


def first_append_ms(consumer: EventConsumer, pair: tuple[str, int], start: int, wait_s: float) -> int | None:
    """Append time of the first record from offset `start` on, None if there is none within `wait_s`. Moves
    the consumer. Raises UnavailableError, also when retention moves on meanwhile."""
    consumer.assign({pair: start})
    try:
        records = consumer.poll(wait_s, 1)
    except DataLossError as error:
        raise UnavailableError("the beginning of the log", str(error)) from error
    return records[0].append_ms if records else None


@contextmanager
def _nothing_changed() -> Iterator[None]:
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError("what a recount needs", f"{error}; nothing was changed") from error
