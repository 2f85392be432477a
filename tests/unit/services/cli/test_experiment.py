"""`ringside experiment …` on an in-memory log: what is asked for is decided, and who asked is on record."""

import getpass
import time

import pytest
from support.breakable import BreakableDecisionLog, BreakableStateCache, BreakableSumStore
from typer.testing import CliRunner

from experiments.lifecycle.state import Experiment, Rules
from services import bootstrap
from services.cli.experiment import app
from services.cli.progress_report import CountedSums, progress
from services.control.decide import rule_values
from services.errors import BadInputError, UnavailableError
from services.ports.state import Positions


class Shelf:
    """Models that have an artifact."""

    def versions(self) -> list[str]:
        return ["pop-1", "als-1"]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> BreakableStateCache:
    cache = BreakableStateCache()
    monkeypatch.setattr(bootstrap, "state_cache", lambda settings: cache)
    return cache


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> BreakableSumStore:
    sums = BreakableSumStore()
    monkeypatch.setattr(bootstrap, "sum_store", lambda settings: sums)
    return sums


@pytest.fixture
def log(
    monkeypatch: pytest.MonkeyPatch, cache: BreakableStateCache, sums: BreakableSumStore
) -> BreakableDecisionLog:
    log = BreakableDecisionLog(cache)
    monkeypatch.setattr(bootstrap, "decision_log", lambda settings: log)
    monkeypatch.setattr(bootstrap, "model_store", lambda settings: Shelf())
    return log


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def state(log: BreakableDecisionLog, experiment: str = "storefront") -> Experiment:
    return log.catch_up()[experiment]


def test_a_whole_life_by_command(log):
    run("start", "pop-1", "--arm", "popular", "--reason", "the first one", "--set", "margin=0.1")
    run("enter", "als-1", "--arm", "als")
    run("promote", "als")
    run("rollback", "als", "--reason", "it looks wrong")
    run("undo", "4")
    run("pause")
    run("resume")
    run("end")
    history = log.history("storefront")
    assert [d.kind for d in history] == [
        "start", "enter", "promote", "rollback", "undo", "pause", "resume", "end",
    ]  # fmt: skip
    assert {d.author for d in history} == {f"shell:{getpass.getuser()}"}
    assert (history[0].reason, history[3].reason) == ("the first one", "it looks wrong")
    assert state(log).rules.margin == 0.1
    assert state(log).champion == "als"


def test_rules_come_from_settings_and_can_be_set_singly(log, monkeypatch):
    monkeypatch.setenv("RINGSIDE_WINDOW_S", "12")
    run("start", "pop-1", "--set", "ramp=0.1,0.3")
    assert (state(log).rules.window_s, state(log).rules.ramp) == (12.0, (0.1, 0.3))
    assert state(log).rules.alpha == Rules().alpha
    run("pause")
    run("resume", "--set", "cap=0.5")
    assert (state(log).rules.cap, state(log).rules.window_s) == (0.5, 12.0)


def test_show_tells_arms_weights_and_the_last_decisions(log):
    run("start", "pop-1", "--arm", "popular")
    run("enter", "als-1", "--arm", "als", "--reason", "worth a try")
    shown = run("show", "--last", "1")
    for word in (
        "storefront: running, revision 2",
        "popular",
        "champion",
        "100.0%",
        "als",
        "challenger",
        "worth",
    ):
        assert word in shown
    assert "start" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pause"], "'storefront' was never started"),
        (["show", "--experiment", "other"], "'other' was never started"),
        (["start", "gru-7"], "MODEL_VERSION: no artifact of 'gru-7'; there are pop-1, als-1"),
        (["start", "pop-1", "--set", "speed=3"], "rules.speed: unknown; known are unit"),
        (["start", "pop-1", "--set", "margin=much"], "rules.margin: 'much' can't be parsed"),
        (["start", "pop-1", "--set", "margin"], "--set margin: expected RULE=VALUE"),
        (["start", "pop-1", "--set", "alpha=2"], "rules.alpha: 2.0 is not at least 1e-12 and below 1"),
        (["start", "pop-1", "--arm", "a|b"], "arm name 'a|b' must match"),
        (
            ["start", "pop-1", "--experiment", "a/b"],
            "--experiment: 'a/b' does not match ^[A-Za-z0-9._-]{1,64}$",
        ),
        (["start", "pop-1", "--experiment", "shop\n"], "--experiment: 'shop\\n' does not match"),
        (["start", "pop-1", "--experiment", "s" * 65], "--experiment: 'sss"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(log, words, message):
    with pytest.raises(BadInputError, match=r"(?s).") as caught:
        run(*words)
    assert message in str(caught.value)
    assert log.catch_up() == {}


def test_a_refused_transition_says_why(log):
    run("start", "pop-1")
    with pytest.raises(BadInputError, match="there is no holdback to replace it"):
        run("rollback", "pop-1")
    with pytest.raises(BadInputError, match="'storefront' was already started"):
        run("start", "pop-1")


def test_a_rule_is_read_by_its_type():
    assert rule_values(["unit=request"]) == {"unit": "request"}
    assert rule_values(["burn_in_units=7"]) == {"burn_in_units": 7}


def test_show_reads_the_cache_without_log_and_says_so(log, cache):
    run("start", "pop-1", "--arm", "popular")
    log.down = True
    shown = " ".join(run("show").split())
    assert "This is the cached state" in shown
    assert "storefront: running, revision 1" in shown
    with pytest.raises(UnavailableError, match="nothing was changed"):
        run("pause")
    cache.down = True
    with pytest.raises(UnavailableError, match="the decision log and its cache"):
        run("show")


def test_show_needs_no_redis_and_says_that_it_is_away(log, cache):
    run("start", "pop-1", "--arm", "popular")
    cache.down = True
    shown = " ".join(run("show").split())
    assert "Replicas may serve an older revision" in shown
    assert "storefront: running, revision 1" in shown


def test_show_tells_what_was_counted_and_up_to_when(log, sums):
    run("start", "pop-1", "--arm", "popular")
    counted = {"1|popular|7|n": 1_200, "1|popular|7|s": 34}
    for partition in range(4):
        moved = counted if partition == 0 else {}
        sums.apply(partition, None, Positions("log", 0, 0, 0), {"storefront": moved})
        sums.set_watermark(partition, 3_600_000, 0)
    shown = run("show")
    assert "1,200" in shown
    assert "34" in shown
    assert "counted up to 1970-01-01 01:00 UTC" in shown
    sums.down = True
    shown = " ".join(run("show").split())
    assert "The counts are not shown" in shown
    assert "units" not in shown


def test_show_says_when_units_mature_and_looks_are_due(log, sums):
    run("start", "pop-1")
    now, history = state(log), log.history("storefront")
    minute = 60_000
    told = list(progress(now, CountedSums.of(sums, now, 4), history, now.started_ms + minute))
    mature, due = (time.strftime("%H:%M UTC", time.gmtime(now.started_ms / 1e3 + s)) for s in (1_920, 300))
    assert told[0].startswith("nothing has been counted yet; the first units mature at ")
    assert f"{mature} at the earliest" in told[0]
    assert told[1].startswith("the next look is due ")
    assert told[1].endswith(due)
    late = list(progress(now, CountedSums.of(sums, now, 4), history, now.started_ms + 60 * minute))
    assert "is `ringside attribution` running?" in late[0]
    assert "is `ringside decider` running?" in late[1]
    run("pause")
    assert len(list(progress(state(log), CountedSums.of(sums, now, 4), history, now.started_ms))) == 1
