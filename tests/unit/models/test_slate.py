"""Laws of the way from rankings to a slate."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.recommender import Catalogue, Ranking
from models.slate import (
    UNKNOWN,
    available,
    category_codes,
    eligible,
    for_model,
    in_catalogue,
    merge,
    slate,
    vocabulary_map,
)

N_ITEMS = 20


def ranking(items: list[int], reason: str = "") -> Ranking:
    score = np.linspace(1, 0, len(items)).astype(np.float32)
    return Ranking(np.array(items, np.int32), score, reason)


def catalogue(categories: list[str], stock: list[int], hidden: list[bool]) -> Catalogue:
    n = len(categories)
    text = np.array([f"i{k}" for k in range(n)])
    return Catalogue(
        text, text, np.array(categories), np.ones(n, np.float32), text, np.int32(stock), np.array(hidden)
    )


orders = st.permutations(range(N_ITEMS)).flatmap(lambda p: st.integers(0, N_ITEMS).map(lambda k: list(p[:k])))
lists = st.lists(orders, min_size=1, max_size=3)


@st.composite
def slates(draw):
    rows = draw(lists)
    return {
        "rankings": [ranking(row) for row in rows],
        "n": draw(st.integers(0, 12)),
        "allowed": np.array(draw(st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS))),
        "category": np.int32(draw(st.lists(st.integers(-1, 3), min_size=N_ITEMS, max_size=N_ITEMS))),
        "cap": draw(st.none() | st.integers(1, 4)),
        "takes": draw(st.none() | st.lists(st.integers(1, 3), min_size=len(rows), max_size=len(rows))),
    }


@given(slates())
def test_a_slate_is_distinct_allowed_and_maximally_long(case):
    items = [c.item for c in slate(**case)]
    offered = {int(i) for r in case["rankings"] for i in r.item if case["allowed"][i]}
    assert len(items) == len(set(items)) == min(case["n"], len(offered))
    assert set(items) <= offered


@given(slates())
def test_a_category_exceeds_its_cap_only_to_fill_up(case):
    picks = slate(**case)
    counts = Counter(int(case["category"][c.item]) for c in picks)
    over = {code for code, count in counts.items() if case["cap"] and code != UNKNOWN and count > case["cap"]}
    if over:
        offered = {int(i) for r in case["rankings"] for i in r.item if case["allowed"][i]}
        room = Counter(int(case["category"][i]) for i in offered)
        reachable = sum(c if code == UNKNOWN else min(c, case["cap"]) for code, c in room.items())
        assert reachable < case["n"]


@given(lists)
def test_merging_keeps_every_item_once_and_each_list_in_order(rows):
    merged = list(merge([ranking(row) for row in rows], takes=[1] * len(rows)))
    assert {c.item for c in merged} == {item for row in rows for item in row}
    assert len(merged) == len({c.item for c in merged})
    for source, row in enumerate(rows):
        mine = [c.item for c in merged if c.source == source]
        assert mine == [item for item in row if item in mine]


def test_rounds_share_the_slate_as_the_takes_say():
    merged = list(merge([ranking(list(range(8))), ranking(list(range(10, 18)))], takes=(3, 1)))
    assert [c.source for c in merged[:8]] == [0, 0, 0, 1, 0, 0, 0, 1]


@pytest.mark.parametrize("takes", [(1,), (1, 0)])
def test_wrong_takes_are_named(takes):
    with pytest.raises(ValueError, match="takes"):
        merge([ranking([1]), ranking([2])], takes=takes)


@given(st.lists(st.integers(-1, N_ITEMS - 1)), st.lists(st.integers(-1, N_ITEMS - 1)))
def test_discover_excludes_bought_items_buy_again_keeps_them(excluded, bought):
    live = np.ones(N_ITEMS, bool)
    discover = eligible(live, excluded=excluded, bought=bought, placement="home")
    again = eligible(live, excluded=excluded, bought=bought, placement="buy_again")
    known = {i for i in bought if i >= 0} - set(excluded)
    assert live.all()
    assert not discover[[i for i in excluded + bought if i >= 0]].any()
    assert set(np.flatnonzero(again != discover)) == known


def test_untracked_stock_is_available_hidden_and_sold_out_not():
    shop = catalogue(["a", "a", "", "b"], stock=[0, -1, 3, 5], hidden=[False, False, False, True])
    assert available(shop).tolist() == [False, True, True, False]
    assert category_codes(shop).tolist() == [1, 1, UNKNOWN, 2]


def test_items_that_the_catalogue_lacks_are_never_shown():
    to_catalogue = vocabulary_map(np.array(["x", "b", "a"]), np.array(["a", "b", "c"]))
    assert to_catalogue.tolist() == [UNKNOWN, 1, 0]
    assert in_catalogue(ranking([0, 1, 2]), to_catalogue).item.tolist() == [1, 0]
    assert for_model(np.array([True, False, True]), to_catalogue).tolist() == [False, False, True]
