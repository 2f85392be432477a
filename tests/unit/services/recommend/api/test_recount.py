"""/experiments/…/recount: poisoned sums are dropped by who has looked at them, while workers count on."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.counted_installation import CORRUPT_SUMS, CountedInstallation
from support.small_shop import Caller, SmallShop
from support.traffic import EXPERIMENT, LATENESS_MS, WINDOW_MS

from experiments.lifecycle import commands
from services.control.recount import PREVIEW_TTL_S
from services.errors import StalePositionError
from services.messages import events

PATH = f"/experiments/{EXPERIMENT}/recount"
SETTLED_MS = WINDOW_MS + 3 * LATENESS_MS + 5_000


class RecountApi(CountedInstallation):
    """A shop whose workers count, and the HTTP service over the same ports."""

    call: Caller

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.front = SmallShop(home)
        self.front.broker, self.front.log = self.broker, self.log
        self.front.cache, self.front.store = self.cache, self.store

    def ask(self, role: str = "admin", **said: Any) -> Any:
        self.front.now_ms = self.clock.now_ms
        return self.call.post(PATH, said, role)

    def seen(self, **said: Any) -> str:
        answer = self.ask(**said)
        assert answer.status_code == 200, answer.text
        return answer.json()["seen"]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[RecountApi]:
    shop = RecountApi(tmp_path)
    shop.simulate_traffic()
    with shop.front.client() as shop.call:
        yield shop


@pytest.mark.parametrize("what", CORRUPT_SUMS)
def test_poisoned_sums_hold_until_an_admin_recounts_what_was_seen(shop: RecountApi, what: str) -> None:
    assert shop.look().kind == "allocate"
    shop.corrupt_sums(CORRUPT_SUMS[what])
    held = shop.look()
    assert (held.kind, held.rule) == ("hold", "broken-identity")
    looked = shop.ask()
    assert looked.json()["done"] is False
    assert looked.json()["state"]["status"] == "held"
    shop.simulate_traffic(seed=5, units=200)  # shoppers come and workers count while a person reads
    shop.pass_time(SETTLED_MS)
    done = shop.ask(seen=looked.json()["seen"], reason="a script wrote into Redis")
    assert done.status_code == 200, done.text
    assert done.json()["state"]["status"] == "running"
    record = shop.log.history(EXPERIMENT)[-1]
    assert (record.kind, record.reason) == ("recount", "a script wrote into Redis")
    assert record.author.startswith("admin:")
    assert json.loads(bytes(record.detail_json))["dropped"] == done.json()["dropped"]
    assert shop.look().kind == "allocate"
    shop.pass_time(SETTLED_MS)
    assert shop.stored_sums() == shop.recounted_sums()
    assert shop.state.status == "running"


def test_a_preview_says_what_would_go_and_changes_nothing(shop: RecountApi) -> None:
    before, counted = shop.state, shop.stored_sums()
    told = shop.ask(reason="only looking").json()
    units = sum(n for key, n in counted.items() if key.endswith("|n"))
    assert (told["done"], told["dropped"]["units"], told["out_of_reach"]) == (False, units, None)
    arms = told["dropped"]["arms"]
    assert sum(arm["n"] for arm in arms.values()) == units
    assert sum(arm["s"] for arm in arms.values()) == sum(
        n for key, n in counted.items() if key.endswith("|s")
    )
    assert set(arms) == {"popularity", "als"}
    assert (shop.state, shop.stored_sums()) == (before, counted)


def test_from_now_on_only_units_that_come_count(shop: RecountApi) -> None:
    shop.look()
    done = shop.ask(from_now=True, seen=shop.seen(from_now=True))
    counting = shop.state.counting
    assert done.json()["state"]["counting"] == {"generation": 1, "from_ms": counting.from_ms}
    assert counting.from_ms > shop.clock.now_ms
    shop.simulate_traffic(seed=9, units=600)
    shop.pass_time(SETTLED_MS)
    assert shop.stored_sums() == shop.recounted_sums(counting.from_ms)


# ---- nobody drops what they have not seen ------------------------------------------------------------------


def counted_anew(shop: RecountApi) -> None:
    shop.log.append(commands.recount(shop.state, 0, {}, shop.provenance()))


def mended_by_hand(shop: RecountApi) -> None:
    shop.corrupt_sums({"1|als|472222|s": -5_000})


def emptied(shop: RecountApi) -> None:
    shop.store.lose_data()


def unreadable(shop: RecountApi) -> None:
    shop.corrupt_sums({"what|is|this": 1})


def long_ago(shop: RecountApi) -> None:
    shop.clock.now_ms += 1_000 * PREVIEW_TTL_S + 1_000


@pytest.mark.parametrize("happened", [counted_anew, mended_by_hand, emptied, unreadable, long_ago])
def test_sums_that_are_not_those_that_were_seen_stay(shop: RecountApi, happened: Any) -> None:
    shop.corrupt_sums({"1|als|472222|s": 5_000})
    seen = shop.seen()
    happened(shop)
    before, counted = shop.state, shop.store.load(0)
    refused = shop.ask(seen=seen)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    digest = shop.ask().json()["dropped"]["digest"]
    assert digest[:12] in refused.json()["error"]["message"]  # what is there now
    assert (shop.state, shop.store.load(0)) == (before, counted)
    assert shop.ask(seen=shop.seen()).status_code == 200  # who looks again may


@pytest.mark.parametrize("seen", ["", "yes", "a.b.c", "a.1", "a.1.2.3", "x" * 201, 5, {}])
def test_a_name_that_no_preview_gave_is_refused_by_name(shop: RecountApi, seen: Any) -> None:
    before = shop.state
    refused = shop.ask(seen=seen)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "seen")
    assert shop.state == before


def test_of_two_who_looked_at_once_one_recounts(shop: RecountApi) -> None:
    append, seen = shop.log.append, shop.seen()

    def overtaken(decision: Any) -> Any:
        shop.log.append = append
        counted_anew(shop)
        raise StalePositionError("somebody was faster")

    shop.log.append = overtaken
    assert shop.ask(seen=seen).status_code == 409
    assert shop.state.counting.generation == 1


# ---- what is missing is named ------------------------------------------------------------------------------


def test_a_cut_log_can_only_be_counted_from_now(shop: RecountApi) -> None:
    shop.broker.truncate(events.EXPOSURES, 0, 20)
    before, told = shop.state, shop.ask().json()
    assert "exposures/0 begins at offset 20" in told["out_of_reach"]
    refused = shop.ask(seen=told["seen"])
    assert refused.status_code == 409
    assert "exposures/0 begins at offset 20; only units from now on" in refused.json()["error"]["message"]
    assert shop.state == before
    assert shop.ask(from_now=True).json()["out_of_reach"] is None
    assert shop.ask(from_now=True, seen=told["seen"]).status_code == 200


def test_an_accepted_loss_puts_the_log_out_of_reach(shop: RecountApi) -> None:
    lost = "partition 1: exposures/1 lost offsets 3 to 7"
    shop.log.append(
        commands.resume(
            shop.log.append(commands.hold(shop.state, [lost], shop.provenance())), shop.provenance()
        )
    )
    assert lost in shop.ask().json()["out_of_reach"]


def test_without_redis_nothing_is_changed_and_it_is_named(shop: RecountApi) -> None:
    before, seen = shop.state, shop.seen()
    shop.store.down = True
    for said in ({}, {"seen": seen}, {"seen": seen, "from_now": True}):
        refused = shop.ask(**said)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "Redis is unavailable" in refused.json()["error"]["message"]
        assert "nothing was changed" in refused.json()["error"]["message"]
    shop.store.down = False
    assert shop.state == before
    assert shop.ask(seen=seen).status_code == 200


def test_without_a_broker_only_what_comes_can_be_counted(shop: RecountApi) -> None:
    seen = shop.seen()
    shop.broker.down = True
    refused = shop.ask(seen=seen)
    assert refused.status_code == 503
    assert "broker is unavailable" in refused.json()["error"]["message"]
    assert shop.ask(from_now=True, seen=seen).status_code == 200
    shop.log.down = True
    refused = shop.ask(from_now=True, seen=seen)
    assert refused.status_code == 503
    assert "the decision log is unavailable" in refused.json()["error"]["message"]


def test_sums_the_store_cannot_read_can_be_dropped(shop: RecountApi) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("'many' is not a number")

    shop.store.load_all = broken  # type: ignore[method-assign]
    told = shop.ask().json()
    assert told["dropped"] == {"unreadable": "'many' is not a number"}
    assert shop.ask(seen=told["seen"]).status_code == 200
    assert shop.state.counting.generation == 1


def test_counts_that_no_record_can_hold_can_be_dropped(shop: RecountApi) -> None:
    shop.corrupt_sums({"1|als|472222|n": 10**30})
    told = shop.ask().json()
    assert "'1|als|472222|n' is more than a record can hold" in told["dropped"]["unreadable"]
    assert shop.ask(seen=told["seen"]).status_code == 200
    shop.pass_time(SETTLED_MS)
    assert shop.stored_sums() == shop.recounted_sums()


def test_invalid_requests_are_refused_before_the_preview(shop: RecountApi) -> None:
    assert shop.call.post("/experiments/nope/recount", {}, "admin").status_code == 404
    shop.log.append(commands.end(shop.state, shop.provenance()))
    refused = shop.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "illegal_transition")


def test_looking_never_holds_up_the_event_loop(shop: RecountApi) -> None:
    seen_by, load_all = set(), shop.store.load_all

    def watched(*of: Any) -> Any:
        seen_by.add(threading.current_thread().name.rpartition("_")[0])
        return load_all(*of)

    shop.store.load_all = watched  # type: ignore[method-assign]
    assert shop.ask(seen=shop.seen()).status_code == 200
    assert seen_by == {"recounts", "decisions"}
