"""The join equals a naive batch reference for any batching, interleaving, crash, duplicate and log order."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.counting.attribution_join import Batch, Join, Offsets, event_fate, settling_time_ms
from experiments.counting.audit import PartitionAudit
from experiments.counting.sums import ExperimentSums, merge
from experiments.lifecycle.state import Rules

RULES = {
    "a": Rules(window_s=0.050, lateness_s=0.010),
    "b": Rules(window_s=0.020, lateness_s=0.030, outcome="purchase"),
}
END = 10_000


@dataclass(frozen=True)
class Logged:
    """One record of a topic: offsets have gaps, `append_ms` is the broker's."""

    offset: int
    append_ms: int
    message: SimpleNamespace


def exposure(unit, received_at, *, by=None, version=1, **other):
    told = {"experiment": "a", "arm": "x", "first": True, "excluded": None} | other
    told |= {"unit": unit, "received_at": received_at, "weights_version": version}
    return SimpleNamespace(answered_by=by or told["arm"], **told)


def event(unit, unit_at, received_at, event_id="e", *, experiment="a", arm="x", kind="click", version=1):
    to = SimpleNamespace(experiment=experiment, unit=unit, unit_at=unit_at, arm=arm, weights_version=version)
    return SimpleNamespace(event_id=event_id, type=kind, received_at=received_at, attribution=to)


def reference(exposures: list[Logged], events: list[Logged]) -> dict[str, dict[str, int]]:
    """What the whole log says, read at leisure: shares nothing with `Join` but the rules."""
    sums: dict[str, Counter] = defaultdict(Counter)
    units = reference_units(exposures, sums)
    clicked = reference_events(events, units, sums)
    for key, e in units.items():
        cell = f"{e.weights_version}|{e.arm}|{e.received_at // 3_600_000}"
        sums[e.experiment].update(
            {
                f"{cell}|n": 1,
                f"{cell}|s": key in clicked,
                f"{cell}|c": key in clicked,
                f"{cell}|f": e.arm != e.answered_by,
            }
        )
    return {name: {key: n for key, n in found.items() if n} for name, found in sums.items()}


def reference_units(exposures, sums):
    units = {}
    for e, append_ms in ((r.message, r.append_ms) for r in exposures if r.message.experiment in RULES):
        if e.first and not e.excluded:
            sums[e.experiment][f"acct|{e.arm}|exposed"] += 1
            if abs(append_ms - e.received_at) <= 1000 * RULES[e.experiment].lateness_s:
                key = (e.experiment, e.unit, e.received_at)
                sums[e.experiment][f"acct|{e.arm}|duplicate_exposures"] += key in units
                units.setdefault(key, e)
            else:
                sums[e.experiment][f"acct|{e.arm}|late_exposures"] += 1
    return units


def reference_events(events, units, sums):
    seen = set()
    for e, append_ms in ((r.message, r.append_ms) for r in events):
        to, rules = e.attribution, RULES.get(e.attribution.experiment)
        if rules and e.type == rules.outcome:
            key = (to.experiment, to.unit, to.unit_at)
            category = reference_category(
                e, append_ms - to.unit_at, rules, key in units, (key, e.event_id) in seen
            )
            seen |= {(key, e.event_id)} if category == "counted" else set()
            sums[to.experiment].update([f"acct|{to.arm}|acknowledged", f"acct|{to.arm}|{category}"])
    return {key for key, _ in seen}


def reference_category(e, appended, rules, matched, known):
    age, window, late = e.received_at - e.attribution.unit_at, 1000 * rules.window_s, 1000 * rules.lateness_s
    if age < 0 or appended < -late:
        return "unmatched"
    if age > window or appended > window + late:
        return "late"
    return ("duplicate" if known else "counted") if matched else "unmatched"


class Store:
    """Positions and sums that change together or not at all."""

    def __init__(self):
        self.offsets, self.sums = Offsets(), {}

    def apply(self, batch: Batch) -> None:
        assert batch.fetched_from == self.offsets
        self.offsets = batch.moved_to
        for name, deltas in batch.deltas.items():
            self.sums[name] = merge((self.sums.get(name, {}), deltas))

    def count_below(self, booked) -> None:
        for name, deltas in booked.items():
            self.sums[name] = merge((self.sums.get(name, {}), deltas))


