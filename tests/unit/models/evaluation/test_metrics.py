"""Metrics against hand-computed oracles and their definitions spelled out; splits by time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fitted_models import DAY_S, NOW_S, catalogue, fit, interactions, query, two_tastes

from models.evaluation.metrics import coverage, ndcg, recall
from models.evaluation.offline import Case, cases, evaluate
from models.evaluation.splits import split_at, split_last
from models.recommender import Ranking

lists = st.lists(st.booleans(), min_size=5, max_size=5)


def test_metrics_equal_hand_computed_values():
    hits = np.array([[True, False, True, False], [False, False, False, False], [True, True, True, True]])
    relevant = np.array([3, 1, 9])
    np.testing.assert_allclose(recall(hits, relevant, 4), [2 / 3, 0, 1])
    np.testing.assert_allclose(recall(hits, relevant, 2), [1 / 2, 0, 1])
    np.testing.assert_allclose(ndcg(hits, relevant, 4), [1.5 / (1 + 1 / math.log2(3) + 0.5), 0, 1])
    np.testing.assert_allclose(ndcg(hits, relevant, 1), [1, 0, 1])
    assert coverage(np.array([[0, 1, 2], [1, 5, -1]]), 10, 2) == 0.3
    assert coverage(np.array([[0, 1, 2], [1, 5, -1]]), 10, 3) == 0.4


@given(lists, st.integers(0, 20), st.integers(1, 5))
def test_metrics_equal_their_definitions(row, more, k):
    relevant = sum(row) + max(more, 1 - sum(row))
    hits = np.array([row])
    gained = sum(1 / math.log2(place + 2) for place in range(k) if row[place])
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, relevant)))
    assert recall(hits, np.array([relevant]), k)[0] == pytest.approx(sum(row[:k]) / min(k, relevant))
    assert ndcg(hits, np.array([relevant]), k)[0] == pytest.approx(gained / ideal)


@given(lists, st.integers(0, 3))
def test_a_hit_further_up_never_lowers_ndcg(row, place):
    better = row.copy()
    better[place], better[place + 1] = row[place] or row[place + 1], row[place] and row[place + 1]
    relevant = np.array([max(sum(row), 1)])
    assert ndcg(np.array([better]), relevant, 5)[0] >= ndcg(np.array([row]), relevant, 5)[0] - 1e-12


class Oracle:
    """Ranks the same items for every query."""

    algorithm = "oracle"

    def __init__(self, items: list[int]):
        self.items = np.array([str(k) for k in range(60)])
        self.order = items

    def rank(self, query, n, *, allowed=None):
        picked = [item for item in self.order if allowed is None or allowed[item]][:n]
        return Ranking(np.array(picked, np.int32), np.ones(len(picked), np.float32))


def test_all_items_and_new_items_are_evaluated_separately():
    users = [
        Case(query([0, 1]), np.int32([0, 1]), np.int32([1, 2])),
        Case(query([3]), np.int32([3]), np.int32([3])),
    ]
    model = Oracle([1, 2])
    overall, new = evaluate(model, users, new_only=False), evaluate(model, users, new_only=True)
    assert (overall["recall@10"], overall["users"]) == (0.5, 2)
    assert (new["recall@10"], new["users"]) == (1.0, 1)
    assert overall["coverage@10"] == pytest.approx(2 / 60)
    assert overall["recall@20_se"] == pytest.approx(0.5 / math.sqrt(2))


def test_queries_hold_only_interactions_before_the_cut():
    rows = interactions([(0, 1, 9.0), (0, 2, 8.0), (0, 3, 1.0), (1, 4, 0.5), (2, 5, 9.0)], 3)
    split = split_at(rows, NOW_S - 2 * DAY_S, NOW_S)
    (case,) = cases(split, recent=1)
    assert case.query.recent.tolist() == [2]
    assert case.query.now_s == split.cut_s >= case.query.recent_at.max()
    assert (case.seen.tolist(), case.later.tolist()) == ([1, 2], [3])


def test_als_beats_popularity_and_its_reverse():
    split = split_last(two_tastes(), 10 * DAY_S)
    users = cases(split)
    recall_of = {
        name: evaluate(fit(name, split.train, catalogue()), users, new_only=True)["recall@20"]
        for name in ("als", "popularity", "reversed_popularity")
    }
    assert recall_of["als"] > recall_of["popularity"] > recall_of["reversed_popularity"]


@given(st.lists(st.floats(0, 50), min_size=2, max_size=40), st.floats(1, 20), st.integers(0, 1))
def test_a_split_is_by_time_and_loses_nothing(ages, test_days, skip):
    rows = interactions([(0, k, ago) for k, ago in enumerate(ages)], 1)
    try:
        split = split_last(rows, test_days * DAY_S, skip)
    except ValueError as error:
        assert "test_s" in str(error)  # noqa: PT017 (hypothesis: both outcomes are lawful)
        return
    assert split.train.at.max() <= split.cut_s < split.test.at.min()
    assert split.test.at.max() <= split.until_s
    beyond = int((rows.at > split.until_s).sum())
    assert len(split.train.at) + len(split.test.at) + beyond == len(ages)


def test_a_cut_after_the_end_is_refused():
    with pytest.raises(ValueError, match="cut_s"):
        split_at(two_tastes(), NOW_S, NOW_S)
