"""Laws of what the console says: from the log to points, densities, rows and sentences."""

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from support.breakable import BreakableStateCache
from support.console_story import LOOK_MS, RULES, START_MS, ScriptedExperiment, put_heartbeats
from support.decisions import altered

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.fold import apply
from services.console import queries, series, wording
from services.console.queries import Sources

FRESH = Sources(read_at_ms=1)


@pytest.fixture(scope="module")
def story() -> ScriptedExperiment:
    return ScriptedExperiment().play()


def beats(story: ScriptedExperiment) -> list:
    cache = BreakableStateCache(lambda: story.now_ms)
    put_heartbeats(cache, story.state)
    return cache.heartbeats()


def test_the_story_ends_with_als_leading_and_broken_removed(story):
    assert story.state.weights.shares["als"] > 0.6
    assert [r.detail.arm for r in story.records if r.kind == "rollback"] == ["broken"]


@given(cut=st.integers(0, 205))
def test_points_made_in_two_parts_equal_points_made_at_once(story, cut):
    whole, parts = series.TimeAxis(), series.TimeAxis()
    whole.extend(story.records)
    parts.extend(story.records[:cut])
    parts.extend(story.records[cut:])
    assert parts.points == whole.points


def test_realised_share_is_a_share_and_follows_the_target(story):
    axis = series.TimeAxis()
    axis.extend(story.records)
    realised = [(p["realised"], p["weights"]) for p in axis.points if p["realised"]]
    assert len(realised) > 150
    assert all(math.isclose(sum(shares.values()), 1.0) for shares, _ in realised)
    gaps = [shares["als"] - weights["als"] for shares, weights in realised if "als" in weights]
    assert abs(sum(gaps) / len(gaps)) < 0.03  # 180 units a look under a weight that moves by 5 points at most


def test_old_units_of_a_returning_arm_are_not_new():
    start = commands.start("shop", commands.Deployed("als", "v"), RULES, "salt", Provenance("anna", 1))
    looks = (
        {"als": 5_000, "text": 5_000},
        {"als": 5_280, "text": 5_150},
        {"als": 6_000},
        {"als": 6_280, "text": 5_180},
    )
    axis = series.TimeAxis()
    axis.extend(
        altered(start, evidence={"arms": {name: {"n": n} for name, n in units.items()}}) for units in looks
    )
    assert axis.points[-1]["realised"] == pytest.approx({"als": 280 / 310, "text": 30 / 310})


def test_realised_share_without_new_units_is_unknown_not_zero():
    assert series.realised_share({"a": 5}, {"a": 5}) is None
    assert series.realised_share({"a": 5}, {"a": 8, "b": 1}) == {"a": 0.75, "b": 0.25}


@given(limit=st.integers(20, 300))
def test_thinning_keeps_every_mark_the_newest_look_and_the_order(story, limit):
    axis = series.TimeAxis()
    axis.extend(story.records)
    kept = series.thin(axis.points, limit)
    marks = [p["revision"] for p in axis.points if p["kind"] != "allocate"]
    assert len(kept) <= max(limit, len(marks) + 1)
    assert set(marks) <= {p["revision"] for p in kept}
    assert kept[-1] == axis.points[-1]
    assert [p["revision"] for p in kept] == sorted(p["revision"] for p in kept)


@given(a=st.floats(1.5, 5_000), b=st.floats(5, 50_000))
def test_the_density_is_the_recorded_posterior(a, b):
    low, high = beta.ppf([0.025, 0.975], a, b)
    found = series.beta_shape(a / (a + b), float(low), float(high))
    assert found == pytest.approx((a, b), rel=1e-3)


@pytest.mark.parametrize("numbers", [(0.5, 0.5, 0.5), (0.0, 0.0, 0.1), (0.2, 0.4, 0.3), (1.2, 0.1, 0.2)])
def test_no_density_is_drawn_for_numbers_that_no_posterior_has(numbers):
    assert series.density(*numbers) is None


