"""An experiment is a fold over its decisions: laws under any sequence of commands, and what each refuses."""

import math
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decisions import altered

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import AnswerDetail, RollbackDetail
from experiments.lifecycle.fold import VoidRevision, apply, fold
from experiments.lifecycle.state import Experiment, Rules, to_dict
from experiments.lifecycle.transitions import IllegalTransition, retraining_request


def at(now_ms=1, **more):
    return Provenance("ann", now_ms, **more)


FIRST = commands.start("shop", commands.Deployed("popularity", "p-1"), Rules(), "salt", at())


def after(*makers, state=None):
    """State and log after FIRST (or from `state` on) and one decision of each maker (a function of the
    state)."""
    log = [] if state else [FIRST]
    state = state or apply(None, FIRST)
    for make in makers:
        log.append(make(state))
        state = apply(state, log[-1])
    return state, log


def enters(arm):
    return lambda s: commands.enter(s, arm, f"{arm}-1", at())


def weighs(**shares):
    return lambda s: commands.allocate(s, shares, {}, 500, at(rule="thompson"))


def promotes(arm):
    return lambda s: commands.promote(s, arm, at())


def rolls_back(arm):
    return lambda s: commands.rollback(s, arm, at())


def undoes(revision):
    return lambda s: commands.undo(s, revision, at())


def paused(s):
    return commands.pause(s, at())


def resumed(s):
    return commands.resume(s, at())


def ended(s):
    return commands.end(s, at())


def held(rule="data-loss"):
    return lambda s: commands.hold(s, ["partition 3: offsets 5 to 9 are gone"], at(rule=rule))


# ---- the fold of a long log --------------------------------------------------------------------------------


def long_log(looks):
    return after(enters("als"), *(weighs(popularity=1 - n / 999, als=n / 999) for n in range(1, looks)))


def test_a_fold_equals_its_steps_and_leaves_its_input():
    begun, _ = after(enters("als"))
    kept, (state, log) = to_dict(begun), long_log(50)
    assert fold(log) == fold(log[2:], begun) == state
    assert to_dict(begun) == kept


def test_mutation_in_place_survives_a_breaking_record():
    state, log = long_log(20)
    before, following = fold(log), weighs(popularity=0.5, als=0.5)(state)
    kept = to_dict(before)
    for wrong in (altered(following, weights={"als": 1.0}), altered(following, weights_version=99)):
        with pytest.raises(IllegalTransition):
            apply(before, wrong, mutate=True)
    assert to_dict(before) == kept
    assert apply(before, following).versions is not before.versions
    assert apply(before, following, mutate=True).versions is before.versions


# ---- laws under any sequence -------------------------------------------------------------------------------


def any_decision(state: Experiment, random: Random):
    arms = [*state.arms, f"m{random.randrange(6)}"]
    weights = {name: random.random() for name in state.weights.shares}
    shares = {name: w / sum(weights.values()) for name, w in weights.items()}
    return random.choice(
        [
            lambda: commands.enter(state, random.choice(arms), "v", at()),
            lambda: commands.allocate(state, shares, {random.choice(arms): 1}, random.randrange(900), at()),
            lambda: commands.rollback(state, random.choice(arms), at(), random.choice(["", "why"])),
            lambda: commands.promote(state, random.choice(arms), at()),
            lambda: commands.undo(state, random.randrange(1, state.revision + 1), at()),
            lambda: commands.pause(state, at()),
            lambda: commands.resume(
                state, at(), random.choice([None, None, Rules(margin=random.random() / 2)])
            ),
            lambda: commands.hold(state, ["why"], at(rule=random.choice(["stalled-watermark", "loss"]))),
            lambda: commands.confirm(state, random.randrange(1, state.revision + 1), ["r1"], 0.3, at()),
            lambda: commands.retrain(state, state.champion, "why", at()),
            lambda: commands.attempt(state, at()),
            lambda: commands.answer(
                state, AnswerDetail(answers=state.retrain_revision, outcome="refused"), at()
            ),
        ]
    )()


def any_log(random: Random, n: int):
    state, log, states = apply(None, FIRST), [FIRST], []
    for _ in range(n):
        try:
            log.append(any_decision(state, random))
        except IllegalTransition:
            continue
        state = apply(state, log[-1])
        states.append(state)
    return log, states


