"""Weighted rendezvous: shares come out as weights; a changed weight moves units only to or from its arm."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.allocation.assignment import assign, unit_id

WEIGHTS = {"popularity": 0.2, "als": 0.5, "text": 0.25, "late": 0.05, "off": 0.0}


def arms_of(weights, n=20_000, salt="s"):
    return [assign(salt, "shop", f"u:{i}:3", weights)[0] for i in range(n)]


def test_shares_follow_the_weights():
    arms = arms_of(WEIGHTS)
    live = [name for name, w in WEIGHTS.items() if w]
    counts = [arms.count(name) for name in live]
    assert "off" not in arms
    assert stats.chisquare(counts, [len(arms) * WEIGHTS[name] for name in live]).pvalue > 1e-3


def test_salts_and_experiments_assign_independently():
    one, other = arms_of(WEIGHTS), arms_of(WEIGHTS, salt="t")
    _, table = np.unique(np.array([one, other]), axis=1, return_counts=True)
    assert stats.chi2_contingency(table.reshape(4, 4)).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5).filter(any), st.integers(0, 4), st.floats(0.01, 1))
def test_a_changed_weight_only_moves_units_of_its_arm(weights, which, weight):
    before = {f"arm{i}": w for i, w in enumerate(weights)}
    arm = f"arm{which % len(weights)}"
    now = before | {arm: weight}
    moved = [(a, b) for a, b in zip(arms_of(before, 200), arms_of(now, 200), strict=True) if a != b]
    up = weight > before[arm]
    assert all((b if up else a) == arm for a, b in moved)


@given(st.permutations(list(WEIGHTS)))
def test_the_order_of_arms_does_not_matter(order):
    shuffled = {name: WEIGHTS[name] for name in order}
    assert arms_of(shuffled, 50) == arms_of(WEIGHTS, 50)


def test_another_process_assigns_alike():
    code = "from experiments.allocation.assignment import assign; "
    code += f"print(assign('s', 'shop', 'u:anna:3', {WEIGHTS!r}))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(assign("s", "shop", "u:anna:3", WEIGHTS)) == "('als', 0.5)"


def test_propensity_is_the_share():
    assert assign("s", "shop", "u:1", {"a": 3.0, "b": 0.0}) == ("a", 1.0)
    with pytest.raises(ValueError, match="no arm of experiment 'shop' has weight"):
        assign("s", "shop", "u:1", {"a": 0.0})


@pytest.mark.parametrize(
    ("kind", "unit"), [("request", "r:q9"), ("session", "s:anna:t1"), ("user_day", "u:anna:19675")]
)
def test_unit_ids(kind, unit):
    assert unit_id(kind, "anna", "t1", 1_700_000_000_000, "q9") == unit


def test_unknown_unit_kind_is_named():
    with pytest.raises(ValueError, match="kind: 'device'"):
        unit_id("device", "anna", None, 0, "q")
