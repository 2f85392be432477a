"""Ports measured: the wrappers count what happens, hide nothing of the port, and change nothing of it."""

import json
import socket
from collections import Counter
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from support.breakable import (
    BreakableActivityStore,
    BreakableBroker,
    BreakableDecisionLog,
    BreakableStateCache,
    BreakableSumStore,
)
from support.decisions import evidence_of
from support.scraping import parse_samples, registry_samples, sample_value
from support.small_shop import SmallShop, manifest

from experiments.lifecycle import commands
from services import bootstrap
from services.activity.metrics import ActivityMetrics
from services.activity.worker import ActivityCounts
from services.adapters.instrumented import decision_log, event_log, stores
from services.adapters.instrumented.meters import Meters
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer
from services.bandit.attribution.metrics import AttributionMetrics
from services.errors import ArtifactError, BadMessageError, StalePositionError, UnavailableError
from services.features.metrics import FeaturesMetrics, Materialized
from services.messages.events import DEAD_LETTERS, EVENTS, Event, decode
from services.ports.event_log import Record
from services.ports.state import Positions
from services.recommend.metrics import Metrics
from services.runtime.dead_letters import DeadLetterWriter
from services.runtime.metrics_endpoint import Endpoint
from services.settings import Settings
from services.training.metrics import TrainingMetrics
from services.training.offline_gate import GateResult
from services.training.pipeline import TrainingResult
from tests.observability.test_dashboard import RULES, metrics_in

WRAPPED = [
    event_log.MeteredConsumer,
    event_log.MeteredProducer,
    decision_log.MeteredDecisionLog,
    stores.MeteredSumStore,
    stores.MeteredActivityStore,
    stores.MeteredLakeFiles,
]


@pytest.fixture
def meters(tmp_path: Path) -> Meters:
    return Meters(Settings(home=tmp_path), "test", "r1")


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_is_not_measured_goes_to_the_port_itself(wrapper: type, meters: Meters) -> None:
    class Inner:
        def answers(self, number: int) -> int:
            return number + 1

    assert wrapper(Inner(), meters.registry).answers(1) == 2


def test_reading_is_counted_and_lag_is_what_is_left(meters: Meters, memory_broker: BreakableBroker) -> None:
    for number in range(10):
        memory_broker.append(EVENTS, None, b"%d" % number)
    consumer = meters.consumer(MemoryEventConsumer(memory_broker))  # type: ignore[arg-type]
    consumer.assign({(EVENTS, 0): 0})
    assert sample_value(registry_samples(meters.registry), "ringside_records_read_total", topic=EVENTS) == 0
    assert len(consumer.poll(0, 4)) == 4
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_records_read_total", topic=EVENTS) == 4
    assert sample_value(found, "ringside_consumer_lag_records", topic=EVENTS) == 6
    assert sample_value(found, "ringside_partitions", topic=EVENTS) == 1
    consumer.assign({})
    assert sample_value(registry_samples(meters.registry), "ringside_consumer_lag_records", topic=EVENTS) == 0


def test_sending_is_counted_by_what_the_broker_said(meters: Meters, memory_broker: BreakableBroker) -> None:
    producer = meters.producer(MemoryEventProducer(memory_broker))
    producer.send(EVENTS, "ada", b"1")
    memory_broker.down = True
    producer.send(EVENTS, "ada", b"2")
    memory_broker.down = False
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_records_sent_total", topic=EVENTS, result="acknowledged") == 1
    assert sample_value(found, "ringside_records_sent_total", topic=EVENTS, result="failed") == 1


def test_dead_letters_are_counted_by_origin_and_kind_of_reason(
    meters: Meters, memory_broker: BreakableBroker
) -> None:
    producer = meters.producer(MemoryEventProducer(memory_broker))
    letters = DeadLetterWriter(producer, "bandit")
    for offset, raw in enumerate((b"{", b'{"v": 9}', b"[]")):
        with pytest.raises(BadMessageError) as bad:
            decode(Event, raw)
        letters.dead_letter(Record(EVENTS, 3, offset, 1, None, raw), bad.value)
    producer.send(DEAD_LETTERS, None, b"", [("replayed", b"17")])
    found = registry_samples(meters.registry)
    for kind in ("not-json", "version", "schema"):
        assert sample_value(found, "ringside_dead_letters_total", topic=EVENTS, reason=kind) == 1


