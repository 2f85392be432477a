"""Training and serving ask models the same question of the same row."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.small_shop import ITEMS, Ordered, catalogue

from models.recommender import KINDS
from services.ports.features import UserRow
from services.recommend.snapshot.catalogue_index import stock
from services.recommend.snapshot.model_runner import fit_in, place
from services.training.served_queries import FEATURES, VIEW, query_of

AT_MS = 1_790_000_000_123
INDEX = {item: at for at, item in enumerate(ITEMS.tolist())}
PLACED = place(fit_in(Ordered(list(range(40))), "v", 0.0), stock(catalogue(), np.zeros(40, np.float32)))
entry = st.tuples(
    st.sampled_from([*ITEMS[:6].tolist(), "gone", "not yet"]), st.integers(0, AT_MS), st.sampled_from(KINDS)
)


@given(st.lists(entry, max_size=50))
def test_a_row_is_the_same_query_to_both(entries: list[tuple[str, int, str]]) -> None:
    items, at, kinds = (list(column) for column in zip(*entries, strict=True)) if entries else ([], [], [])
    now_s = AT_MS / 1_000
    served = PLACED.query(UserRow(tuple(items), tuple(at), tuple(kinds), AT_MS), [], now_s)
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
