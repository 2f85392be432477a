"""Redis forgets the pins under traffic: no unit is counted twice, and every unit keeps its arm."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from support.breakable import BreakablePinStore
from support.small_shop import SmallShop

from services.adapters.memory.event_log import MemoryEventConsumer
from services.bandit.attribution.pin_recovery import PinRecovery, pins_of
from services.errors import UnavailableError
from services.ports.event_log import Record

PARTITIONS = 4


class PinnedShop(SmallShop):
    """The application in memory, with a keeper of pins."""

    def __init__(self, home: Path, unit: str):
        super().__init__(home)
        self.race(0.5, unit=unit)
        self.pins = BreakablePinStore(self.reader)
        self.keeper = self.make_keeper(frozenset(range(PARTITIONS)))

    def make_keeper(self, owned: frozenset[int]) -> PinRecovery:
        consumer = MemoryEventConsumer(self.broker)
        return PinRecovery(
            self.pins, consumer, self.log, lambda: owned, PARTITIONS, lambda: self.now_ms, 2_000
        )

    def slates(self, call: Any, rng: random.Random, times: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(times):
            self.now_ms += 100
            found.append(call.slate(f"u{rng.randrange(12)}", f"s{rng.randrange(2)}", n=1))
        return found

    def keep(self) -> None:
        for _ in range(10):
            self.now_ms += 500
            if self.keeper.step():
                return
        raise AssertionError("pins are still missing")


@pytest.fixture(params=["session", "user_day"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> PinnedShop:
    return PinnedShop(tmp_path, request.param)


def counted(site: PinnedShop) -> dict[str, list[Any]]:
    """Exposures that count, by unit."""
    found = defaultdict(list)
    for shown in site.exposures():
        if shown.excluded is None:
            found[shown.unit].append(shown)
    return found


def test_every_unit_counts_once_and_keeps_its_arm(site):
    rng = random.Random(3)
    site.keep()
    with site.client() as call:
        for turn in range(5):
            site.slates(call, rng, 15)
            share = rng.uniform(0.2, 0.8)
            site.set_weights({"good": 1 - share, "other": share})  # a unit assigned anew would change its arm
            call.refresh()
            site.pins.lose_data()
            lost = site.slates(call, rng, 8)
            assert {answer["degraded"] for answer in lost} == {"no_pins"}
            assert {answer["arm"] for answer in lost} == {"good"}
            site.keep()
            assert {answer["degraded"] for answer in site.slates(call, rng, 8)} == {None}, turn
    for unit, shown in counted(site).items():
        assert sum(one.first for one in shown) <= 1, unit
        assert len({one.arm for one in shown}) == 1, unit
        assert len({one.propensity for one in shown}) == 1, unit
    left_out = [shown for shown in site.exposures() if shown.degraded == "no_pins"]
    assert {(shown.excluded, shown.first, shown.propensity) for shown in left_out} == {
        ("pin_unreachable", False, 0.0)
    }


def test_without_putting_pins_back_units_would_be_counted_twice(site):
    """What the keeper is for: the same story with somebody who vouches blindly."""
    rng = random.Random(3)
    with site.client() as call:
        site.slates(call, rng, 30)
        site.pins.lose_data()
        site.pins.mark_complete(["storefront"], 0)
        site.slates(call, rng, 30)
    assert any(sum(one.first for one in shown) > 1 for shown in counted(site).values())


def test_an_exposure_on_its_way_is_waited_for(site):
    site.keep()
    with site.client() as call:
        site.broker.stall()  # it is shown, and not in the log yet
        call.slate("late", "s", n=1)
        site.pins.lose_data()
        site.keeper.step()
        site.broker.release()
        site.keep()
        call.slate("late", "s", n=1)
    assert [shown.first for shown in site.exposures()] == [True, False]


def test_a_loss_logs_two_lines_for_all_partitions(site, caplog):
    with site.client() as call, caplog.at_level("INFO", "services.bandit.attribution.pin_recovery"):
        site.slates(call, random.Random(3), 30)
        site.keep()
        caplog.clear()
        site.pins.lose_data()
        site.keep()
        site.keep()
    units = len(counted(site))
    assert site.keeper.restored_pins == units
    ours = [line.getMessage() for line in caplog.records if line.name.startswith("services.")]
    assert ours == [
        f"pins of partitions 0-3 are complete; {units} were restored",
        "all pins are complete: units are counted again",
    ]


def test_a_second_loss_restarts_the_restoring_of_pins(site):
    site.keep()
    with site.client() as call:
        shown = call.slate("ada", "s", n=1)
        site.pins.lose_data()
        site.keeper.step()  # puts the pin back, and waits for what may be on its way
        site.pins.lose_data()
        site.keep()
        assert call.slate("ada", "s", n=1)["arm"] == shown["arm"]
    assert [shown.first for shown in site.exposures()] == [True, False]


def test_a_loss_between_look_and_word_is_not_vouched_for(site):
    site.keep()

    class Forgetful:
        def catch_up(self):
            site.pins.lose_data()
            return site.log.catch_up()

    site.keeper.decisions = Forgetful()
    assert not site.keeper.step()
    assert not site.reader.complete


def test_a_loss_without_broker_is_repaired_once_it_returns(site):
    site.keep()
    with site.client() as call:
        shown = call.slate("ada", "s", n=1)
        site.pins.lose_data()
        site.keep()  # the keeper's consumer now stands behind what it has to read again
        site.broker.down = True
        site.pins.lose_data()
        for _ in range(3):
            site.now_ms += 5_000
            with pytest.raises(UnavailableError):
                site.keeper.step()
        site.broker.down = False
        site.keep()
        assert call.slate("ada", "s", n=1)["arm"] == shown["arm"]
    assert [shown.first for shown in site.exposures()] == [True, False]


@pytest.mark.parametrize("fails", ["catch_up", "restore", "mark_restored"])
def test_what_was_read_before_a_failure_is_read_again(site, fails):
    site.keep()
    of = site.keeper.decisions if fails == "catch_up" else site.pins
    works = getattr(of, fails)

    def fail_once(*given):
        setattr(of, fails, works)
        raise UnavailableError("Redis or the broker", "a blip")

    with site.client() as call:
        shown = call.slate("ada", "s", n=1)
        site.pins.lose_data()
        site.now_ms += 5_000
        setattr(of, fails, fail_once)
        with pytest.raises(UnavailableError):
            site.keep()
        site.keep()
        assert call.slate("ada", "s", n=1)["arm"] == shown["arm"]
    assert [shown.first for shown in site.exposures()] == [True, False]


def test_pins_waiting_for_the_broker_get_the_margin(site):
    site.keep()
    site.pins.lose_data()
    site.keeper.step()
    site.now_ms += 60_000
    site.broker.down = True
    with pytest.raises(UnavailableError):
        site.keeper.step()
    site.broker.down = False
    site.now_ms += 1_000
    assert not site.keeper.step()
    assert site.pins.restored_partitions() == frozenset()
    site.keep()


def test_only_records_that_may_have_pins_are_read(site):
    site.keep()
    with site.client() as call:
        call.slate("long ago", "s", n=1)
        site.now_ms += 2 * 86_400_000
        shown = call.slate("ada", "s", n=1)
        site.pins.lose_data()
        read = []
        poll = site.keeper.consumer.poll
        site.keeper.consumer.poll = lambda *asked: read.extend(found := poll(*asked)) or found
        site.keep()
        assert {record.key for record in read} == {b"ada"}
        assert call.slate("ada", "s", n=1)["arm"] == shown["arm"]
    assert [shown.first for shown in site.exposures()] == [True, True, False]


def test_partitions_are_vouched_for_together(site):
    site.pins.lose_data()
    halves = [site.make_keeper(frozenset({0, 1})), site.make_keeper(frozenset({2, 3}))]
    for _ in range(10):
        site.now_ms += 500
        assert not halves[0].step()
    assert not site.reader.complete
    for _ in range(10):
        site.now_ms += 500
        halves[1].step()
    assert halves[0].step()
    assert site.reader.complete


def test_only_living_pins_of_known_experiments_are_put_back(site):
    with site.client() as call:
        call.slate("ada", "s", n=1)
    records = site.broker.records("exposures")
    states = site.log.catch_up()
    [(key, (pin, left_ms))] = pins_of(records, states, site.now_ms).items()
    assert site.reader.pins[key][0] == pin
    assert 0 < left_ms <= 86_400_000
    assert pins_of(records, states, site.now_ms + 86_400_000) == {}
    assert pins_of(records, {}, site.now_ms) == {}
    assert pins_of([Record("exposures", 0, 0, 0, None, b"\xff")], states, site.now_ms) == {}