def check(state: Experiment, before: Experiment):
    roles = [arm.role for arm in state.live_arms()]
    assert roles.count("champion") == 1
    assert roles.count("holdback") <= 1
    assert state.arms[state.champion].role == "champion"
    assert set(state.weights.shares) == {arm.name for arm in state.live_arms()}
    assert math.isclose(math.fsum(state.weights.shares.values()), 1, abs_tol=1e-9)
    assert state.versions.items() >= before.versions.items()
    assert state.versions[state.weights.version] == state.weights.shares
    seen = before.causes if before.status == "held" else ()  # a pause covers a hold: nobody accepts it then
    assert set(state.acknowledged) - set(before.acknowledged) <= set(seen)
    assert set(before.acknowledged) <= set(state.acknowledged)
    if state.status != "paused":
        assert bool(state.held_by) == (state.status == "held")
    check_races(state, before)


def check_races(state: Experiment, before: Experiment):
    watched = {a.name: state.champion for a in state.live_arms() if a.role == "challenger"}
    if holdback := state.holdback():
        watched[state.champion] = holdback.name
    assert {race.arm: race.against for race in state.races} == watched
    assert state.races_started >= before.races_started
    for race in state.races:
        known = race in before.races
        assert known or race.index > before.races_started
        assert known or race.from_version == state.weights.version > before.weights.version


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1).map(Random), st.integers(1, 40))
def test_laws_of_every_state(random, n):
    log, states = any_log(random, n)
    for before, state in zip([apply(None, FIRST), *states], states, strict=False):
        check(state, before)
    state = fold(log)
    assert state == (states or [apply(None, FIRST)])[-1]
    assert msgspec.json.decode(msgspec.json.encode(to_dict(state)), type=Experiment) == state
    assert msgspec.json.decode(msgspec.json.encode(state), type=Experiment) == state
    assert fold(msgspec.json.decode(msgspec.json.encode(log), type=list[type(FIRST)])) == state


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1).map(Random), st.integers(1, 30))
def test_void_records_change_nothing(random, n):
    log, _ = any_log(random, n)
    noisy = []
    for i, decision in enumerate(log):
        noisy += [decision, *random.choices(log[: i + 1], k=2), altered(decision, author="zombie")]
        noisy.append(altered(decision, revision=decision.revision + 2))
    assert fold(noisy) == fold(log)


def test_the_budget_of_all_races_is_alpha():
    makers = [enters(f"m{i}") for i in range(12)] + [promotes("m3"), rolls_back("m3"), undoes(15)]
    state, _ = after(*makers)
    spent = [race.alpha for race in state.races]
    assert state.races_started > 20
    assert len(set(spent)) == len(spent)
    assert sum(0.05 * 6 / (math.pi * i) ** 2 for i in range(1, state.races_started + 1)) < 0.05


# ---- what each kind does -----------------------------------------------------------------------------------


def test_a_rolled_back_challenger_leaves_its_share_to_the_champion():
    state, log = after(enters("als"), weighs(popularity=0.4, als=0.6), rolls_back("als"))
    assert state.weights.shares == {"popularity": 1.0}
    assert state.arms["als"].role == "retired"
    detail = RollbackDetail(arm="als", version_out="als-1", version_in="p-1", restored=None)
    assert log[-1].detail == detail
    assert state.unconfirmed == (4,)


def test_a_promotion_keeps_the_old_champion_at_the_floor():
    state, _ = after(enters("als"), weighs(popularity=0.4, als=0.6), promotes("als"))
    assert state.weights.shares == {"popularity": pytest.approx(0.10), "als": pytest.approx(0.90)}
    (race,) = state.races
    assert (race.arm, race.against, race.index, race.from_version) == (
        "als",
        "popularity",
        2,
        state.weights.version,
    )


def test_a_bad_promotion_puts_the_old_champion_back():
    state, log = after(enters("als"), weighs(popularity=0.4, als=0.6), promotes("als"), rolls_back("als"))
    assert state.champion == "popularity"
    assert state.weights.shares == {"popularity": 1.0}
    assert log[-1].detail.restored == "popularity"
    assert state.races == ()


def test_a_holdback_comes_back_only_where_there_is_none():
    """Else a rollback of the champion would put back whichever comes first."""
    makers = [enters("b"), promotes("b"), rolls_back("popularity"), enters("d"), promotes("d")]
    state, _ = after(*makers)
    assert state.holdback().name == "b"
    with pytest.raises(IllegalTransition, match="revision 4 can't be undone: b is the holdback by now"):
        commands.undo(state, 4, at())
    again, _ = after(*makers, rolls_back("b"), undoes(4))
    assert again.holdback().name == "popularity"
    assert [race.against for race in again.races] == ["popularity"]


