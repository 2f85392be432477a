"""The console in a real browser: it draws, follows the log, opens records, asks before it commands."""

import copy
import hashlib
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from support.breakable import BreakableDecisionLog, BreakableStateCache
from support.console_story import ScriptedExperiment, decision_log_of, put_heartbeats, recount_service_of
from support.decisions import altered
from support.page_server import PageMonitor, scrolls_sideways, serve

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from services.console.app import create_app
from services.console.log_follower import LogFollower
from services.control.recount import RecountService
from services.settings import Settings

WIDE, NARROW = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}
XSS = "<img src=x onerror=window.hacked=1>"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass
class Console:
    url: str
    story: ScriptedExperiment
    log: BreakableDecisionLog
    cache: BreakableStateCache
    follower: LogFollower
    recounting: RecountService
    pages: list = field(default_factory=list)

    def close(self) -> None:
        for page in self.pages:
            page.context.close()

    def open(self, browser, watch: PageMonitor, key: str = "ana", **context):
        page = watch.over(browser.new_context(**{"viewport": WIDE} | context).new_page())
        self.pages.append(page)
        page.goto(f"{self.url}/login#key={key}")
        page.wait_for_url("**/experiments/storefront")
        page.wait_for_selector("#timeline[data-drawn]")
        return page


@pytest.fixture(scope="module")
def played() -> ScriptedExperiment:
    return ScriptedExperiment(looks=90, units_per_look=500).play()


@pytest.fixture
def console(tmp_path, played) -> Iterator[Console]:
    story = copy.deepcopy(played)
    cache = BreakableStateCache(lambda: story.now_ms)
    log = decision_log_of(story, cache)
    put_heartbeats(cache, story.state)
    settings = Settings(
        keys=f"admin={digest('adm')},analyst={digest('ana')}", signing_key="s" * 32, home=tmp_path
    )
    follower = LogFollower(lambda: (log, cache), lambda: story.now_ms + 900, settings.kill_switch_path)
    follower.refresh()
    recounting = recount_service_of(story)
    app = create_app(settings, follower, recounting, lambda: story.now_ms + 900, follow=False)
    with serve(app) as url:
        opened = Console(url, story, log, cache, follower, recounting)
        yield opened
        opened.close()


@pytest.fixture
def watch(console) -> PageMonitor:
    return PageMonitor((console.url,))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_draws_everything_without_errors_or_strangers(console, browser, watch, scheme):
    page = console.open(browser, watch, color_scheme=scheme)
    assert page.locator(".sentence").inner_text().startswith("Traffic: 80")
    assert page.locator("#timeline .scatterlayer .trace").count() >= 14
    drawn = page.locator("#timeline .scatterlayer path.js-line")
    assert all(len(drawn.nth(i).get_attribute("d")) > 10 for i in range(drawn.count()))
    assert page.locator("#posterior .scatterlayer .trace").count() >= 4
    assert not scrolls_sideways(page)
    assert (watch.errors, watch.foreign_requests) == ([], [])


CUT_OFF = """() => {
    const right = document.querySelector('#part-arms').getBoundingClientRect().right;
    const buttons = [...document.querySelectorAll('#part-arms button')];
    return buttons.filter(button => button.getBoundingClientRect().right > right).length }"""


