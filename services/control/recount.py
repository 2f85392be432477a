"""Recounts: preview what a recount would drop, check that the log can give it again, build the decision.

The command line, the HTTP API and the console recount through here. A recount can't be taken back, so its
request names the sums that the operator has seen (`Preview.seen`). That name is not a digest, because workers
keep counting meanwhile. It stands for the previewed sums and all that correct counting has added since.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from experiments.counting.sums import ExperimentSums
from experiments.decision_rules import LOSS_PREFIX
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import MAX_INT, Decision, Dropped
from experiments.lifecycle.state import Experiment
from services.errors import BadInputError, DataLossError, RingsideError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer
from services.ports.state import Sums, SumStore

FIRST_RECORD_S = 5.0
PREVIEW_TTL_S = 900

# hash that identifies the sums, total of all counts, time of the preview (s)
PreviewName = tuple[str, int, int]


class RecountRefusedError(RingsideError):
    """A recount that would not do what was requested; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Preview:
    """The sums that a recount would drop. `seen`: their name in a request; `out_of_reach`: why the log can't
    give them again; empty if it can, or if only new units are to be counted."""

    dropped: Dropped
    seen: str
    out_of_reach: str


@dataclass(frozen=True, slots=True)
class RecountRequest:
    """Count again from the log, or only units `from_now` on. `seen`: of the preview."""

    from_now: bool = False
    seen: str = ""


@dataclass(frozen=True, slots=True)
class RecountService:
    """Previews and builds recounts. `open_log` gives a consumer for one call, because a consumer belongs to
    one thread."""

    store: SumStore
    open_log: Callable[[], EventConsumer]
    partitions: int

    def preview(self, state: Experiment, from_now: bool, provenance: Provenance) -> Preview:
        """The sums that would be dropped; changes nothing. Raises IllegalTransition, UnavailableError."""
        dropped, seen = self._current_sums(state, provenance.now_ms)
        commands.recount(state, 0, dropped, provenance)  # refuse before anyone confirms
        return Preview(dropped, seen, "" if from_now else self._out_of_reach(state))

    def builder(
        self, state: Experiment, request: RecountRequest, provenance: Provenance
    ) -> Callable[[Experiment], Decision]:
        """The builder of the decision, for services.control.decide.decide; it reads the sums again.

        Raises BadInputError, RecountRefusedError, UnavailableError; so does the builder, and
        IllegalTransition.
        """
        _parse_preview_name(request.seen)  # first: a search of a long log takes seconds
        if not request.from_now and (why := self._out_of_reach(state)):
            raise RecountRefusedError(f"{why}; only units from now on can be counted")

        def build(now: Experiment) -> Decision:
            dropped, seen = self._current_sums(now, provenance.now_ms)
            _require_same(request.seen, seen, dropped)
            from_ms = commands.recount_from(now, provenance.now_ms) if request.from_now else 0
            return commands.recount(now, from_ms, dropped, provenance)

        return build

    def _current_sums(self, state: Experiment, now_ms: int) -> tuple[Dropped, str]:
        """The sums as they are, and their name."""
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
        stored, positions, _ = store.load_all(state.name, partitions, state.counting.generation)
    except ValueError as error:
        return {}, Dropped(unreadable=str(error))
    if wild := sorted(key for key, count in stored.items() if abs(count) > MAX_INT):
        return {}, Dropped(unreadable=f"sums: {wild[0]!r} is more than a record can hold")
    sums = dict(sorted(stored.items()))
    canonical = json.dumps(sums, separators=(",", ":"))
    digest, positions = hashlib.sha256(canonical.encode()).hexdigest(), dict(positions)
    try:
        parsed = ExperimentSums.parse(sums)
    except ValueError as error:
        return sums, Dropped(digest=digest, positions=positions, unreadable=str(error))
    return sums, Dropped(digest=digest, positions=positions, units=parsed.units, arms=_arms(parsed))


def _arms(parsed: ExperimentSums) -> dict[str, dict[str, int]]:
    names = sorted({arm for _, arm, _ in parsed.cells} | parsed.accounts.keys())
    counts = {name: parsed.arm(name) for name in names}
    return {name: {"n": c.n, "s": c.s, **parsed.accounts.get(name, {})} for name, c in counts.items()}


def _require_same(seen: str, now: str, dropped: Dropped) -> None:
    """Raise RecountRefusedError, with the sums as they are, unless they are those of the preview."""
    if why := _difference(_parse_preview_name(seen), _parse_preview_name(now)):
        content = dropped.unreadable or f"{dropped.units} units"
        present = f"sums {(dropped.digest or '')[:12]}: {content}"
        raise RecountRefusedError(
            f"{why}; nothing was changed. Request a new preview of what would be dropped ({present})"
        )


def _difference(seen: PreviewName, now: PreviewName) -> str:
    """Why these are not the sums of the preview plus what correct counting added; empty if they are."""
    (which, total, at_s), (which_now, total_now, now_s) = seen, now
    if which != which_now:
        return "the sums are not those of the preview: recounted since, or no longer as readable"
    if total_now < total:  # counting only ever adds
        return "the sums are smaller than those of the preview"
    if now_s - at_s > PREVIEW_TTL_S:
        return f"the preview is older than {PREVIEW_TTL_S // 60} minutes"
    return ""


def _parse_preview_name(seen: str) -> PreviewName:
    try:
        which, total, at_s = seen.split(".")
        return which, int(total), int(at_s)
    except ValueError as error:
        raise BadInputError(
            "seen", "is not the name of a preview; request a preview first and send its `seen`"
        ) from error


def out_of_reach(state: Experiment, consumer: EventConsumer, partitions: int) -> list[str]:
    """Why a recount would not find all units of the experiment: partitions whose log begins after it did, and
    losses that were accepted."""
    missing = [cause for cause in state.acknowledged if cause.startswith(LOSS_PREFIX)]
    for pair in [(topic, index) for topic in (EXPOSURES, EVENTS) for index in range(partitions)]:
        start, end = consumer.bounds(*pair)
        if start and not _log_holds_since(state.started_ms, consumer, pair, (start, end)):
            missing.append(f"{pair[0]}/{pair[1]} begins at offset {start}")
    return missing


def _log_holds_since(
    since_ms: int, consumer: EventConsumer, pair: tuple[str, int], bounds: tuple[int, int]
) -> bool:
    """Whether the first record of a partition was appended before `since_ms`; False for an empty one."""
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
    """Say in an UnavailableError that nothing was changed."""
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError("what a recount needs", f"{error}; nothing was changed") from error