def test_sums_are_counted_by_meaning_once_applied(meters: Meters) -> None:
    store = meters.sums(BreakableSumStore())
    begun = Positions("log", 0, 0, 0)
    store.apply(0, None, begun, {})
    sums = {"3|als|490|n": 5, "3|als|490|s": 2, "3|als|490|f": 1, "acct|als|late": 4, "acct|als|exposed": 9}
    store.apply(0, begun, Positions("log", 5, 6, 0), {"storefront": sums})
    with pytest.raises(StalePositionError):
        store.apply(0, begun, Positions("log", 5, 6, 0), {"storefront": sums})
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_units_matured_total", arm="als") == 5
    assert sample_value(found, "ringside_unit_successes_total", arm="als") == 2
    assert sample_value(found, "ringside_unit_fallbacks_total", arm="als") == 1
    assert sample_value(found, "ringside_events_accounted_total", fate="late") == 4
    assert sample_value(found, "ringside_events_accounted_total", fate="counted") == 0
    assert sample_value(found, "ringside_exposures_accounted_total", fate="exposed") == 9
    assert sample_value(found, "ringside_tally_refused_total") == 1
    assert sample_value(found, "ringside_tally_apply_seconds_count") == 3
    store.report_loss(0, "gone")
    store.losses()
    assert sample_value(registry_samples(meters.registry), "ringside_data_losses") == 1


