"""The click race: its martingale property exactly, its symmetry, and that it is a function of the sums."""

import math
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.counting.sums import ExperimentSums, merge
from experiments.inference.click_race import (
    GRID,
    log_evidence,
    log_stakes,
    race_status,
    rollback_hypothesis,
)
from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Rules

p = st.floats(0.01, 0.99)
margins = st.floats(0, 0.5)
sides = margins.map(rollback_hypothesis)


@given(sides, p, p, st.floats(0.2, 3))
def test_a_bet_has_expectation_at_most_one_under_null(side, p_a, p_0, times):
    ratio = side.bound * max(1, times)  # any ratio the null allows
    q = p_a * ratio / (p_a * ratio + p_0)
    ours, theirs = (np.exp(log_stakes(*s, p_a, p_0, side)) for s in ((1, 0), (0, 1)))
    expected = q * ours + (1 - q) * theirs
    assert (expected <= 1 + 1e-12).all()
    if ratio == side.bound:
        assert expected == pytest.approx(np.ones(GRID))


@given(margins, p, p)
def test_the_formula_is_the_one_of_the_documentation(margin, p_a, p_0):
    side = rollback_hypothesis(margin)
    r, d = side.alternatives, margin
    q0, qr = p_a * (1 - d) / (p_a * (1 - d) + p_0), p_a * r / (p_a * r + p_0)
    told = 5 * np.log(qr / q0) + 7 * np.log((1 - qr) / (1 - q0))
    assert log_stakes(5, 7, p_a, p_0, side) == pytest.approx(told)
    assert (r.min(), r.max()) == pytest.approx((0.30 * (1 - d), 0.98 * (1 - d)))


def test_alternatives_lie_on_the_right_side_of_the_bound():
    for margin in (0, 0.03, 0.10, 0.20):
        assert (rollback_hypothesis(margin).alternatives < 1 - margin).all()


def test_nothing_is_bet_where_an_arm_has_no_weight():
    assert (
        log_stakes(9, 5, [0.0, 1.0], [1.0, 0.0], rollback_hypothesis(0)).tolist()
        == np.zeros((2, GRID)).tolist()
    )
    assert log_evidence(np.zeros((2, GRID))) == pytest.approx([0, 0])


def test_evidence_grows_with_every_success_of_the_other_arm():
    stakes = [log_evidence(log_stakes(5, s, 0.5, 0.5, rollback_hypothesis(0.03))) for s in range(5, 60, 5)]
    assert all(later > earlier for earlier, later in pairwise(stakes))


def raced(**rules):
    origin = Provenance("ann", 1)
    state = apply(None, commands.start("shop", commands.Deployed("pop", "p"), Rules(**rules), "salt", origin))
    state = apply(state, commands.enter(state, "als", "a", origin))
    for share in (0.05, 0.25, 0.5):
        state = apply(state, commands.allocate(state, {"pop": 1 - share, "als": share}, {}, 0, origin))
    return state


SUMS = {"1|pop|0|n": 900, "1|pop|0|s": 90, "3|pop|1|n": 95, "3|pop|1|s": 11, "3|als|1|n": 5, "3|als|1|s": 1}
SUMS |= {"4|pop|1|n": 75, "4|pop|1|s": 9, "4|als|1|n": 25, "4|als|2|s": 2, "5|pop|2|s": 6, "5|als|2|s": 1}


def test_a_race_status_sums_versions_since_its_start():
    state = raced(margin=0.03)
    side = rollback_hypothesis(0.03)
    by_hand = (
        log_stakes(1, 11, 0.05, 0.95, side)
        + log_stakes(2, 9, 0.25, 0.75, side)
        + log_stakes(1, 6, 0.5, 0.5, side)
    )
    found = race_status(state, ExperimentSums.parse(SUMS), state.races[0])
    assert found.log_e == pytest.approx(math.log(np.exp(by_hand).mean()), abs=1e-12)
    assert (found.arm.s, found.against.s, found.arm.n, found.against.n) == (4, 26, 30, 170)
    assert found.log_threshold == pytest.approx(-math.log(0.05 * 6 / math.pi**2))


@given(st.integers(0, 2**32 - 1).map(Random))
def test_evidence_is_a_function_of_the_sums(random):
    """Order, partitions and duplicates of events change no integer sum; nor then the evidence, to the last
    bit."""
    state, keys = raced(), list(SUMS)
    random.shuffle(keys)
    parts = [{key: random.randrange(SUMS[key] + 1) for key in keys} for _ in range(1)]
    parts.append({key: SUMS[key] - parts[0][key] for key in keys})
    one, other = (
        race_status(state, ExperimentSums.parse(sums), state.races[0]) for sums in (SUMS, merge(parts))
    )
    assert one.log_e == other.log_e


def test_sums_before_the_race_do_not_count():
    state = raced()
    state = apply(state, commands.promote(state, "als", Provenance("ann", 2)))
    found = race_status(state, ExperimentSums.parse(SUMS), state.races[0])
    assert (found.log_e, found.arm.s) == (pytest.approx(0, abs=1e-12), 0)
