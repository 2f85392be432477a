"""Laws of the way from rankings to a slate."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.recommender import Catalogue, Ranking
from models.slate import (
    UNKNOWN,
    Assortment,
    available,
    category_codes,
    eligible,
    mask_for_model,
    ranking_in_catalogue,
    select,
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


masks = st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS).map(np.array)
rows = st.lists(
    st.integers(0, N_ITEMS - 1), max_size=30
)  # items may repeat, as in the answer of a sick model
codes = st.lists(st.integers(UNKNOWN, 3), min_size=N_ITEMS, max_size=N_ITEMS).map(np.int32)
caps = st.integers(1, 6)
maybe_caps = st.none() | caps
indices = st.lists(st.integers(UNKNOWN, N_ITEMS - 1))


@st.composite
def assortments(draw):
    popularity = np.float32(draw(st.lists(st.integers(0, 3), min_size=N_ITEMS, max_size=N_ITEMS)))
    return Assortment(draw(codes), np.argsort(-popularity, kind="stable").astype(np.int32), popularity)


@st.composite
def cases(draw, caps):
    """Arguments of `select`; with `everything`, the fallback ends with all items by popularity, as in
    serving."""
    assortment, mask, n = draw(assortments()), draw(masks), draw(st.integers(1, 12))
    more = [ranking(row, f"fallback {turn}") for turn, row in enumerate(draw(st.lists(rows, max_size=2)))]
    everything = [assortment.most_popular(3 * n, mask)] if draw(st.booleans()) else []
    return {
        "ranking": ranking(draw(rows), "model"),
        "n": n,
        "eligible": mask,
        "assortment": assortment,
        "cap": draw(caps),
        "fallback": lambda: [*more, *everything],
    }


def offered(case) -> list[int]:
    """Eligible items of all rankings, in turn, each once."""
    rankings = [case["ranking"], *case["fallback"]()]
    items = [item for one in rankings for item in one.item.tolist() if case["eligible"][item]]
    return list(dict.fromkeys(items))


def counts(case, items) -> Counter[int]:
    """Items of each category; those of no category don't count."""
    category = [int(case["assortment"].category[item]) for item in items]
    return Counter(code for code in category if code != UNKNOWN)


@given(cases(maybe_caps))
def test_a_slate_is_distinct_eligible_and_maximally_long(case):
    items = [item for item, _, _ in select(**case).picks]
    assert len(items) == len(set(items)) == min(case["n"], len(offered(case)))
    assert case["eligible"][items].all()


@given(cases(st.none()))
def test_without_a_cap_the_rankings_are_followed_in_turn(case):
    selection = select(**case)
    assert [item for item, _, _ in selection.picks] == offered(case)[: case["n"]]
    assert selection.within_cap


@given(cases(caps))
def test_no_category_exceeds_its_cap_within_the_cap(case):
    selection = select(**case)
    most = max(counts(case, (item for item, _, _ in selection.picks)).values(), default=0)
    assert selection.within_cap == (most <= case["cap"])


@given(cases(caps))
def test_a_full_slate_exceeds_the_cap_only_if_it_must(case):
    selection = select(**case)
    if len(selection.picks) == case["n"]:
        fits = case["assortment"].fits_cap(case["n"], case["eligible"], case["cap"])
        assert selection.within_cap or not fits


@given(assortments(), masks, st.integers(1, 12), st.integers(1, 6))
def test_a_cap_fits_exactly_if_some_slate_keeps_it(assortment, mask, n, cap):
    codes = assortment.category[mask].tolist()
    most = sum(count if code == UNKNOWN else min(count, cap) for code, count in Counter(codes).items())
    assert assortment.fits_cap(n, mask, cap) == (most >= n)


@given(cases(caps))
def test_items_of_the_ranking_within_the_cap_lead(case):
    kept, seen = [], []
    for item in offered({**case, "fallback": tuple}):
        seen.append(item)
        if counts(case, seen)[int(case["assortment"].category[item])] <= case["cap"]:
            kept.append(item)
    leading = kept[: case["n"]]
    assert [item for item, _, _ in select(**case).picks][: len(leading)] == leading


@given(cases(maybe_caps))
def test_the_fallback_is_ignored_if_the_ranking_suffices(case):
    alone = {**case, "fallback": tuple}
    if len(offered(alone)) >= case["n"]:
        assert select(**case) == select(**alone)


@given(cases(maybe_caps))
def test_every_pick_has_score_and_reason_of_its_ranking(case):
    popular = case["assortment"].most_popular(N_ITEMS, case["eligible"])
    rankings = [case["ranking"], *case["fallback"](), popular]
    for item, score, reason in select(**case).picks:
        sources = [
            (float(one.score[at]), one.reason) for one in rankings for at in np.flatnonzero(one.item == item)
        ]
        assert (score, reason) in sources


def test_a_slate_of_nothing_is_empty():
    shop = Assortment(np.zeros(N_ITEMS, np.int32), np.arange(N_ITEMS, dtype=np.int32), np.ones(N_ITEMS))
    assert select(ranking([1, 2]), 0, eligible=np.ones(N_ITEMS, bool), assortment=shop).picks == []


@given(
    masks,
    st.lists(st.integers(UNKNOWN, N_ITEMS - 1)),
    st.none() | st.lists(st.integers(UNKNOWN, N_ITEMS - 1)),
)
def test_eligible_items_are_live_wanted_and_not_excluded(live, excluded, only):
    before = live.copy()
    mask = eligible(live, excluded=excluded, only=only)
    wanted = set(range(N_ITEMS)) if only is None else set(only)
    assert set(np.flatnonzero(mask).tolist()) == (set(np.flatnonzero(live).tolist()) & wanted) - set(excluded)
    assert (live == before).all()


def test_untracked_stock_is_available_hidden_and_sold_out_not():
    shop = catalogue(["a", "a", "", "b"], stock=[0, -1, 3, 5], hidden=[False, False, False, True])
    assert available(shop).tolist() == [False, True, True, False]
    assert category_codes(shop).tolist() == [1, 1, UNKNOWN, 2]


def test_items_that_the_catalogue_lacks_are_never_shown():
    to_catalogue = vocabulary_map(np.array(["x", "b", "a"]), np.array(["a", "b", "c"]))
    assert to_catalogue.tolist() == [UNKNOWN, 1, 0]
    assert ranking_in_catalogue(ranking([0, 1, 2]), to_catalogue).item.tolist() == [1, 0]
    assert mask_for_model(np.array([True, False, True]), to_catalogue).tolist() == [False, False, True]