class Worker:
    """Feeds a join as far as a script says; may crash between any two steps, before or after storing."""

    def __init__(self, exposures, events):
        self.topics = {"exposures": exposures, "events": events}
        self.store = Store()
        self.crash()

    def crash(self):
        at = self.store.offsets
        self.join, self.account = Join(RULES, at), PartitionAudit(RULES, at)
        start = {"exposures": at.rebuild, "events": at.events}
        self.left = {t: [r for r in log if r.offset >= start[t]] for t, log in self.topics.items()}

    def feed(self, topic, n):
        batch, self.left[topic] = self.left[topic][:n], self.left[topic][n:]
        fed = [(r.offset, r.append_ms, r.message) for r in batch]
        (self.account.note_exposures if topic == "exposures" else self.account.note_events)(fed)
        (self.join.feed_exposures if topic == "exposures" else self.join.feed_events)(fed)

    def advance(self, *, store=True, behind=0):
        watermark = min((r.append_ms for left in self.left.values() for r in left), default=END)
        batch = self.join.advance(watermark - behind)
        if store:
            self.store.apply(batch)
            self.store.count_below(self.account.count_below(batch.moved_to))
        else:
            self.crash()

    def finish(self):
        self.feed("exposures", 10**6)
        self.feed("events", 10**6)
        self.advance()
        return {name: {key: n for key, n in sums.items() if n} for name, sums in self.store.sums.items()}


def shopping(random: Random, n: int):
    """`n` units and events around the window's edges, as (append_ms, topic, message): copies
    included; some exposures are lost, some too late, some not units."""
    found = []
    for _ in range(n):
        experiment, unit, at = (
            random.choice("aaaab?"),
            f"u{random.randrange(6)}",
            random.randrange(1_000, 1_000 + 4 * n),
        )
        arm, by = "xy"[at % 2], "xyy"[at % 3]  # a unit has one arm: copies are true copies
        shown = exposure(
            unit, at, experiment=experiment, arm=arm, by=by, version=1 + at // 1_100,
            first=random.random() < 0.8, excluded="bot" if random.random() < 0.1 else None,
        )  # fmt: skip
        for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
            found.append((at + random.choice([0, 1, 2, 5, 9, 10, 11, -10, -11, 40]), "exposures", shown))
        for _ in range(random.choice([0, 0, 1, 2, 3])):
            clicked, kind = (
                at + random.choice([-1, 0, 5, 20, 21, 48, 50, 51]),
                random.choice(["click", "purchase"]),
            )
            done = event(
                unit, at, clicked, random.choice("pqr"), experiment=experiment, arm=arm, kind=kind,
                version=1 + at // 1_100,
            )  # fmt: skip
            for _ in range(random.choice([1, 1, 1, 2, 3])):
                found.append((clicked + random.choice([0, 1, 2, 5, 9, 10, 11, 31, -9, -61]), "events", done))
    return found


def as_appended(records, random: Random, disorder_ms: int):
    """Log order: by append time, disturbed by up to `disorder_ms`."""
    return sorted(records, key=lambda record: record[0] + random.uniform(0, disorder_ms))


def as_logs(records, gaps=1):
    """Number the records of each topic in the given order."""
    logs = {"exposures": [], "events": []}
    for append_ms, topic, message in records:
        log = logs[topic]
        log.append(Logged(offset=len(log) * gaps, append_ms=append_ms, message=message))
    return logs["exposures"], logs["events"]


def play(worker, random: Random, steps: int = 40):
    """Feed both topics at their own pace, store as we go, and crash now and then, before or after storing."""
    for _ in range(steps):
        worker.feed("exposures", random.randrange(5))
        worker.feed("events", random.randrange(6))
        worker.advance(store=random.random() < 0.9, behind=random.choice([0, 0, 0, 5]))
        if random.random() < 0.15:
            worker.crash()
        yield worker.store.offsets


def sums_after(worker, random: Random):
    for _ in play(worker, random):
        pass
    return worker.finish()


seeds = st.integers(0, 2**32 - 1).map(Random)
sizes = st.integers(1, 30)
disorders = st.sampled_from([0, 0, 8, 1_000])


@settings(max_examples=1_000, deadline=None)
@given(seeds, sizes, disorders, st.integers(1, 3))
def test_any_schedule_any_crash_any_order_gives_the_reference(random, n, disorder_ms, gaps):
    exposures, events = as_logs(as_appended(shopping(random, n), random, disorder_ms), gaps)
    worker = Worker(exposures, events)
    found = sums_after(worker, random)
    assert found == reference(exposures, events)
    assert worker.join.overtaken == 0
    assert not any(broken(sums) for sums in found.values())


def broken(sums):
    """Whether any of the three identities is broken once everything has matured."""
    parsed = ExperimentSums.parse(sums)
    return (
        parsed.gaps() or parsed.exposure_gaps() or parsed.impossible() or parsed.uncredited(before_hour=10**6)
    )