def test_density_integrates_to_one():
    curve = series.density(0.08, *map(float, beta.ppf([0.025, 0.975], 80, 920)))
    step = curve["x"][1] - curve["x"][0]
    assert sum(curve["y"]) * step == pytest.approx(0.999, abs=2e-3)


def test_an_arm_keeps_its_colour_when_others_come_and_go(story):
    before = queries.styles(story.state)
    state = apply(story.state, commands.enter(story.state, "zeta", "zeta-1", Provenance("me", 1)))
    assert queries.styles(state) == before | {"zeta": 3}


def test_rows_start_with_the_champion_and_keep_retired_numbers(story):
    rows = queries.arm_rows(story.state, story.records, {}, beats(story))
    assert [row["role"] for row in rows] == ["champion", "challenger", "retired"]
    broken = rows[2]
    assert broken["numbers"]["n"] > 0
    assert broken["weight"] == 0
    assert broken["race"].log_e >= broken["race"].log_threshold
    assert [row["loaded_on"] for row in rows] == [2, 2, 0]


def test_while_paused_the_champion_has_everything(story):
    paused = apply(story.state, commands.pause(story.state, Provenance("me", 1)))
    rows = {row["name"]: row["weight"] for row in queries.arm_rows(paused, story.records, {}, [])}
    assert rows == {"popularity": 1.0, "als": 0.0, "broken": 0.0}
    assert wording.sentence(paused, None).startswith("Paused: popularity serves all traffic.")


def test_the_sentence_names_traffic_the_best_arm_and_the_evidence(story):
    shown = wording.sentence(story.state, queries.last_look(story.records))
    assert shown == (
        "Traffic: 80\u00a0% als, 20\u00a0% popularity. als is best with probability above 0.999. "
        "No evidence against any arm."
    )


def test_the_sentence_says_when_evidence_mounts(story):
    at = next(i for i, r in enumerate(story.records) if r.kind == "rollback") - 3
    state = None
    for record in story.records[: at + 1]:
        state = apply(state, record)
    assert "evidence against broken: E = " in wording.sentence(state, story.records[at])


def test_the_sentence_before_the_first_look():
    story = ScriptedExperiment(looks=0).play()
    assert wording.sentence(story.state, None) == "popularity serves all traffic. There is no challenger."
    entered = apply(story.state, commands.enter(story.state, "als", "als-1", Provenance("me", 1)))
    assert wording.sentence(entered, None).endswith("No look yet: nothing has been counted.")


def counted(look, **units):
    """The look with these units, the others as they are."""
    arms = {
        name: msgspec.structs.replace(numbers, n=units.get(name, numbers.n))
        for name, numbers in look.evidence.arms.items()
    }
    return altered(look, evidence=msgspec.structs.replace(look.evidence, arms=arms))


def test_nothing_is_claimed_of_arms_without_units(story):
    look = story.records[-1]
    said = wording.sentence(story.state, counted(look, als=0, popularity=0))
    assert "Nothing has been counted yet: a unit is counted 8 s after it begins." in said
    said = wording.sentence(story.state, counted(look, als=0))
    assert "als has not been counted yet." in said
    assert "best" not in said


def test_arms_without_units_show_no_rate_and_no_posterior(story):
    rows = queries.arm_rows(story.state, [counted(story.records[-1], als=0)], {}, [])
    said = {row["name"]: (row["counted"], row["compared"]) for row in rows}
    assert said == {"popularity": (True, False), "als": (False, False), "broken": (False, False)}
    assert set(queries.densities(rows)) == {"popularity"}


def test_the_title_of_a_look_says_whether_weights_changed(story):
    looks = [(a, b) for a, b in zip(story.records, story.records[1:], strict=False) if b.kind == "allocate"]
    moved = {before.weights != look.weights for before, look in looks}
    assert moved == {True, False}
    for before, look in looks:
        word = "changed" if before.weights != look.weights else "kept"
        assert wording.title(look) == f"Weights {word}, version {look.weights_version}"


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (3e-7, "< 0.001"), (0.4234, "0.423"), (0.9999, "> 0.999")]
)
def test_chances_end_where_nobody_can_tell(p, text):
    assert wording.chance(p) == text