def test_no_command_is_cut_off_by_its_card(console, browser, watch):
    page = console.open(browser, watch, key="adm")
    assert page.locator("#part-arms button").count() >= 4
    for width in (1440, 1400, 1280, 1120, 1024, 768, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(CUT_OFF) == 0, width


def test_arms_share_colours_between_table_and_plots(console, browser, watch):
    page = console.open(browser, watch)
    table = page.locator("#part-arms .swatch").nth(1).evaluate("e => getComputedStyle(e).color")
    target = page.evaluate(
        """() => document.getElementById('timeline')._fullData.find(t => t.name === 'als target').line"""
    )
    red, green, blue = (int(part) for part in re.findall(r"\d+", table)[:3])
    assert target["color"].lower() == f"#{red:02x}{green:02x}{blue:02x}"
    assert target["dash"] == "dash"


def test_a_decision_opens_its_record_from_list_and_plot(console, browser, watch):
    page = console.open(browser, watch)
    rollback = next(r for r in console.story.records if r.kind == "rollback")
    page.get_by_role("link", name="broken rolled back").click()
    dialog = page.locator("#record[open]")
    dialog.wait_for()
    for text in ("click-race", rollback.detail.version_out, rollback.sums_digest, "exposures/3"):
        assert text in dialog.inner_text()
    dialog.get_by_text("Decision as JSON").click()
    assert f'"revision": {rollback.revision}' in dialog.locator("pre").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#record[open]").count() == 0
    at = page.evaluate(
        """revision => { const plot = document.getElementById('timeline'), axes = plot._fullLayout;
        plot.scrollIntoView({ block: 'center', behavior: 'instant' });
        const lane = plot._fullData.find(t => t.yaxis === 'y4' && t.customdata.includes(revision));
        const box = plot.getBoundingClientRect(), x = lane.x[lane.customdata.indexOf(revision)];
        const left = axes.xaxis._offset + axes.xaxis.d2p(x), top = axes.yaxis4._offset + axes.yaxis4.d2p(1);
        return [box.x + left, box.y + top]; }""",
        rollback.revision,
    )
    page.mouse.move(*at)
    page.mouse.click(*at)
    page.locator("#record[open]").wait_for()
    assert f"revision {rollback.revision} of storefront" in page.locator("#record").inner_text()
    page.get_by_title("Previous decision").click()
    page.get_by_text(f"revision {rollback.revision - 1} of storefront").wait_for()
    assert watch.errors == []


def test_new_looks_appear_without_a_reload(console, browser, watch):
    page = console.open(browser, watch)
    page.evaluate("window.kept = true")
    before = len(console.story.records)
    console.story.look()
    for record in console.story.records[before:]:
        console.log.append(record)
    console.follower.refresh()
    page.wait_for_selector(f"#timeline[data-drawn='{console.story.state.revision}']")
    assert page.locator("#part-decisions td.number").first.inner_text() == str(console.story.state.revision)
    assert page.evaluate("window.kept") is True


def test_a_silent_console_says_so_and_recovers(console, browser, watch):
    page = console.open(browser, watch)
    page.route("**/live?*", lambda route: route.abort())
    page.locator("#live.off").wait_for()
    assert "can't be reached, last response" in page.locator("#live").inner_text()
    page.unroute("**/live?*")
    page.locator("#live.on").wait_for(timeout=5_000)


def test_dead_sources_are_named_on_the_page(console, browser, watch):
    page = console.open(browser, watch)
    console.log.down = console.cache.down = True
    console.follower.refresh()
    page.get_by_text("The decision log can't be read").wait_for()
    assert page.get_by_text("Redis can't be reached").count() == 1
    assert page.locator("#timeline .scatterlayer .trace").count() >= 14


def test_an_admin_confirms_a_rollback_an_analyst_cannot(console, browser, watch):
    analyst = console.open(browser, watch)
    assert analyst.locator("[data-command]").count() == 0
    analyst.close()
    page = console.open(browser, watch, key="adm")
    page.locator("[data-command=rollback]").click()
    page.locator("#command[open]").wait_for()
    assert "als is retired at once" in page.locator("#command").inner_text()
    page.locator("#command-go").click()  # without a reason the browser refuses
    assert console.log.catch_up()["storefront"].arms["als"].role == "challenger"
    page.locator("#command [name=reason]").fill("prices were wrong in the feed")
    page.locator("#command-go").click()
    page.locator("#command:not([open])").wait_for(state="attached")
    record = console.log.history("storefront")[-1]
    assert (record.kind, record.author) == ("rollback", f"admin:{digest('adm')[:8]}")
    assert record.reason == "prices were wrong in the feed"
    console.follower.refresh()
    page.get_by_role("button", name=f"Undo revision {record.revision}").wait_for()
    assert watch.errors == []


def test_a_refused_command_says_why_in_the_dialog(console, browser, watch):
    page = console.open(browser, watch, key="adm")
    page.locator("[data-command=promote]").click()
    page.locator("#command [name=reason]").fill("als is better")
    console.log.append(
        commands.rollback(console.story.state, "als", Provenance("somebody", console.story.now_ms))
    )
    page.locator("#command-go").click()
    problem = page.locator("#command-problem:not([hidden])")
    problem.wait_for()
    assert "als" in problem.inner_text()


@pytest.mark.parametrize("path", ["", "/decisions", "/decisions/9"])
def test_a_narrow_window_never_scrolls_sideways(console, browser, watch, path):
    page = console.open(browser, watch, viewport=NARROW)
    page.goto(f"{console.url}/experiments/storefront{path}")
    page.wait_for_load_state("networkidle" if path else "load")
    assert not scrolls_sideways(page)
    assert watch.errors == []


def test_times_and_theme_can_be_switched_and_are_remembered(console, browser, watch):
    page = console.open(browser, watch, timezone_id="Asia/Kolkata", color_scheme="light")
    first = page.locator("#part-decisions time").first
    assert first.inner_text().endswith("UTC")
    page.locator("[data-toggle=zone]").click()
    assert first.inner_text().endswith("local")
    assert "UTC" in first.get_attribute("title")
    for _ in range(2):
        page.locator("[data-toggle=theme]").click()
    page.reload()
    page.wait_for_selector("#timeline[data-drawn]")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator("#part-decisions time").first.inner_text().endswith("local")


@contextmanager
def console_of(story: ScriptedExperiment, home) -> Iterator[Console]:
    """A console whose replicas are all gone."""
    cache = BreakableStateCache(lambda: story.now_ms)
    log = decision_log_of(story, cache)
    settings = Settings(keys=f"analyst={digest('ana')}", signing_key="s" * 32, home=home)
    follower = LogFollower(lambda: (log, cache), lambda: story.now_ms, settings.kill_switch_path)
    follower.refresh()
    recounting = recount_service_of(story)
    with serve(create_app(settings, follower, recounting, lambda: story.now_ms, follow=False)) as url:
        opened = Console(url, story, log, cache, follower, recounting)
        yield opened
        opened.close()


def test_text_from_the_log_is_inert(browser, tmp_path):
    story = ScriptedExperiment(looks=6).play()
    origin = Provenance(author=XSS, now_ms=story.now_ms, rule=XSS, reason=f"{XSS}<b>bold</b>")
    story.records.append(commands.pause(story.state, origin))
    with console_of(story, tmp_path) as console:
        watch = PageMonitor((console.url,))
        page = console.open(browser, watch)
        page.locator("#part-decisions a[data-record]").first.click()
        page.locator("#record[open]").wait_for()
        assert XSS in page.locator("#record .reason").inner_text()
        assert page.evaluate("window.hacked") is None
        assert page.locator("#part-decisions img, #record img, #timeline img").count() == 0
        assert (watch.errors, watch.foreign_requests) == ([], [])


def test_an_experiment_without_a_look_says_so(browser, tmp_path):
    with console_of(ScriptedExperiment(looks=0).play(), tmp_path) as console:
        watch = PageMonitor((console.url,))
        page = console.open(browser, watch)
        assert page.get_by_text("No arm has been counted yet.").is_visible()
        assert page.get_by_text("No replica of the recommend service reports").is_visible()
        assert page.locator(".sentence").inner_text().startswith("popularity serves all traffic.")
        assert watch.errors == []


def test_labels_of_equal_posteriors_do_not_cover_each_other(browser, tmp_path):
    story = ScriptedExperiment(looks=20).play()
    last = story.records[-1]
    same = dict.fromkeys(last.evidence.arms, last.evidence.arms["popularity"])
    story.records[-1] = altered(last, evidence=msgspec.structs.replace(last.evidence, arms=same))
    with console_of(story, tmp_path) as console:
        page = console.open(browser, PageMonitor((console.url,)), viewport=NARROW)
        page.wait_for_selector("#posterior[data-drawn]")
        boxes = [label.bounding_box() for label in page.locator("#posterior .annotation-text").all()]
    assert len(boxes) == 3
    for one, other in itertools.combinations(boxes, 2):
        beside = one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
        apart = abs(one["y"] - other["y"]) >= 11
        assert beside or apart


def test_panel_titles_are_whole_in_a_narrow_window(console, browser, watch):
    page = console.open(browser, watch, viewport={"width": 1440, "height": 900})
    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_function(
        """() => { const plot = document.getElementById('timeline').getBoundingClientRect();
        return [...document.querySelectorAll('#timeline .annotation-text')].every(
            title => title.getBoundingClientRect().right <= plot.right); }"""
    )


# ---- recounts ----------------------------------------------------------------------------------------------


def hold_for_wrong_sums(console: Console) -> None:
    cause = "arm als: 3 acknowledged events are not accounted for"
    origin = Provenance("decider", console.story.now_ms, rule="broken-identity")
    console.story.add(commands.hold(console.story.state, [cause], origin))
    console.log.append(console.story.records[-1])
    console.follower.refresh()


def test_an_admin_recounts_wrong_sums_after_seeing_what_goes(console, browser, watch):
    hold_for_wrong_sums(console)
    page = console.open(browser, watch, key="adm")
    assert page.get_by_text("Recount before resuming:").count() == 1
    page.locator("#part-arms [data-command=recount]").click()
    dialog = page.locator("#command[open]")
    dialog.locator("[name=seen]").wait_for(state="attached")
    shown = dialog.locator("tbody tr").all_inner_texts()
    assert [row.split()[0] for row in shown] == ["als", "broken", "popularity"]
    assert dialog.locator("[value=false]").is_checked()
    dialog.get_by_text("Only units from now on").click()
    dialog.locator("[name=reason]").fill("a script wrote into Redis")
    dialog.locator("#command-go").click()
    page.locator("#command:not([open])").wait_for(state="attached")
    record = console.log.history("storefront")[-1]
    assert (record.kind, record.reason) == ("recount", "a script wrote into Redis")
    assert record.detail.from_ms > record.received_at
    assert record.detail.dropped.units > 40_000
    console.follower.refresh()
    page.get_by_role("link", name="Counting restarted").click()
    assert "Dropped counts" in page.locator("#record[open]").inner_text()
    assert watch.errors == []


def test_sums_that_changed_meanwhile_are_shown_again_before_anything_goes(console, browser, watch):
    page = console.open(browser, watch, key="adm")
    page.locator("main > .pair [data-command=recount]").click()  # always there, beside the accounts
    dialog = page.locator("#command[open]")
    dialog.locator("[name=seen]").wait_for(state="attached")
    dialog.get_by_text("Only units from now on").click()
    dialog.locator("[name=reason]").fill("twice")
    console.log.append(commands.recount(console.story.state, 0, {}, Provenance("ben", console.story.now_ms)))
    console.follower.refresh()
    dialog.locator("#command-go").click()
    dialog.locator("#command-problem:not([hidden])").wait_for()
    assert "recounted since" in dialog.locator("#command-problem").inner_text()
    dialog.get_by_text("Nothing has been counted yet").wait_for()
    assert dialog.locator("[value=true]").is_checked()  # what was chosen stays
    assert console.log.catch_up()["storefront"].counting.generation == 1
    dialog.locator("#command-go").click()
    page.locator("#command:not([open])").wait_for(state="attached")
    assert console.log.catch_up()["storefront"].counting.generation == 2


def test_sums_that_cannot_be_read_are_not_dropped_unseen(console, browser, watch):
    console.recounting.store.down = True
    page = console.open(browser, watch, key="adm")
    page.locator("main > .pair [data-command=recount]").click()
    page.get_by_text("Redis is unavailable").wait_for()
    assert page.locator("#command-go").is_disabled()
    page.locator("[data-cancel]").click()
    page.locator("[data-command=pause]").click()
    assert page.locator("#command-go").is_enabled()
    assert page.locator("#command-more").is_hidden()


@pytest.mark.parametrize("viewport", [WIDE, NARROW, {"width": 320, "height": 480}])
def test_the_question_before_a_recount_fits_the_window(console, browser, watch, viewport):
    page = console.open(browser, watch, key="adm", viewport=viewport)
    page.locator("main > .pair [data-command=recount]").click()
    page.locator("#command [name=seen]").wait_for(state="attached")
    assert page.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.getElementById('command'))")
    page.locator("#command-go").scroll_into_view_if_needed()
    assert page.locator("#command-go").is_visible()
    assert not scrolls_sideways(page)
