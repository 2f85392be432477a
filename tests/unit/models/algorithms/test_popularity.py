"""Laws of decayed popularity."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.fitted_models import DAY_S, NOW_S, catalogue, fit, interactions, query

from models.algorithms.popularity import popularity
from models.algorithms.time_decay import decayed, recent_weights

ages = st.lists(st.floats(0, 400), min_size=1, max_size=30)


@given(ages, st.floats(0.5, 100))
def test_popularity_is_the_sum_of_the_buyers_decayed_weights(days_ago, half_life_days):
    rows = interactions([(user, 0, ago) for user, ago in enumerate(days_ago)], len(days_ago))
    counts = popularity(rows, 3, now_s=NOW_S, half_life_s=half_life_days * DAY_S)
    expected = sum(0.5 ** (ago / half_life_days) for ago in days_ago)
    np.testing.assert_allclose(counts, [expected, 0, 0], rtol=1e-9)


@given(ages)
def test_one_user_counts_once_per_item(days_ago):
    rows = interactions([(0, 1, ago) for ago in days_ago], 1)
    counts = popularity(rows, 2, now_s=NOW_S, half_life_s=10 * DAY_S)
    np.testing.assert_allclose(counts[1], 0.5 ** (min(days_ago) / 10), rtol=1e-9)


def test_a_trend_fades_and_the_lasting_favourite_returns():
    trend = [(user, 1, 0.1) for user in range(10)]
    lasting = [(user, 2, 3.0 * k) for k in range(1, 30) for user in (k, k + 30)]
    model = fit("popularity", interactions(trend + lasting, 60), catalogue(), slow_share=0.1)
    today, later = query([]), replace(query([]), now_s=NOW_S + 60 * DAY_S)
    assert model.rank(today, 1).item.tolist() == [1]
    assert model.rank(later, 1).item.tolist() == [2]


def test_purchases_weigh_more_and_halve_each_half_life():
    at, kinds = np.array([0.0, 0.0, 10.0]), np.array([0, 3, 3], np.uint8)
    view, old, new = decayed(at, kinds, now_s=10.0, half_life_s=10.0)
    assert view < old == new / 2 == 0.5


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 50)), max_size=20))
def test_repeated_items_add_up_and_newer_places_weigh_more(history):
    shopper = query([item for item, _ in history], [ago for _, ago in history])
    item, weight = recent_weights(shopper, 7 * DAY_S, half_life_places=5)
    expected = {}
    for place, (index, ago) in enumerate(history):
        expected[index] = expected.get(index, 0.0) + 0.5 ** (ago / 7 + place / 5)
    assert item.tolist() == sorted(expected)
    np.testing.assert_allclose(weight, [expected[index] for index in item.tolist()], rtol=1e-5)
