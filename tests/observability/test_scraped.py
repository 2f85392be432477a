"""Every metric of dashboard and alerts is exposed by a running installation, and moves with its event."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.real_installation import PROCESSES, RealInstallation, fit_popularity, running_installation
from support.scraping import Samples, metric_names, sample_value
from support.waiting import wait_until

from experiments.lifecycle import commands
from services import bootstrap
from services.messages.events import ACTIVITY, EVENTS, EXPOSURES
from tests.observability.test_dashboard import QUERIES, RULES, metrics_in

ASKED = [*QUERIES, *(rule["expr"] for rule in RULES)]
USED = {name for query in ASKED for name in metrics_in(query)} - {"up"}
# What no healthy little installation can be brought to do; a test beside this one moves it on doubles.
ELSEWHERE = {
    "ringside_requests_shed_total": "test_a_request_that_is_shed_is_counted",
    "ringside_slate_fallbacks_total": "test_a_slate_that_another_arm_answers_is_counted",
    "ringside_data_losses": "test_sums_are_counted_by_meaning_once_applied",
    "ringside_partitions_stopped": "test_a_bandit_tells_of_its_own_partitions_only",
    "ringside_records_overtaken_total": "test_a_bandit_tells_of_its_own_partitions_only",
    "ringside_activity_pushes_late_total": "test_pushes_and_files_are_timed",
    "ringside_trainer_failures_total": "test_fits_and_failures_of_the_trainer_are_counted",
    "ringside_disk_free_bytes": "test_a_worker_is_found_and_scraped_while_it_runs",
    "ringside_consumer_lag_records": "test_reading_is_counted_and_lag_is_what_is_left",
    "ringside_materialize_late_seconds": "test_a_run_of_features_is_told",
}


@pytest.fixture(scope="module")
def site(_redis_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealInstallation]:
    with running_installation(tmp_path_factory.mktemp("installation")) as running:
        yield running


@pytest.fixture(scope="module")
def story(site: RealInstallation) -> "ScrapedStory":
    story = ScrapedStory(site, site.scrape())
    for happens in (_opens, _shops, _rubbish, _rolls_back, _retrains, _switches, _redis_hangs, _broker_hangs):
        happens(site, story)
    wait_until(lambda: _says(site, "features", "ringside_materialized_rows_total"))
    story.note()
    return story


class ScrapedStory:
    """What all processes said before anything happened, what they said last, and what moved in between."""

    def __init__(self, site: RealInstallation, before: dict[str, Samples]):
        self._site, self.before = site, before
        self.seen: dict[str, dict[Any, float]] = {process: {} for process in before}
        self._moved: set[str] = set()

    def note(self, *processes: str) -> None:
        """Look now."""
        for process, found in self._site.scrape(*processes).items():
            before = self.before[process]
            self.seen[process] |= found
            self._moved |= {key[0] for key, number in found.items() if before.get(key, 0.0) != number}

    def names(self) -> set[str]:
        """Of every metric that is exposed."""
        every = (metric_names(found.keys()) for found in (*self.before.values(), *self.seen.values()))
        return set().union(*every)

    def moved(self, metric: str) -> bool:
        """Whether a sample was seen, at any moment, that is neither what it was, nor a first 0."""
        return metric in self._moved


def _opens(site: RealInstallation, story: "ScrapedStory") -> None:
    first = bootstrap.model_store(site.settings).versions()[-1]
    site.command("start", model_version=first, arm="first")
    wait_until(lambda: site.slate("probe")["arm"] == "first")
    second = fit_popularity(site.settings)
    site.command("enter", model_version=second, arm="second")
    wait_until(lambda: _says(site, "decider", "ringside_arm_weight_ratio", arm="second") > 0)


def _shops(site: RealInstallation, story: "ScrapedStory") -> None:
    slates = {f"u{number}": site.slate(f"u{number}") for number in range(60)}
    for user, slate in slates.items():
        site.slate(user)
        click = site.event(f"click-{user}", slate, user)
        assert site.send(click, click).status_code == 202
    forged = site.event("forged", {**slates["u1"], "recommendation_id": "forged"}, "u1")
    refused = {"event_id": "x", "type": "tap", "item_id": "?"}
    assert site.send(forged, refused).status_code == 202
    site.slate("u1", arm="second")  # a preview: served, not counted
    site.slate("u1", category="no such category")
    items = _says(site, "recommend", "ringside_catalogue_items")
    assert site.http.post("/items", json=[{"item_id": "new-1", "title": "New"}]).status_code == 200
    wait_until(lambda: _says(site, "recommend", "ringside_catalogue_items") == items + 1)
    assert httpx.get(f"http://127.0.0.1:{site.settings.shop_port}/").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{site.settings.console_port}/login").status_code == 200
    time.sleep(site.settings.window_s + 0.1)  # the clicks of these come after their window
    for user, slate in list(slates.items())[:5]:
        site.send(site.event(f"late-{user}", slate, user))
    wait_until(lambda: _says(site, "attribution", "ringside_events_accounted_total", fate="late"))
    wait_until(lambda: _says(site, "decider", "ringside_arm_units", arm="second"))


def _says(site: RealInstallation, process: str, name: str, **labels: str) -> float:
    try:
        return sample_value(site.scrape(process)[process], name, **labels)
    except KeyError:
        return 0.0


def _rubbish(site: RealInstallation, story: "ScrapedStory") -> None:
    for topic in (EXPOSURES, EVENTS, ACTIVITY):
        site.raw(topic, b"{rubbish")
    site.raw(EVENTS, b'{"v": 9, "received_at": 1, "event_id": "e", "type": "click", "item_id": "i"}')
    for process, reason in (("attribution", "not-json"), ("attribution", "version"), ("lake", "not-json")):
        wait_until(lambda: _says(site, process, "ringside_dead_letters_total", reason=reason))  # noqa: B023


def _rolls_back(site: RealInstallation, story: "ScrapedStory") -> None:
    users = [f"u{number}" for number in range(60)]
    on_second = [user for user in users if site.slate(user)["arm"] == "second"]
    story.note("decider")  # while the race runs
    site.servers["recommend"].freeze()  # so that the rollback stays unconfirmed until it is seen
    try:
        log = bootstrap.decision_log(site.settings)
        wait_until(lambda: _decided(log, commands.rollback, "second"))
        wait_until(lambda: _says(site, "decider", "ringside_decisions_unconfirmed"))
        story.note("decider")
        wait_until(lambda: _decided(log, commands.hold, ["watermark"]))
        wait_until(lambda: _says(site, "decider", "ringside_experiment_held"))
        story.note("decider")
    finally:
        site.servers["recommend"].thaw()
    wait_until(lambda: {site.slate(user)["arm"] for user in on_second} == {"first"})
    site.command("resume")


def _decided(log: Any, make: Any, *arguments: Any) -> bool:
    """Append a decision, unless the decider was faster this time."""
    from services.errors import StalePositionError

    state = log.catch_up()["storefront"]
    origin = commands.Provenance("test", time.time_ns() // 1_000_000)
    try:
        log.append(make(state, *arguments, origin))
    except StalePositionError:
        return False
    return True


def _retrains(site: RealInstallation, story: "ScrapedStory") -> None:
    log = bootstrap.decision_log(site.settings)
    wait_until(lambda: _decided(log, commands.retrain, "first", "a test wants it"))
    wait_until(lambda: _says(site, "decider", "ringside_retrain_pending"))
    story.note("decider")
    wait_until(lambda: _says(site, "training", "ringside_fits_total", algorithm="popularity"))


def _switches(site: RealInstallation, story: "ScrapedStory") -> None:
    for on in (True, False):
        assert site.http.post("/champion-only", json={"on": on}).status_code == 200
        wait_until(lambda: _says(site, "recommend", "ringside_champion_only") == on)  # noqa: B023
        story.note("recommend")


def _redis_hangs(site: RealInstallation, story: "ScrapedStory") -> None:
    site.redis.server.freeze()
    try:
        wait_until(lambda: "no_fresh_features" in (site.slate("u2")["degraded"] or ""))
        wait_until(lambda: _says(site, "recommend", "ringside_state_age_seconds") > 1)
        wait_until(lambda: _says(site, "console", "ringside_console_source_failing"))
        story.note("recommend", "console")
        wait_until(lambda: _says(site, "attribution", "ringside_steps_total", result="UnavailableError"))
    finally:
        site.redis.server.thaw()
    wait_until(lambda: site.slate("u2")["degraded"] is None)


def _broker_hangs(site: RealInstallation, story: "ScrapedStory") -> None:
    slate = site.slate("u3")
    for number in range(300):
        site.send(site.event(f"lagging-{number}", slate, "u3"))
    story.note()
    site.broker.server.freeze()
    try:
        site.slate("u3")
        assert site.send(site.event("lost", slate, "u3")).status_code == 503
        wait_until(lambda: _says(site, "recommend", "ringside_exposures_lost_total"))
    finally:
        site.broker.server.thaw()
    wait_until(lambda: site.send(site.event("back", slate, "u3")).status_code == 202)


@pytest.mark.timeout(400)
def test_every_process_is_found_and_says_who_it_is(site: RealInstallation, story: ScrapedStory) -> None:
    assert story.before.keys() == site.targets().keys() == PROCESSES.keys()
    for process in PROCESSES.keys() - {"recommend"}:
        assert sample_value(story.before[process], "ringside_process_info", process=process) == 1
    for process, at in site.targets().items():
        assert httpx.get(f"http://{at}/health/live").status_code == 200, process


@pytest.mark.timeout(400)
@pytest.mark.parametrize("metric", sorted(USED))
def test_a_metric_of_dashboard_and_alerts_exists_and_moves(metric: str, story: ScrapedStory) -> None:
    assert metric in story.names()
    assert story.moved(metric) or metric in ELSEWHERE


def test_what_moves_elsewhere_moves_in_a_test_that_exists() -> None:
    text = "".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert set(ELSEWHERE.values()) <= set(re.findall(r"def (test_\w+)", text))
    assert set(ELSEWHERE) <= USED


@pytest.mark.timeout(400)
def test_every_label_in_a_query_is_exported(story: ScrapedStory) -> None:
    """`process` and `instance` are the target's; the others stand in the samples."""
    labels: dict[str, set[str]] = {}
    for found in (*story.before.values(), *story.seen.values()):
        for name, pairs in found:
            labels.setdefault(name, set()).update(label for label, _ in pairs)
    for query in ASKED:
        asked = set(re.findall(r'(\w+)(?:=~|!=|!~|=)"', query))
        asked |= {name for group in re.findall(r"by \(([^)]*)\)", query) for name in re.split(r",\s*", group)}
        said = set().union(*(labels.get(name, set()) for name in metrics_in(query)))
        assert asked <= said | {"process", "instance", "job"}, query


@pytest.mark.timeout(400)
def test_names_follow_the_conventions_of_prometheus(story: ScrapedStory) -> None:
    for name in story.names():
        assert re.fullmatch(r"(ringside|process)_[a-z0-9_]+", name), name
        assert not re.search(r"_(ms|millis|minutes|percent|kb)(_|$)", name), name


@pytest.mark.timeout(400)
def test_logs_of_the_running_processes_are_json_without_secrets(
    site: RealInstallation, story: ScrapedStory
) -> None:
    for process in PROCESSES:
        lines = site.log(process)
        assert {line["process"] for line in lines} == {process}
        text = (site.settings.home / f"{process}.log").read_text()
        assert site.settings.signing_key[0] not in text
        assert site.settings.storefront_key not in text
