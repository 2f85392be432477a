"""One look: what holds, what rolls back, what allocates, and what each record says."""

import json

import pytest

from experiments.counting.sums import ExperimentSums
from experiments.decision_rules import Observation, look
from experiments.inference.beta_posterior import Posterior, p_best
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.decisions import RollbackDetail
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Rules

HOUR = 3_600_000
ANN = Provenance("ann", HOUR)
LOADED = frozenset({"pop-v", "als-v", "text-v"})
EVEN = {"2|pop|1|n": 900, "2|pop|1|s": 90, "2|als|1|n": 90, "2|als|1|s": 9}
BROKEN = {"3|pop|1|n": 5_000, "3|pop|1|s": 500, "3|als|1|n": 2_000, "3|als|1|s": 20}


def racing(**rules):
    state = apply(None, commands.start("shop", commands.Deployed("pop", "pop-v"), Rules(**rules), "x", ANN))
    state = apply(state, commands.enter(state, "als", "als-v", ANN))
    return apply(state, commands.allocate(state, {"pop": 0.75, "als": 0.25}, {"als": 3}, 0, ANN))


def sight(sums=EVEN, *, now_ms=2 * HOUR, **more):
    return Observation(
        **{"now_ms": now_ms, "sums": sums, "watermark_ms": now_ms - 1_000, "loaded": LOADED} | more
    )


def rules_of(decisions):
    return [(decision.kind, decision.rule) for decision in decisions]


def append(state, decisions):
    for decision in decisions:
        state = apply(state, decision)
    return state


def test_a_good_look_allocates_with_all_its_evidence():
    state, seen = racing(), sight(positions={"exposures/0": 7, "events/0": 9}, code_version="abc")
    (decision,) = look(state, seen)
    assert rules_of([decision]) == [("allocate", "burn-in")]
    assert (decision.positions, decision.code_version) == (seen.positions, "abc")
    assert decision.sums_digest == ExperimentSums.parse(EVEN).digest()
    found = json.loads(bytes(decision.evidence_json))
    assert set(found) == {"watermark_ms", "new_units", "arms", "races", "accounting"}
    assert found["new_units"] == 990
    assert set(found["arms"]["als"]) == {
        "n", "s", "rate", "a", "b", "posterior_mean", "low", "high", "p_best", "weight", "fallback",
    }  # fmt: skip
    beliefs = [Posterior(arm["a"], arm["b"]) for arm in found["arms"].values()]
    assert p_best(beliefs).tolist() == [arm["p_best"] for arm in found["arms"].values()]  # replayed
    assert found["arms"]["als"]["low"] < found["arms"]["als"]["posterior_mean"] < found["arms"]["als"]["high"]
    assert sum(arm["p_best"] for arm in found["arms"].values()) == pytest.approx(1)
    assert {race["arm"]: race["against"] for race in found["races"]} == {"als": "pop"}
    assert append(state, [decision]).units_at_update == 990


def test_a_losing_challenger_is_rolled_back_with_its_numbers():
    state = racing()
    (decision,) = look(state, sight(BROKEN))
    assert rules_of([decision]) == [("rollback", "click-race")]
    assert decision.detail == RollbackDetail(
        arm="als", version_out="als-v", version_in="pop-v", restored=None
    )
    assert decision.weights == {"pop": 1.0}
    (race,) = decision.evidence.races
    assert race.log_e > race.log_threshold
    assert "als is taken out: 20 of 2000 units with a click, pop 500 of 5000" in decision.reason


def test_a_failing_fresh_champion_is_replaced_and_retrained():
    state = racing(min_new_units=0)
    state = apply(state, commands.promote(state, "als", ANN))
    sums = {"4|pop|1|n": 1_000, "4|pop|1|s": 100, "4|als|1|n": 9_000, "4|als|1|s": 300}
    decisions = look(state, sight(sums))
    assert rules_of(decisions) == [("rollback", "click-race")]  # one record: no half of it can be lost
    assert decisions[0].detail.restored == "pop"
    assert decisions[0].detail.retrain == "als failed as fresh champion"
    state = append(state, decisions)
    assert (state.champion, state.retrain_pending, state.weights.shares) == ("pop", True, {"pop": 1.0})
    assert (state.retrain_revision, state.retrain_at_ms) == (decisions[0].revision, decisions[0].received_at)


def test_retraining_is_not_asked_for_again_within_the_cool_down():
    state = racing()
    state = apply(state, commands.promote(state, "als", ANN))
    state = apply(state, commands.retrain(state, "als", "drift", ANN))
    sums = {"4|pop|1|n": 1_000, "4|pop|1|s": 100, "4|als|1|n": 9_000, "4|als|1|s": 300}
    for now_ms, asked in ((2 * HOUR, False), (HOUR + 86_400_000, True)):
        (decision,) = look(state, sight(sums, now_ms=now_ms))
        assert (decision.kind, decision.detail.retrain != "") == ("rollback", asked)


def test_two_losers_go_in_one_look():
    state = racing()
    state = apply(state, commands.enter(state, "text", "text-v", ANN))
    state = apply(state, commands.allocate(state, {"pop": 0.5, "als": 0.25, "text": 0.25}, {}, 0, ANN))
    sums = {"5|pop|1|n": 5_000, "5|pop|1|s": 500} | {
        f"5|{arm}|1|{w}": x for arm in ("als", "text") for w, x in (("n", 2_500), ("s", 30))
    }
    decisions = look(state, sight(sums))
    assert [decision.detail.arm for decision in decisions] == ["als", "text"]
    assert append(state, decisions).weights.shares == {"pop": 1.0}