def test_undo_of_a_promotion_restores_roles_and_swaps_shares():
    state, _ = after(enters("als"), weighs(popularity=0.4, als=0.6), promotes("als"), undoes(4))
    assert {name: arm.role for name, arm in state.arms.items()} == {
        "popularity": "champion",
        "als": "challenger",
    }
    assert state.weights.shares["popularity"] == pytest.approx(0.9)
    assert state.races[0].index == 3


def test_undoing_a_rollback_readmits_the_arm_at_zero():
    state, _ = after(enters("als"), weighs(popularity=0.4, als=0.6), rolls_back("als"), undoes(4))
    assert state.weights.shares == {"popularity": 1.0, "als": 0.0}
    assert state.arms["als"].since_version == state.weights.version
    assert state.races[0].from_version == state.weights.version


def test_an_undone_rollback_of_the_champion_can_be_done_again():
    makers = [enters("als"), weighs(popularity=0.4, als=0.6), promotes("als"), rolls_back("als"), undoes(5)]
    state, _ = after(*makers, undoes(6))
    assert {name: arm.role for name, arm in state.arms.items()} == {
        "popularity": "champion",
        "als": "retired",
    }
    assert state.weights.shares == {"popularity": 1.0}


def test_pause_remembers_what_to_resume_less_what_was_retired_meanwhile():
    makers = [enters("als"), enters("text"), weighs(popularity=0.5, als=0.3, text=0.2), paused]
    state, _ = after(*makers, resumed)
    assert state.weights.shares == {"popularity": 0.5, "als": 0.3, "text": 0.2}
    state, _ = after(*makers, rolls_back("als"))
    assert state.weights.shares == {"popularity": 1.0, "text": 0.0}
    state, _ = after(*makers, rolls_back("als"), resumed)
    assert state.weights.shares == {"popularity": 0.8, "text": 0.2}


@pytest.mark.parametrize("rules", [None, Rules(margin=0.1)])
def test_a_hold_outlives_the_pause_that_covers_it(rules):
    makers = [enters("als"), weighs(popularity=0.4, als=0.6), held(), paused]
    state, log = after(*makers, lambda s: commands.resume(s, at(), rules))
    assert (state.status, state.held_by, state.acknowledged) == ("held", "data-loss", ())
    assert state.causes == ("partition 3: offsets 5 to 9 are gone",)
    assert log[-1].reason.endswith("; held by data-loss, as before the pause.")
    assert state.weights.shares == {"popularity": 0.4, "als": 0.6}
    with pytest.raises(IllegalTransition, match="held by data-loss: it needs resume"):
        after(weighs(popularity=1.0, als=0.0), state=state)
    accepted, _ = after(resumed, state=state)
    assert (accepted.status, accepted.held_by, accepted.causes) == ("running", "", ())
    assert accepted.acknowledged == state.causes


def test_a_resume_accepts_what_it_names_of_what_held():
    state, _ = after(lambda s: commands.hold(s, ["one", "two"], at(rule="data-loss")))
    said = resumed(state)
    some = apply(state, altered(said, detail={"accepts": ["two", "never seen"]}))
    assert (some.status, some.causes, some.acknowledged) == ("held", ("one",), ("two",))
    assert apply(state, said).acknowledged == ("one", "two")


def test_a_resume_of_an_older_log_does_what_it_did():
    """It names nothing: what follows it in the log was decided while the experiment ran."""
    _, log = after(enters("als"), weighs(popularity=0.4, als=0.6), held(), paused, resumed)
    older = [*log[:-1], altered(log[-1], detail={})]
    state = fold(older)
    assert (state.status, state.held_by, state.causes) == ("running", "", ())
    assert state.acknowledged == ("partition 3: offsets 5 to 9 are gone",)
    following = weighs(popularity=0.3, als=0.7)(state)
    assert fold([*older, following]).revision == following.revision


def test_resume_with_new_rules_races_anew_but_never_recounts():
    state, _ = after(enters("als"), weighs(popularity=0.4, als=0.6))
    before = state.races[0]
    state = apply(state, commands.pause(state, at()))
    state = apply(state, commands.resume(state, at(), Rules(margin=0.1)))
    assert state.rules.margin == 0.1
    assert (state.races[0].index, state.races[0].from_version) == (before.index + 1, state.weights.version)
    state = apply(state, commands.pause(state, at()))
    with pytest.raises(IllegalTransition, match="rules.window_s says what is counted"):
        commands.resume(state, at(), Rules(window_s=60))