def test_decisions_are_counted_by_author_across_restarts(meters: Meters, tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    log = meters.decisions(shop.log)
    shop.race(share=0.25)
    shop.decide(commands.hold, ["watermark"])
    log.catch_up()
    log.catch_up()
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_decisions_total", kind="start") == 1
    assert sample_value(found, "ringside_decisions_total") == 4
    assert sample_value(found, "ringside_experiment_revision") == 4
    assert sample_value(found, "ringside_experiment_status", status="held") == 1
    assert sample_value(found, "ringside_experiment_status") == 1
    assert sample_value(found, "ringside_experiment_held") == 1
    assert sample_value(found, "ringside_arm_weight_ratio", arm="other", role="challenger") == 0.25
    shop.decide(commands.resume)
    shop.decide(commands.rollback, "other")
    log.catch_up()
    again = Meters(Settings(home=tmp_path), "decider", "r2")
    again.decisions(shop.log).catch_up()
    for restarted in (registry_samples(meters.registry), registry_samples(again.registry)):
        assert sample_value(restarted, "ringside_experiment_held") == 0
        assert sample_value(restarted, "ringside_decisions_total", kind="rollback") == 1
        assert sample_value(restarted, "ringside_decisions_unconfirmed") == 1
        assert sample_value(restarted, "ringside_arm_weight_ratio", arm="other", role="retired") == 0
        with pytest.raises(KeyError):
            sample_value(restarted, "ringside_arm_weight_ratio", arm="other", role="challenger")


def test_the_evidence_of_the_newest_look_is_told(meters: Meters, tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    evidence = evidence_of(
        arms={"good": {"n": 40, "s": 4, "posterior_mean": 0.1, "p_best": 0.7}},
        races=[{"arm": "other", "log_e": 1.5, "log_threshold": 3.5}],
    )
    shop.race()
    origin = commands.Provenance(author="test", now_ms=shop.now_ms, evidence=evidence)
    shop.log.append(commands.allocate(shop.state, {"good": 0.5, "other": 0.5}, {}, 0, origin))
    meters.decisions(shop.log).catch_up()
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_arm_units", arm="good") == 40
    assert sample_value(found, "ringside_arm_best_probability_ratio", arm="good") == 0.7
    assert sample_value(found, "ringside_race_log_evidence", arm="other") == 1.5
    assert sample_value(found, "ringside_race_log_threshold", arm="other") == 3.5


@pytest.mark.parametrize("lack", [None, "text"])
def test_a_malformed_number_stops_no_reader_and_is_logged_once(
    meters: Meters, tmp_path: Path, lack: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even one that no record of a topic can hold."""
    shop = SmallShop(tmp_path)
    shop.race()
    origin = commands.Provenance(
        author="test", now_ms=shop.now_ms, evidence=evidence_of(arms={"good": {"n": 40}})
    )
    shop.log.append(commands.allocate(shop.state, {"good": 0.5, "other": 0.5}, {}, 0, origin))
    newest = shop.log.history(shop.state.name)[-1]
    msgspec.structs.force_setattr(newest.evidence.arms["good"], "n", lack)
    looks = sum(decision.kind == "allocate" for decision in shop.log.history(shop.state.name))
    measured = meters.decisions(shop.log)
    for _ in range(3):
        assert measured.catch_up() == shop.log.catch_up()
    assert len(caplog.messages) == (lack is not None)
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_decisions_total", kind="allocate") == looks
    measured.append(commands.pause(shop.state, commands.Provenance("test", shop.now_ms)))
    assert sample_value(registry_samples(meters.registry), "ringside_experiment_status", status="paused") == 1


def test_another_log_is_told_from_its_start(meters: Meters) -> None:
    cache = BreakableStateCache(clock=lambda: 1)
    switched = [BreakableDecisionLog(cache), BreakableDecisionLog(cache)]

    class Switching:
        at = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(switched[self.at], name)

    log = Switching()
    measured = meters.decisions(log)  # type: ignore[arg-type]
    for log.at, revisions in ((0, 2), (1, 1)):
        arm = commands.Deployed("a", "m")
        state = log.append(commands.start("x", arm, commands.Rules(), "salt", commands.Provenance("t", 1)))
        if revisions == 2:
            log.append(commands.enter(state, "b", "m2", commands.Provenance("t", 2)))
        measured.catch_up()
        assert sample_value(registry_samples(meters.registry), "ringside_experiment_revision") == revisions
    assert sample_value(registry_samples(meters.registry), "ringside_decisions_total", kind="start") == 2


def test_pushes_and_files_are_timed(meters: Meters) -> None:
    store = meters.activity(BreakableActivityStore())
    store.push([])
    assert sample_value(registry_samples(meters.registry), "ringside_activity_push_seconds_count") == 1
    late = ActivityMetrics(meters.registry)
    for counted in (1, 3):
        late.update(ActivityCounts(late=counted))
    assert sample_value(registry_samples(meters.registry), "ringside_activity_pushes_late_total") == 3


def test_a_bandit_tells_of_its_own_partitions_only(meters: Meters) -> None:
    class One:
        overtaken, lag = 0, 7

        def watermark(self, now_ms: int) -> int:
            return now_ms - 5_000

    class Worker:
        def __init__(self) -> None:
            self.partitions, self.lost = {0: One(), 1: One()}, frozenset({3})
            self.left_out = Counter({"event_unattributed": 3})

    worker, metrics = Worker(), AttributionMetrics(meters.registry)
    metrics.update(worker, 1_000_000)  # type: ignore[arg-type]
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_watermark_timestamp_seconds", partition="1") == 995
    assert sample_value(found, "ringside_partition_lag_records") == 14
    assert sample_value(found, "ringside_partitions_stopped") == 1
    worker.partitions.pop(1)
    worker.partitions[0].overtaken = 2
    worker.left_out["event_unattributed"] += 1
    metrics.update(worker, 1_000_000)  # type: ignore[arg-type]
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_records_overtaken_total") == 2
    assert sample_value(found, "ringside_records_left_out_total", reason="event_unattributed") == 4
    with pytest.raises(KeyError):
        sample_value(found, "ringside_watermark_timestamp_seconds", partition="1")


def test_turns_are_counted_by_how_they_end(meters: Meters) -> None:
    with meters.step():
        pass
    for error in (UnavailableError("broker", "gone"), OSError(28, "disk full"), ZeroDivisionError()):
        with pytest.raises(type(error)), meters.step():
            raise error
    found = registry_samples(meters.registry)
    for result in ("ok", "UnavailableError", "OSError", "unexpected"):
        assert sample_value(found, "ringside_steps_total", result=result) == 1


def test_a_worker_is_found_and_scraped_while_it_runs(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with bootstrap.metered(settings, "lake", loops=False):
        [file] = (tmp_path / "metrics").glob("*.json")
        [group] = json.loads(file.read_text())
        assert group["labels"]["process"] == "lake"
        found = parse_samples(httpx.get(f"http://{group['targets'][0]}/metrics").text)
        assert sample_value(found, "ringside_process_info", process="lake") == 1
        assert sample_value(found, "ringside_disk_free_bytes") > 0
        assert sample_value(found, "process_resident_memory_bytes") > 1e6
        assert httpx.get(f"http://{group['targets'][0]}/").status_code == 404
    assert not list((tmp_path / "metrics").iterdir())


def test_a_target_of_a_process_that_died_is_swept_away(tmp_path: Path) -> None:
    stale = tmp_path / "metrics" / f"attribution@{socket.gethostname()}-{2**22 + 1}.json"
    elsewhere = tmp_path / "metrics" / "attribution@another-host-1.json"
    stale.parent.mkdir()
    for file in (stale, elsewhere):
        file.write_text("[]")
    with bootstrap.metered(Settings(home=tmp_path), "lake", loops=False):
        assert not stale.exists()
        assert elsewhere.exists()


def test_two_processes_with_one_port_are_both_scraped(tmp_path: Path) -> None:
    with bootstrap.metered(Settings(home=tmp_path), "lake", loops=False):
        [file] = (tmp_path / "metrics").glob("*.json")
        port = int(json.loads(file.read_text())[0]["targets"][0].rpartition(":")[2])
        with bootstrap.metered(Settings(home=tmp_path, metrics_port=port), "attribution", loops=False):
            [other] = (tmp_path / "metrics").glob("attribution*.json")
            address = json.loads(other.read_text())[0]["targets"][0]
            assert not address.endswith(f":{port}")
            assert httpx.get(f"http://{address}/metrics").status_code == 200


def test_no_port_no_endpoint(tmp_path: Path) -> None:
    with bootstrap.metered(Settings(home=tmp_path, metrics_port=-1), "lake") as meters:
        with meters.step():
            pass
        assert not (tmp_path / "metrics").exists()


def test_an_address_of_the_new_kind_is_scraped_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with bootstrap.metered(Settings(home=tmp_path, host="::1"), "lake", loops=False):
        [file] = (tmp_path / "metrics").glob("*.json")
        [address] = json.loads(file.read_text())[0]["targets"]
        assert httpx.get(f"http://{address}/metrics").status_code == 200


def test_a_loop_that_hangs_is_not_live(meters: Meters) -> None:
    age = [1.0]
    served = Endpoint(meters.registry, "127.0.0.1", 0, lambda: age[0])
    try:
        url = f"http://127.0.0.1:{served.port}/health/live"
        assert httpx.get(url).json() == {"status": "live", "age_s": 1.0}
        age[0] = 31.0
        assert httpx.get(url).status_code == 503
    finally:
        served.close()


def test_a_send_that_is_cancelled_counts_as_failed(meters: Meters) -> None:
    class Hanging:
        def send(self, *_: Any) -> "Future[Any]":
            self.future: Future[Any] = Future()
            return self.future

    inner = Hanging()
    meters.producer(inner).send(EVENTS, None, b"")  # type: ignore[arg-type]
    inner.future.cancel()
    inner.future.set_running_or_notify_cancel()
    assert (
        sample_value(registry_samples(meters.registry), "ringside_records_sent_total", result="failed") == 1
    )


def test_a_slate_that_another_arm_answers_is_counted(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    shop.race(share=0.9)
    shop.other.fails = True
    with shop.client() as caller:
        shop.other.fails = True
        for number in range(20):
            caller.slate(f"user{number}", f"s{number}")
        found = parse_samples(caller.get("/metrics", "analyst").text)
    fallbacks = sample_value(found, "ringside_slate_fallbacks_total", arm="other")
    assert fallbacks == sample_value(found, "ringside_slates_total", arm="other") > 0
    assert sample_value(found, "ringside_slates_degraded_total") == fallbacks


def test_a_slate_that_loses_its_exposure_counts_as_degraded(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    shop.start()
    with shop.client() as caller:
        shop.broker.down = True
        assert caller.slate()["degraded"] == "exposure_lost"
        found = parse_samples(caller.get("/metrics", "analyst").text)
    assert sample_value(found, "ringside_slates_degraded_total", step="exposure_lost") == 1
    assert sample_value(found, "ringside_exposures_lost_total") == 1


def test_a_degraded_slate_is_counted_once_whatever_it_lacks(tmp_path: Path) -> None:
    """And not at all for want of eligible items: there is nothing to mend."""
    shop = SmallShop(tmp_path)
    shop.start()
    with shop.client() as caller:
        for number in range(7):
            caller.slate(f"user{number}")
        caller.slate("user8", category="no such category")
        shop.good.fails = True
        for number in range(2):
            assert caller.slate(f"stranger{number}")["degraded"] == "failed:good,popular"
        before = parse_samples(caller.get("/metrics", "analyst").text)
        shop.broker.down = True
        assert caller.slate("stranger2", category="none")["degraded"].count(",") == 3
        after = parse_samples(caller.get("/metrics", "analyst").text)
    [rule] = [rule for rule in RULES if rule["alert"] == "RingsideDegraded"]
    assert metrics_in(rule["expr"]) == {"ringside_slates_lacking_total", "ringside_slates_total"}
    for found, slates, lacking in ((before, 10, 2), (after, 11, 3)):
        assert sample_value(found, "ringside_slates_total") == slates
        assert sample_value(found, "ringside_slates_lacking_total") == lacking


def test_items_that_nobody_may_see_do_not_fill_a_catalogue(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    shop.start()
    with shop.client() as caller:
        told = []
        for change in ({"stock": 0}, {"hidden": True}):
            half = range(20) if "stock" in change else range(20, 40)
            rows = [{"item_id": f"i{place}", **change} for place in half]
            assert caller.send("PATCH", "/items", "admin", json=rows).status_code == 200
            caller.refresh()
            found = parse_samples(caller.get("/metrics", "analyst").text)
            told.append(sample_value(found, "ringside_catalogue_items"))
    assert told == [20, 0]


def test_pins_are_counted_by_what_became_of_them(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    shop.race(share=0.9)
    with shop.client() as caller:
        users = [f"user{number}" for number in range(20)]
        arms = [caller.slate(user)["arm"] for user in users + users]
        shop.decide(commands.rollback, "other")
        caller.refresh()
        for user in users:
            caller.slate(user)
        shop.reader.down = True
        caller.slate("user1")
        found = parse_samples(caller.get("/metrics", "analyst").text)
    assert arms[:20] == arms[20:]
    told = {
        name: sample_value(found, "ringside_pins_total", result=name)
        for name in ("made", "kept", "overridden")
    }
    moved = arms[:20].count("other")
    assert told == {"made": 20, "kept": 20 + 20 - moved, "overridden": moved}
    assert sample_value(found, "ringside_pins_total", result="unreachable") == 1


def test_units_of_one_request_have_no_pins(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    shop.start(unit="request")
    with shop.client() as caller:
        caller.slate()
        assert sample_value(parse_samples(caller.get("/metrics", "analyst").text), "ringside_pins_total") == 0


def test_an_event_loop_says_when_it_turned(tmp_path: Path) -> None:
    shop = SmallShop(tmp_path)
    with shop.client() as caller:
        turned = "ringside_event_loop_turn_timestamp_seconds"
        assert (
            sample_value(parse_samples(caller.get("/metrics", "analyst").text), turned) == shop.now_ms / 1_000
        )
        shop.now_ms += 5_000
        caller.refresh()
        assert (
            sample_value(parse_samples(caller.get("/metrics", "analyst").text), turned) == shop.now_ms / 1_000
        )


def test_a_request_that_is_shed_is_counted() -> None:
    metrics = Metrics()
    metrics.shed("overload")
    found = parse_samples(metrics.text().decode())
    assert sample_value(found, "ringside_requests_shed_total", reason="overload") == 1
    assert sample_value(found, "ringside_requests_shed_total") == 1


def test_fits_and_failures_of_the_trainer_are_counted(meters: Meters) -> None:
    metrics = TrainingMetrics(meters.registry)

    def fails() -> None:
        raise ArtifactError("no such model")

    with pytest.raises(ArtifactError):
        metrics.observe(fails)
    assert metrics.observe(lambda: None) is None
    verdict = GateResult(
        passed=False, reason="", candidate=0, champion=1, tolerance=0, users=9, cut_s=0, metrics={}
    )
    trained = TrainingResult(manifest("als-1"), verdict)
    assert metrics.observe(lambda: trained) is trained
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_trainer_failures_total") == 1
    assert sample_value(found, "ringside_fits_total", algorithm="ordered", gate="refused") == 1
    assert sample_value(found, "ringside_fit_seconds_count") == 1


def test_a_run_of_features_is_told(meters: Meters) -> None:
    run = Materialized(datetime(2026, 1, 1, tzinfo=UTC), {"user_profile": 7}, seconds=4.0, late_s=1.5)
    FeaturesMetrics(meters.registry).done(run)
    found = registry_samples(meters.registry)
    assert sample_value(found, "ringside_materialized_timestamp_seconds") == 1_767_225_600
    assert sample_value(found, "ringside_materialize_seconds") == 4.0
    assert sample_value(found, "ringside_materialize_late_seconds") == 1.5
    assert sample_value(found, "ringside_materialized_rows_total", view="user_profile") == 7