def test_a_retired_model_in_memory_is_said_to_be_kept(story):
    loaded = tuple(arm.model_version for arm in story.state.arms.values())
    row = queries.replica_rows(story.state, [replace(beats(story)[0], loaded=loaded)])[0]
    assert sorted(row["loaded_names"]) == ["als", "broken (kept for undo)", "popularity"]


def test_a_rollback_that_asks_for_retraining_says_so(story):
    state = apply(story.state, commands.enter(story.state, "text", "text-1", Provenance("me", 1)))
    titles = [
        wording.title(commands.rollback(state, "text", Provenance("me", 1), retrain=why))
        for why in ("", "it fell")
    ]
    assert titles == ["text rolled back", "text rolled back, retraining requested"]


@pytest.mark.parametrize(
    ("silence_s", "warned"), [(0, False), (3 * RULES.look_every_s, False), (40, True), (40_000, True)]
)
def test_a_silent_decider_is_named_after_three_missed_looks(story, silence_s, warned):
    now_ms = int(story.state.updated_ms + 1_000 * silence_s)
    found = queries.warnings(story.state, story.records[-1], beats(story), FRESH, now_ms)
    assert any("silent" in warning.text for warning in found) is warned


def test_warnings_name_what_cannot_be_reached_and_worst_comes_first(story):
    sources = Sources(
        read_at_ms=START_MS, log_error="kafka is unavailable: no broker", cache_error="redis is gone"
    )
    state = replace(story.state, unconfirmed=(7,))
    found = queries.warnings(state, story.records[-1], [], sources, START_MS + 90_000)
    texts = [warning.text for warning in found]
    assert "so this page is 1 min 30 s old" in texts[0]
    assert any(text.startswith("Redis can't be reached") for text in texts)
    assert not any("No replica" in text for text in texts)  # unknown, since Redis is gone: not claimed
    assert found[-1].level == "note"


def test_a_replica_that_serves_something_else_is_shown_as_such(story):
    stale = replace(beats(story)[0], champion="als", revision=3, loaded=())
    row = queries.replica_rows(story.state, [stale])[0]
    assert (row["agrees"], row["missing"]) == (False, ["als", "popularity"])
    assert row["behind"] == story.state.revision - 3


def test_a_broken_accounting_identity_is_found(story):
    look = queries.last_look(story.records)
    assert {row["gap"] for row in queries.accounting_rows(look)} == {0}
    accounts = {**look.evidence.accounting, "als": {"acknowledged": 10, "counted": 7, "late": 1}}
    broken = altered(look, evidence=msgspec.structs.replace(look.evidence, accounting=accounts))
    found = queries.warnings(story.state, broken, beats(story), FRESH, story.now_ms)
    assert "The events of als do not add up; see the accounting of outcomes." in [
        warning.text for warning in found
    ]


@pytest.mark.parametrize(
    ("log_e", "text"),
    [
        (0.0, "1"),
        (math.log(33.4), "33.4"),
        (-20.0, "< 0.001"),
        (1_105.2, "10^480"),
        (math.log(1.2e5), "1.2e+05"),
    ],
)
def test_e_values_stay_readable_where_floats_overflow(log_e, text):
    assert wording.evidence(log_e) == text


@pytest.mark.parametrize(
    ("span_s", "text"),
    [(0, "0 s"), (42, "42 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min"), (604_800, "7 d")],
)
def test_spans_read_like_speech(span_s, text):
    assert wording.seconds(span_s) == text


def test_every_look_is_five_seconds_after_the_last(story):
    looks = [r.received_at for r in story.records if r.kind == "allocate"]
    assert min(b - a for a, b in zip(looks, looks[1:], strict=False)) == LOOK_MS