def test_an_arm_that_cannot_answer_hits_the_hard_limit():
    good = {f"3|als|{hour}|n": 1_000 for hour in range(20)} | {f"3|als|{hour}|s": 100 for hour in range(20)}
    pop = {"3|pop|20|n": 1_000, "3|pop|20|s": 100}
    failing = {"3|als|21|n": 100, "3|als|21|s": 10, "3|als|21|f": 21}
    now = sight(good | pop | failing, now_ms=22 * HOUR)
    (decision,) = look(racing(), now)
    assert rules_of([decision]) == [("rollback", "fallback-limit")]
    assert "21 of its latest 100 units" in decision.reason
    for fine in ({"3|als|21|f": 20}, {"3|als|21|n": 99, "3|als|21|f": 99}):
        sums = good | pop | failing | fine
        assert rules_of(look(racing(), sight(sums, now_ms=22 * HOUR)))[0][0] == "allocate"


def test_only_the_hard_limit_acts_during_a_loss():
    loss = {3: "offsets 5 to 9 are gone"}
    sums = {"3|pop|1|n": 1_000, "3|pop|1|s": 100, "3|als|1|n": 1_000, "3|als|1|s": 100, "3|als|1|f": 990}
    state = racing()
    held = append(state, look(state, sight(sums, losses=loss)))
    assert held.held_by == "data-loss"
    decided = look(held, sight(sums, losses=loss))
    assert rules_of(decided) == [("rollback", "fallback-limit")]
    after = append(held, decided)
    assert (after.status, after.held_by, after.weights.shares) == ("held", "data-loss", {"pop": 1.0})
    assert look(after, sight(sums, losses=loss)) == []
    assert look(held, sight(BROKEN, losses=loss)) == []  # the race waits
    assert look(held, sight(sums | {"acct|als|acknowledged": 5, "acct|als|counted": 4}, losses=loss)) == []
    assert look(held, sight(sums | {"what|is": 1}, losses=loss)) == []


def test_an_undone_rollback_starts_without_its_past():
    state = racing()
    state = append(state, look(state, sight(BROKEN)))
    state = apply(state, commands.undo(state, state.revision, ANN))
    assert rules_of(look(state, sight(BROKEN))) == [("allocate", "burn-in")]


@pytest.mark.parametrize(
    ("rule", "seen"),
    [
        ("data-loss", sight(BROKEN, losses={3: "offsets 5 to 9 are gone"})),
        ("broken-identity", sight(BROKEN | {"acct|als|acknowledged": 5, "acct|als|counted": 4})),
        ("broken-identity", sight(BROKEN | {"3|als|1|s": 2_001})),
        ("broken-identity", sight(BROKEN | {"3|als|1|s": 10**9})),
        ("broken-identity", sight(BROKEN | {"3|als|1|s": -1})),
        ("broken-identity", sight(BROKEN | {"3|als|1|c": 21})),
        ("broken-identity", sight(BROKEN | {"acct|als|exposed": 2_001})),
        (
            "broken-identity",
            sight(BROKEN | {"acct|als|exposed": 2_000, "3|als|1|c": 19}, now_ms=4 * HOUR),
        ),
        ("broken-identity", sight(BROKEN | {"3|als|1|clicks": 7})),
        ("broken-identity", sight(BROKEN | {"77|als|1|n": 7})),
        ("stalled-watermark", sight(BROKEN, now_ms=3 * HOUR, watermark_ms=2 * HOUR)),
        ("stalled-watermark", sight(BROKEN, now_ms=3 * HOUR, watermark_ms=None)),
    ],
)
def test_what_cannot_be_trusted_holds_and_never_rolls_back(rule, seen):
    state = racing()
    decisions = look(state, seen)
    assert rules_of(decisions) == [("hold", rule)]
    state = append(state, decisions)
    assert state.weights == racing().weights
    assert look(state, seen) == []


def test_a_stall_lifts_itself():
    state = racing()
    state = append(state, look(state, sight(now_ms=3 * HOUR, watermark_ms=2 * HOUR)))
    assert state.status == "held"
    state = append(state, look(state, sight(now_ms=3 * HOUR)))
    assert (state.status, state.held_by) == ("running", "")


def test_data_loss_holds_until_a_person_acknowledges_it():
    lost = {3: "offsets 5 to 9 are gone"}
    state = racing()
    state = append(state, look(state, sight(losses=lost)))
    assert look(state, sight()) == []
    state = apply(state, commands.resume(state, ANN))
    assert rules_of(look(state, sight(losses=lost)))[0][0] == "allocate"
    assert rules_of(look(state, sight(losses=lost | {4: "another log"}))) == [("hold", "data-loss")]


def test_a_stall_can_turn_into_data_loss():
    state = racing()
    state = append(state, look(state, sight(now_ms=3 * HOUR, watermark_ms=2 * HOUR)))
    assert rules_of(look(state, sight(losses={0: "gone"}))) == [("hold", "data-loss")]


def test_a_new_experiment_is_not_stalled_before_its_first_watermark():
    assert rules_of(look(racing(), sight({}, now_ms=HOUR + 900_000, watermark_ms=None)))[0][0] == "allocate"


def test_nothing_is_decided_while_paused_or_ended():
    state = racing()
    assert look(apply(state, commands.pause(state, ANN)), sight(BROKEN)) == []
    assert look(apply(state, commands.end(state, ANN)), sight(BROKEN)) == []


def test_too_few_units_are_recorded_without_restarting_the_count():
    state = racing()
    few = {"3|pop|1|n": 120, "3|pop|1|s": 9}
    (decision,) = look(state, sight(few))
    assert rules_of([decision]) == [("allocate", "too-few-units")]
    assert decision.reason == "120 new units since the last update, 200 are needed: weights are kept."
    assert append(state, [decision]).units_at_update == 0