def test_a_look_lifts_a_stall_but_not_data_loss():
    state, _ = after(held("stalled-watermark"), weighs(popularity=1.0))
    assert (state.status, state.held_by) == ("running", "")
    with pytest.raises(IllegalTransition, match="held by data-loss: it needs resume"):
        after(held(), weighs(popularity=1.0))
    state, _ = after(held(), resumed)
    assert state.acknowledged == ("partition 3: offsets 5 to 9 are gone",)


def test_a_rollback_with_retraining_equals_both_records():
    """Older logs hold a record of its own for the request; both say the same of what is asked."""
    before, _ = after(enters("als"), promotes("als"))
    one = apply(before, commands.rollback(before, "als", at(now_ms=7), retrain="it fell"))
    two, _ = after(rolls_back("als"), state=before)
    two = apply(two, commands.retrain(two, "als", "it fell", at(now_ms=7)))
    for asked, revision in ((one, two.revision - 1), (two, two.revision)):
        assert (asked.retrain_pending, asked.retrain_at_ms, asked.retrain_revision) == (True, 7, revision)
        assert not apply(
            asked, commands.answer(asked, AnswerDetail(answers=revision, outcome="refused"), at())
        ).retrain_pending
    both = (one, two)
    assert {(s.champion, s.retrain_attempts, s.retrain_tried_ms) for s in both} == {("popularity", 0, 0)}


def test_who_asks_for_retraining_is_read_from_either_record():
    state, _ = after(enters("als"), promotes("als"))
    asks = commands.rollback(state, "als", at(), retrain="it fell")
    for record in (asks, commands.retrain(state, "als", "it fell", at())):
        assert retraining_request(record) == ("als", "it fell")
    for other in (FIRST, commands.rollback(state, "als", at()), commands.pause(state, at())):
        assert retraining_request(other) is None


def test_only_the_trainers_entry_answers_a_retraining_request():
    asked, _ = after(lambda s: commands.retrain(s, "popularity", "drift", at(now_ms=7)), enters("other"))
    assert (asked.retrain_pending, asked.retrain_at_ms) == (True, 7)
    answered = apply(asked, commands.enter(asked, "als", "als-2", Provenance("trainer", 9)))
    assert not answered.retrain_pending
    refused = apply(
        asked,
        commands.answer(asked, AnswerDetail(answers=asked.retrain_revision, outcome="refused"), at()),
    )
    assert not refused.retrain_pending
    for settle in (
        commands.attempt,
        lambda s, o: commands.answer(s, AnswerDetail(answers=s.retrain_revision, outcome="failed"), o),
    ):
        with pytest.raises(IllegalTransition, match="not waiting for an answer"):
            settle(refused, at())
    with pytest.raises(IllegalTransition, match=r"detail\.outcome"):
        commands.answer(asked, AnswerDetail(answers=asked.retrain_revision, outcome="lost"), at())


def test_confirmation_settles_what_waits_for_it():
    state, _ = after(
        enters("als"), rolls_back("als"), lambda s: commands.confirm(s, 3, ["a", "b"], 0.4, at())
    )
    assert state.unconfirmed == ()
    with pytest.raises(IllegalTransition, match="revision 3 does not wait"):
        commands.confirm(state, 3, [], 0, at())


REFUSALS = {
    "arm als is already in shop": [enters("als"), enters("als")],
    "arm name 'a|b' must match": [enters("a|b")],
    "shop has no arm als": [rolls_back("als")],
    "there is no holdback to replace it": [rolls_back("popularity")],
    "arm als is already retired": [enters("als"), rolls_back("als"), rolls_back("als")],
    "only a challenger can be promoted": [promotes("popularity")],
    "revision 1 is not a rollback or promotion, so it can't be undone": [undoes(1)],
    "can't be undone: als is challenger now": [enters("als"), rolls_back("als"), undoes(3), undoes(3)],
    "allocate is not possible while shop is paused": [paused, weighs(popularity=1.0)],
    "pause is not possible while shop is ended": [ended, paused],
    "resume is not possible while shop is running": [resumed],
    "weights must sum to 1": [weighs(popularity=0.9)],
    "weights must not be negative": [enters("als"), weighs(popularity=1.1, als=-0.1)],
    "weights must name the live arms": [weighs(popularity=0.9, als=0.1)],
}


@pytest.mark.parametrize(("sentence", "makers"), REFUSALS.items(), ids=list(REFUSALS))
def test_refusals_name_what_is_wrong(sentence, makers):
    with pytest.raises(IllegalTransition, match=sentence.replace("|", r"\|")):
        after(*makers)


