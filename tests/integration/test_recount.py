"""Recounts: drop sums that can't be trusted, and count again from the log, or from a time on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from support.counted_installation import CORRUPT_SUMS, LOOK_MS, PARTITIONS, CountedInstallation
from support.small_shop import KEYS, SmallShop
from support.traffic import EXPERIMENT, LATENESS_MS, RULES, WINDOW_MS
from typer.testing import CliRunner

from experiments.lifecycle import commands
from experiments.lifecycle.fold import apply, fold
from experiments.lifecycle.state import Experiment
from experiments.lifecycle.transitions import IllegalTransition
from services import bootstrap
from services.adapters.redis.sum_store import RedisSumStore
from services.bandit.attribution.worker import Worker
from services.cli.main import app
from services.control.decide import decide
from services.control.recount import RecountRequest
from services.errors import UnavailableError
from services.messages import events
from services.ports.state import Positions
from services.recommend.http_app import create_app

SETTLED_MS = WINDOW_MS + 3 * LATENESS_MS + 5_000


@pytest.fixture
def shop() -> CountedInstallation:
    return CountedInstallation()


def recounted(shop: CountedInstallation, from_now: bool = False) -> Experiment:
    """Recount as an operator does, after a preview."""
    seen = shop.recounting.preview(shop.state, from_now, shop.provenance()).seen
    order = shop.recounting.builder(shop.state, RecountRequest(from_now, seen), shop.provenance())
    return decide(shop.log, EXPERIMENT, order)


@pytest.mark.parametrize("what", CORRUPT_SUMS)
def test_poisoned_sums_hold_until_recounted_from_the_log(shop, what):
    shop.simulate_traffic()
    assert shop.look().kind == "allocate"
    shop.corrupt_sums(CORRUPT_SUMS[what])
    held = shop.look()
    assert (held.kind, held.rule) == ("hold", "broken-identity")
    assert shop.look() is None
    before = shop.state
    after = recounted(shop)
    assert (after.status, after.held_by, after.counting.generation) == ("running", "", 1)
    assert after.races == before.races  # the evidence is the same
    assert shop.look().kind == "allocate"
    assert shop.stored_sums() == shop.recounted_sums()
    shop.simulate_traffic(seed=9)
    shop.pass_time(SETTLED_MS)
    assert shop.stored_sums() == shop.recounted_sums()


def test_from_now_counts_only_units_after_the_recorded_time(shop):
    shop.simulate_traffic()
    shop.look()
    shop.corrupt_sums(CORRUPT_SUMS["a version that never was"])
    shop.look()
    before = shop.state
    state = recounted(shop, from_now=True)
    assert len(state.races) == len(before.races) == 1
    assert state.races[0].index == before.races[0].index + 1  # a restart does not refill the budget
    assert state.races[0].from_version == state.weights.version == before.weights.version + 1
    assert dict(state.weights.shares) == dict(before.weights.shares)
    shop.simulate_traffic(seed=9, units=600)  # begins before `from_ms`, ends after it
    shop.pass_time(SETTLED_MS)
    truth = shop.recounted_sums(state.counting.from_ms)
    assert shop.stored_sums() == truth
    units = sum(n for key, n in truth.items() if key.endswith("|n"))
    assert 100 < units < 500
    assert shop.worker.left_out["before_recount"] > 100
    assert shop.look().kind == "allocate"


def test_workers_that_join_or_leave_change_no_sum(shop):
    zombie = shop.new_worker()
    shop.simulate_traffic(3, 200, shop.worker, zombie)
    stale = shop.new_worker()
    stale.step(0)  # then it hangs
    state = recounted(shop, from_now=True)
    shop.simulate_traffic(9, 600, shop.worker)
    for worker in (stale, zombie, shop.new_worker()):
        for _ in range(3):
            shop.clock.now_ms += 1_000
            worker.step(0)
    shop.pass_time(SETTLED_MS)
    assert shop.stored_sums() == shop.recounted_sums(state.counting.from_ms)
    recounted(shop)
    shop.simulate_traffic(11, 100, zombie, shop.worker, stale)
    shop.worker = shop.new_worker()
    shop.pass_time(SETTLED_MS)
    assert shop.stored_sums() == shop.recounted_sums()


def test_until_every_partition_is_counted_anew_nothing_is_decided(shop):
    shop.simulate_traffic()
    assert shop.look().kind == "allocate"
    recounted(shop)
    shop.clock.now_ms += LOOK_MS
    [decision] = shop.decider.tick()  # no worker has seen it
    assert (decision.kind, decision.rule) == ("hold", "sums-behind")
    assert shop.look().kind == "allocate"


def test_what_was_dropped_is_in_the_record(shop):
    shop.simulate_traffic()
    shop.look()
    sums, positions, _ = shop.store.load_all(EXPERIMENT, PARTITIONS)
    recounted(shop)
    detail = shop.log.history(EXPERIMENT)[-1].detail
    canonical = json.dumps(dict(sorted(sums.items())), separators=(",", ":"))
    assert detail.dropped.digest == hashlib.sha256(canonical.encode()).hexdigest()
    assert detail.dropped.positions == positions
    units = sum(n for key, n in sums.items() if key.endswith("|n"))
    assert detail.dropped.units == units
    assert sum(arm["n"] for arm in detail.dropped.arms.values()) == units


def test_a_recount_too_soon_for_workers_is_illegal(shop):
    recounted(shop, from_now=True)
    assert fold(shop.log.history(EXPERIMENT)) == shop.state
    now = shop.provenance()
    for from_ms in (1, now.now_ms, now.now_ms + LATENESS_MS, float(now.now_ms * 2)):
        with pytest.raises(IllegalTransition, match=r"recount: (detail\.)?from_ms"):
            commands.recount(shop.state, from_ms, {}, now)
    paused = apply(shop.state, commands.pause(shop.state, now))
    assert apply(paused, commands.recount(paused, 0, {}, now)).status == "paused"


def test_a_truncated_log_is_a_loss_never_half_counted(shop):
    shop.simulate_traffic()
    shop.look()
    shop.corrupt_sums(CORRUPT_SUMS["a version that never was"])
    shop.look()
    recounted(shop)
    shop.broker.truncate(events.EXPOSURES, 0, 20)
    held = shop.look()
    assert (held.kind, held.rule) == ("hold", "data-loss")
    assert "does not hold what is to be counted again: exposures/0 begins at offset 20" in held.reason
    shop.log.append(commands.resume(shop.state, shop.provenance()))
    shop.pass_time(LOOK_MS)
    shop.decider.tick()
    shop.pass_time(1_000)
    assert shop.store.losses() == {}
    assert shop.store.load(0)[1] == {}  # partition 0 counts only later records
    assert shop.look().kind == "allocate"


@pytest.mark.parametrize("rubbish", ["abc", "1e3", "-", "9" * 19])
def test_invalid_sums_in_redis_stop_counting_and_double_nothing(
    rubbish: str, redis_server: Any, settings_for: Callable
) -> None:
    """Redis does not undo a script that fails half way: each retry would add the first counts again."""
    shop = CountedInstallation(RedisSumStore(settings_for(redis=redis_server, kafka_partitions=PARTITIONS)))
    shop.simulate_traffic()
    shop.look()
    field = "acct|popularity|exposed"
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as hand:
        assert hand.hset(f"{{bandit:0}}:sums:{EXPERIMENT}", field, rubbish) == 0
        before = hand.hgetall(f"{{bandit:0}}:sums:{EXPERIMENT}")
        shop.simulate_traffic(9, 300, Absent())
        others = shop.store.positions([1])[1]
        refused = []
        for _ in range(LOOK_MS // 1_000):
            shop.clock.now_ms += 1_000
            try:
                shop.worker.step(0)
            except UnavailableError as error:
                refused.append(str(error))
        assert len(refused) > 10
        assert all(f"{field}' holds '{rubbish}'" in reason for reason in refused)
        assert hand.hgetall(f"{{bandit:0}}:sums:{EXPERIMENT}") == before
        assert (
            shop.store.positions([1])[1].exposures > others.exposures + 100
        )  # the other partition is counted
    [held] = shop.decider.tick()
    assert (held.kind, held.rule) == ("hold", "broken-identity")
    assert f"{field}' holds '{rubbish}'" in held.reason
    recounted(shop)
    shop.pass_time(SETTLED_MS)
    assert shop.look().kind == "allocate"
    assert shop.stored_sums() == shop.recounted_sums()


class Absent(Worker):
    """A worker that reads nothing."""

    def __init__(self) -> None: ...

    def step(self, timeout_s: float) -> int:
        return 0


def test_the_command_previews_what_it_drops_before_doing_it(
    embedded_broker: Any, redis_server: Any, settings_for: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(embedded_broker, redis_server)
    for name in ("kafka_bootstrap", "kafka_mode", "kafka_partitions", "redis_url"):
        monkeypatch.setenv(f"RINGSIDE_{name.upper()}", str(getattr(settings, name)))
    log, store = bootstrap.decision_log(settings), bootstrap.sum_store(settings)
    champion = commands.Deployed("als", "als-1")
    log.append(commands.start("storefront", champion, RULES, "salt", commands.Provenance("anna", 1)))
    at = Positions("log", 7, 8, 7)
    store.apply(0, None, at, {"storefront": {"1|als|0|n": 41, "what|is": 1}})
    output = ringside("recount")
    assert "'what|is' is not" in output
    assert "add --yes to drop them" in output
    assert log.catch_up()["storefront"].revision == 1
    output = ringside("recount", "--from-now", "--reason", "Redis was edited by hand", "--yes")
    assert "Redis was edited by hand" in output
    state = log.catch_up()["storefront"]
    assert state.counting.generation == 1
    [_, record] = log.history("storefront")
    assert (record.kind, record.author[:6]) == ("recount", "shell:")
    assert state.counting.from_ms >= record.received_at + 1_000 * RULES.lateness_s
    store.apply(0, at, Positions("log", 7, 8, 7, (("storefront", 1),)), {}, ["storefront"])
    assert store.load(0)[1] == {"storefront": {}}
    assert store.load_all("storefront", 4, 1)[0] == {}


def test_over_http_only_the_previewed_sums_are_dropped(
    embedded_broker: Any, redis_server: Any, settings_for: Callable, tmp_path: Path
) -> None:
    settings = settings_for(embedded_broker, redis_server)
    front = SmallShop(tmp_path)
    front.log = bootstrap.decision_log(settings)
    front.start("good")
    store = bootstrap.sum_store(settings)
    store.apply(0, None, Positions("log", 7, 8, 7), {"storefront": {"1|good|0|n": 41, "what|is": 1}})
    deps = replace(front.deps(), recounting=bootstrap.recounting(settings))
    with TestClient(create_app(deps), headers={"X-API-Key": KEYS["admin"][0]}) as call:
        preview = call.post("/experiments/storefront/recount", json={}).json()
        assert "'what|is' is not" in preview["dropped"]["unreadable"]
        assert preview["out_of_reach"] is None
        done = call.post("/experiments/storefront/recount", json={"seen": preview["seen"]}).json()
        assert (done["done"], done["state"]["counting"]["generation"]) == (True, 1)
        assert done["dropped"]["digest"] == preview["dropped"]["digest"]
        redis_server.server.freeze()
        refused = call.post("/experiments/storefront/recount", json={})
    assert refused.status_code == 503
    assert "Redis at " in refused.json()["error"]["message"]
    assert front.log.history("storefront")[-1].revision == done["state"]["revision"]


def ringside(*words: str) -> str:
    env = {"COLUMNS": "200"}
    result = CliRunner().invoke(app, ["experiment", *words], env=env, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output
