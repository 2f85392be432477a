"""Who is best: against closed forms and Monte Carlo, for flat, steep and absurd posteriors."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import betaln

from experiments.counting.sums import ExperimentSums
from experiments.inference.beta_posterior import MIN_A, MIN_B, Posterior, p_best, posteriors
from experiments.lifecycle.state import Rules

beliefs = st.builds(
    lambda a, b: Posterior(10.0**a, 10.0**b),
    st.floats(np.log10(MIN_A), 7),
    st.floats(np.log10(MIN_B), 8),
)


def p_first_closed_form(x: Posterior, y: Posterior) -> float:
    """P(X > Y) for whole x.a: Σ_i B(y.a + i, x.b + y.b) / ((x.b + i) B(1+i, x.b) B(y.a, y.b)), E. Miller."""
    i = np.arange(int(x.a))
    logs = betaln(y.a + i, x.b + y.b) - np.log(x.b + i) - betaln(1 + i, x.b) - betaln(y.a, y.b)
    return float(np.exp(logs).sum())


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((3, 20), (2.5, 30)),
        ((40, 1960), (55, 2000)),
        ((400, 19_600), (5, 300)),
        ((9, 1), (1, 9)),
        ((7, 1e6), (0.4, 19.6)),
    ],
)
def test_two_arms_against_the_closed_form(x, y):
    x, y = Posterior(*x), Posterior(*y)
    assert p_best([x, y])[0] == pytest.approx(p_first_closed_form(x, y), abs=1e-8)


@settings(max_examples=150, deadline=None)
@given(st.lists(beliefs, min_size=1, max_size=5))
@example([Posterior(1.0, 1.0), Posterior(1.0000000000000004, 1.0046157902783952)])  # scipy answers nan
def test_it_is_a_distribution_for_any_posteriors(found):
    best = p_best(found)
    assert best.sum() == pytest.approx(1, abs=1e-12)
    assert (best >= 0).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(beliefs, min_size=2, max_size=4), st.randoms())
def test_it_does_not_depend_on_the_order_of_arms(found, random):
    order = random.sample(range(len(found)), len(found))
    assert p_best([found[i] for i in order]) == pytest.approx(p_best(found)[order], abs=1e-7)


@given(beliefs, st.integers(2, 5))
def test_equal_arms_are_equally_likely(belief, k):
    assert p_best([belief] * k) == pytest.approx(np.full(k, 1 / k), abs=1e-6)


def test_a_posterior_near_one_beats_one_near_zero():
    """scipy's inverse answers nan for such a one below 1e-16."""
    best = p_best([Posterior(1.0, 100.0), Posterior(1.036632928437698, 0.5623413251903491)])
    assert best == pytest.approx([0.00472, 0.99528], abs=1.5e-4)


def test_three_arms_against_monte_carlo():
    found = [Posterior(0.4, 19.6), Posterior(5, 300), Posterior(100, 4_000)]
    rng = np.random.default_rng(1)
    drawn = np.array([rng.beta(belief.a, belief.b, 400_000) for belief in found]).argmax(axis=0)
    share = np.bincount(drawn, minlength=3) / 400_000
    assert p_best(found) == pytest.approx(share, abs=4 * np.sqrt(0.25 / 400_000))


def test_the_prior_is_twenty_units_at_the_champions_rate():
    parsed = ExperimentSums.parse({"1|pop|9|n": 999, "1|pop|9|s": 19})
    found = posteriors(parsed, ["pop", "new"], "pop", Rules())
    rate = 19.5 / 1_000
    assert (found["new"].a, found["new"].b) == pytest.approx((20 * rate, 20 * (1 - rate)))
    assert (found["pop"].a, found["pop"].b) == pytest.approx((20 * rate + 19, 20 * (1 - rate) + 980))


def test_no_data_at_all_is_even_odds():
    found = posteriors(ExperimentSums(), ["a", "b"], "a", Rules())
    assert p_best(list(found.values())) == pytest.approx([0.5, 0.5])


def test_more_data_is_a_tighter_interval_around_the_mean():
    few, many = Posterior(4, 96), Posterior(400, 9_600)
    assert few.mean == many.mean
    assert few.interval()[0] < many.interval()[0] < few.mean < many.interval()[1] < few.interval()[1]


def test_old_hours_weigh_less():
    week = 7 * 24
    parsed = ExperimentSums.parse(
        {"1|a|0|n": 1_000, "1|a|0|s": 100, f"1|a|{week}|n": 100, f"1|a|{week}|s": 1}
    )
    assert posteriors(parsed, ["a"], "a", Rules())["a"].mean == pytest.approx(51 / 600, rel=0.01)
