"""Training evaluates models on the queries that serving makes of the same rows."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fitted_models import DAY_S, catalogue
from support.small_shop import ITEMS, FixedOrderModel
from support.small_shop import catalogue as small_catalogue
from support.training_shop import dataset

from models.evaluation.offline import cases
from models.evaluation.splits import split_last
from models.recommender import KINDS
from services.ports.features import UserRow
from services.recommend.snapshot.catalogue_index import build_index
from services.recommend.snapshot.model_runner import bind, try_out
from services.training.served_queries import FEATURES, VIEW, query_of, with_served_queries

AT_MS = 1_790_000_000_123
INDEX = {item: at for at, item in enumerate(ITEMS.tolist())}
MODEL = bind(
    try_out(FixedOrderModel(list(range(40))), "v", 0.0),
    build_index(small_catalogue(), np.zeros(40, np.float32)),
)
entry = st.tuples(
    st.sampled_from([*ITEMS[:6].tolist(), "gone", "not yet"]), st.integers(0, AT_MS), st.sampled_from(KINDS)
)


@given(st.lists(entry, max_size=50))
def test_a_row_is_the_same_query_to_both(entries: list[tuple[str, int, str]]) -> None:
    items, at, kinds = (list(column) for column in zip(*entries, strict=True)) if entries else ([], [], [])
    now_s = AT_MS / 1_000
    served = MODEL.query(UserRow(tuple(items), tuple(at), tuple(kinds), AT_MS), [], now_s)
    trained = query_of(dict(zip(FEATURES, (items, at, kinds), strict=True)), INDEX, now_s)
    if trained is None:
        assert not len(served.recent)
        return
    for name in ("recent", "recent_at", "recent_kind", "context"):
        mine, theirs = getattr(trained, name), getattr(served, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    assert (trained.now_s, trained.category) == (served.now_s, served.category)


def test_what_models_are_asked_with_is_one_view() -> None:
    """A model that wants more of a user than this must have it read point-in-time here as well."""
    assert (VIEW, FEATURES) == ("user_activity", ("item_ids", "item_at", "item_types"))
    assert {"recent_items", "recent_at", "recent_types"} <= set(UserRow.__slots__)


class Features:
    """An offline store of rows (user, at_ms, items)."""

    def __init__(self, *rows, applied=True):
        self.rows, self.is_applied, self.reads = rows, applied, []

    def applied(self):
        return self.is_applied

    def history(self, view, columns):
        stamps = pa.array([at_ms * 1_000 for _, at_ms, _ in self.rows], pa.timestamp("us", "UTC"))
        return pa.table({"user_id": [user for user, _, _ in self.rows], "event_timestamp": stamps})

    def rows_as_of(self, view, features, keys, at_ms):
        self.reads.append((view, list(keys)))
        latest = [self._latest(key, moment) for key, moment in zip(keys, at_ms, strict=True)]
        return pd.DataFrame(latest, columns=list(features))

    def _latest(self, key, moment):
        rows = sorted((at, items) for user, at, items in self.rows if user == key and at <= moment)
        if not rows:
            return (None, None, None)
        at, items = rows[-1]
        return (np.array(items), [at] * len(items), ["click"] * len(items))


def split_and_cases():
    split = split_last(dataset().interactions, 10 * DAY_S)
    return split, cases(split)


def test_queries_are_the_rows_that_serving_would_have_read():
    split, users = split_and_cases()
    cut_ms = int(split.cut_s * 1_000)
    first, second = (str(split.train.users[case.user]) for case in users[:2])
    store = Features(
        (first, cut_ms - 9, ["item-007"]),
        (first, cut_ms - 5, ["item-005", "gone", "item-007"]),
        (first, cut_ms + 5, ["item-009"]),
        (second, cut_ms + 1, ["item-009"]),
    )
    served = with_served_queries(users, split, catalogue(), store)
    assert store.reads == [("user_activity", [first])]
    assert served[0].query.recent.tolist() == [5, 7]
    assert served[0].query.recent_at.tolist() == [(cut_ms - 5) / 1_000] * 2
    assert [KINDS[kind] for kind in served[0].query.recent_kind] == ["click", "click"]
    assert served[1:] == users[1:]
    np.testing.assert_array_equal(served[0].later, users[0].later)


def test_users_away_beyond_the_ttl_are_not_evaluated():
    """Whether their latest act is in Feast or in old interactions, serving would have no row."""
    split, users = split_and_cases()
    idle_s = [split.cut_s - float(case.query.recent_at[0]) for case in users]
    ttl_s = float(np.median(idle_s))
    recent_user = str(split.train.users[users[int(np.argmax(idle_s))].user])
    row = (recent_user, int((split.cut_s - 1) * 1_000), ["item-001"])
    kept = with_served_queries(users, split, catalogue(), Features(row), ttl_s)
    recent = [case.user for case, idle in zip(users, idle_s, strict=True) if idle <= ttl_s]
    assert {case.user for case in kept} == {*recent, users[int(np.argmax(idle_s))].user}
    assert 0 < len(recent) < len(users)


@pytest.mark.parametrize("applied", [True, False])
def test_without_early_rows_feast_is_not_asked(applied):
    split, users = split_and_cases()
    late = (str(split.train.users[users[0].user]), int(split.cut_s * 1_000) + 1, ["item-001"])
    store = Features(late, applied=applied)
    assert with_served_queries(users, split, catalogue(), store) == users
    assert store.reads == []


def test_an_expired_or_unknown_row_is_no_query():
    assert query_of({"item_ids": None, "item_at": None, "item_types": None}, {"a": 0}, 1.0) is None
    assert query_of({"item_ids": float("nan"), "item_at": 0, "item_types": 0}, {"a": 0}, 1.0) is None
    assert query_of({"item_ids": ["b"], "item_at": [1], "item_types": ["view"]}, {"a": 0}, 1.0) is None