def test_apply_refuses_what_no_constructor_makes():
    state, _ = after(enters("als"))
    good = commands.allocate(state, {"popularity": 0.9, "als": 0.1}, {}, 0, at())
    with pytest.raises(VoidRevision, match="revision 2 is void, the next one is 3"):
        apply(state, altered(good, revision=2))
    with pytest.raises(IllegalTransition, match="weights version 2 is immutable"):
        apply(state, altered(good, weights_version=2))
    with pytest.raises(IllegalTransition, match="weights version 9 is not 3"):
        apply(state, altered(good, weights_version=9))
    with pytest.raises(IllegalTransition, match="elsewhere is not shop"):
        apply(state, altered(good, experiment="elsewhere"))
    with pytest.raises(IllegalTransition, match="was never started"):
        apply(None, altered(good, revision=1))
    with pytest.raises(IllegalTransition, match="start is not possible"):
        apply(state, altered(FIRST, revision=3))


@pytest.mark.parametrize("detail", [{}, {"arm": ["als"]}, {"arm": None, "model_version": 3}])
def test_a_malformed_record_is_refused_and_the_fold_goes_on(detail):
    bad = altered(FIRST, revision=2, kind="enter", detail=detail)
    with pytest.raises(IllegalTransition, match=r"enter: detail"):
        apply(apply(None, FIRST), bad)
    good = enters("als")(apply(None, FIRST))
    assert fold([FIRST, bad, good]) == fold([FIRST, good])


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("allocate", {"ramp": {"popularity": "two"}}),
        ("allocate", {"units": "many"}),
        ("enter", {"arm": "als", "model_version": ["als-1"]}),
        ("hold", {"causes": "text"}),
        ("hold", {"causes": [1]}),
        ("retrain", {"arm": "popularity"}),
        ("recount", {"from_ms": 10**17}),
        ("recount", {"from_ms": 0, "dropped": {"arms": {"popularity": 3}}}),
    ],
)
def test_records_that_break_assumptions_of_readers_are_refused(kind, detail):
    state = apply(None, FIRST)
    weights = {"popularity": 1.0} | ({"als": 0.0} if kind == "enter" else {})
    bad = altered(
        FIRST, revision=2, kind=kind, detail=detail, weights=weights, weights_version=1 + (kind == "enter")
    )
    with pytest.raises(IllegalTransition, match=rf"{kind}: detail\."):
        apply(state, bad)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("received_at", 10**17),
        ("received_at", -1),
        ("evidence", {"arms": "text"}),
        ("evidence", {"arms": {"a": {"n": "many"}}}),
        ("evidence", {"arms": {"a": {"n": True}}}),
        ("evidence", {"races": 5}),
        ("evidence", {"races": [{"arm": None}]}),
        ("evidence", {"accounting": {"a": {"counted": "x"}}}),
        ("evidence", {"watermark_ms": 10**17}),
        ("evidence", {"new_units": 10**40}),
        ("detail", {"number": -(10**40)}),
        ("detail", {"deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}),
        ("positions", {"events/0": 2**63}),
    ],
)
def test_what_can_be_of_no_decision_makes_none(what, value):
    with pytest.raises(ValueError, match=what):
        altered(FIRST, **{what: value})


@pytest.mark.parametrize(
    "evidence",
    [
        {"gate": {"passed": True, "champion": None}, "of a later version": [{"x": "y"}]},
        {"arms": {"a": {"n": None, "low": None, "new": "y"}}, "races": [{"arm": "a"}], "watermark_ms": None},
        {"arms": {"a": {"n": 2, "rate": 0, "low": math.nan}}, "races": [{"arm": "a", "log_e": -math.inf}]},
    ],
)
def test_missing_new_or_null_evidence_stops_no_record(evidence):
    written = msgspec.json.decode(msgspec.json.encode(evidence))  # NaN is null
    assert msgspec.json.decode(altered(FIRST, evidence=evidence).evidence_json) == written


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0),
        ("alpha", 5e-324),
        ("margin", 1.0),
        ("floor", -0.1),
        ("ramp", (0.2, 0.1)),
        ("window_s", 0),
        ("cap", 2),
        ("half_life_s", 0),
        ("unit", "sesion"),
        ("unit", []),
        ("outcome", "clik"),
        ("alpha", "x"),
        ("cap", True),
        ("ramp", 0.5),
        ("ramp", None),
        ("ramp", ["x"]),
        ("burn_in_units", "x"),
        ("burn_in_successes", -1),
        ("min_new_units", 0.5),
        ("cool_down_s", float("nan")),
        ("window_s", 1e300),
    ],
)
def test_rules_name_the_field_that_makes_no_sense(field, value):
    with pytest.raises(ValueError, match=rf"rules\.{field}"):
        Rules(**{field: value})