@settings(max_examples=300, deadline=None)
@given(seeds, sizes)
def test_all_identities_close_and_old_units_are_credited(random, n):
    worker = Worker(*as_logs(as_appended(shopping(random, n), random, 0)))
    for _ in play(worker, random):
        for name, sums in worker.store.sums.items():
            parsed = ExperimentSums.parse(sums)
            assert (parsed.gaps(), parsed.exposure_gaps()) == ({}, {})
            assert (parsed.impossible(), parsed.overcredited()) == ([], [])
            for key in (unit.key for unit in worker.join._popped if unit.key[0] == name):
                settled = key[2] + settling_time_ms(RULES[name]) < worker.join.watermark_ms
                assert not (settled and key in worker.join._live)


@settings(max_examples=100, deadline=None)
@given(seeds, sizes)
def test_the_order_of_the_log_changes_no_sum(random, n):
    records = shopping(random, n)
    one, other = (Worker(*as_logs(as_appended(records, random, 1_000))) for _ in range(2))
    assert one.finish() == other.finish()


@settings(max_examples=100, deadline=None)
@given(seeds, sizes)
def test_more_copies_change_only_acknowledged_duplicates(random, n):
    records = shopping(random, n)
    once, twice = (
        Worker(*as_logs(log)).finish() for log in (records, [r for r in records for _ in range(2)])
    )
    settled = {
        name: [k for k in sums if "acct" not in k or k.endswith("counted")] for name, sums in once.items()
    }
    assert all(twice[name][key] == once[name][key] for name, keys in settled.items() for key in keys)


@settings(max_examples=100, deadline=None)
@given(seeds, sizes)
def test_partitions_of_the_log_add_up(random, n):
    records = shopping(random, n)

    def part(record):
        return int((record[2] if record[1] == "exposures" else record[2].attribution).unit[1]) % 2

    parts = [sums_after(Worker(*as_logs([r for r in records if part(r) == p])), random) for p in (0, 1)]
    whole = Worker(*as_logs(records)).finish()
    assert {name: merge(found.get(name, {}) for found in parts) for name in whole} == whole


@settings(max_examples=100, deadline=None)
@given(seeds, sizes)
def test_positions_never_go_back(random, n):
    seen = Offsets()
    for now in play(Worker(*as_logs(as_appended(shopping(random, n), random, 8))), random):
        assert now.exposures >= seen.exposures
        assert now.events >= seen.events
        assert seen.rebuild <= now.rebuild <= now.exposures
        seen = now


def test_a_unit_matures_only_after_window_and_lateness():
    join = Join(RULES)
    join.feed_exposures([(0, 101, exposure("u", 100))])
    assert join.advance(160).empty
    assert join.advance(161).deltas == {"a": {"1|x|0|n": 1}}


def test_events_wait_for_their_unit_and_hold_positions_back():
    join = Join(RULES)
    join.feed_exposures([(7, 100, exposure("u", 100, by="y")), (9, 150, exposure("v", 150))], next_offset=12)
    join.feed_events(
        [(3, 120, event("u", 100, 120)), (4, 155, event("v", 150, 155)), (5, 156, event("u", 100, 120))]
    )
    batch = join.advance(161)
    assert batch.deltas["a"] == {
        "1|x|0|n": 1, "1|x|0|s": 1, "1|x|0|f": 1, "acct|x|duplicate": 1,
    }  # fmt: skip
    assert batch.moved_to == Offsets(exposures=9, events=4, rebuild=7)  # u is needed by the event at 5
    batch = join.advance(211)
    assert batch.deltas["a"]["acct|x|counted"] == 2
    assert batch.moved_to == Offsets(exposures=12, events=6, rebuild=12)


@pytest.mark.parametrize(
    ("age", "appended", "fate"),
    [
        (0, 0, None),
        (50, 60, None),
        (51, 51, "late"),
        (50, 61, "late"),
        (-1, 5, "unmatched"),
        (5, -11, "unmatched"),
    ],
)
def test_what_an_event_says_about_itself(age, appended, fate):
    assert event_fate(age, appended, 50, 10) == fate


def test_offsets_fed_out_of_order_are_refused():
    join = Join(RULES, Offsets(5, 5, 5))
    with pytest.raises(ValueError, match="events: offset 4 fed after 4"):
        join.feed_events([(4, 1, event("u", 0, 0))])


def test_a_record_that_the_watermark_promised_is_reported():
    join = Join(RULES)
    join.advance(1_000)
    join.feed_exposures([(0, 999, exposure("u", 999))])
    assert join.overtaken == 1


def test_memory_is_bounded_by_the_traffic_of_window_and_lateness():
    join, largest = Join(RULES), 0
    for now in range(1_000, 6_000):
        join.feed_exposures([(now, now, exposure(f"u{now}", now))])
        join.feed_events([(now, now, event(f"u{now - 7}", now - 7, now))])
        join.advance(now)
        held = (
            len(join._exposures)
            + len(join._popped)
            + len(join._events)
            + len(join._live)
            + len(join._last_copy)
        )
        largest = max(largest, held)
    assert largest <= 4 * 2 * (50 + 2 * 10)
