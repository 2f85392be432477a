"""Laws of the simulated shops: same randomness for every arm, position bias, better slates earn more."""

from itertools import pairwise

import numpy as np
import pytest
from support.best_slates import best_slate

from experiments.simulation.click_model import (
    NO_ITEM,
    Visits,
    click_outcome,
    click_probability,
    clicks,
    examination,
    slate_value,
)
from experiments.simulation.hash_uniform import text_key, uniform
from experiments.simulation.history import CART, PURCHASE, VIEW, WEEK_S, history
from experiments.simulation.holdout_shop import HoldoutShop, Levels, holdout_shop
from experiments.simulation.synthetic_shop import SyntheticShop, synthetic_shop
from models.recommender import KINDS

NOW_S = 1_790_000_000.0


@pytest.fixture(scope="module")
def shop() -> SyntheticShop:
    return synthetic_shop(seed=7, n_items=600, n_shoppers=500)


@pytest.fixture(scope="module")
def holdout() -> HoldoutShop:
    rng = np.random.default_rng(3)
    user, item = rng.integers(200, size=3_000), rng.integers(400, size=3_000)
    category = np.array([f"c{i % 20}" for i in range(400)])
    return holdout_shop(user.astype(np.int32), item.astype(np.int32), category, n_users=200, seed=3)


def visits_to(shop, n: int, seed: int = 1) -> Visits:
    rng = np.random.default_rng(seed)
    session = rng.integers(2**63, size=n).astype(np.uint64)
    return Visits(shop.visitors(rng, n), session, NOW_S)


def random_slates(shop, n: int, length: int = 10, seed: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(shop.n_items, dtype=np.int32), (n, 1)), axis=1)[:, :length]


def test_draws_are_uniform_and_depend_on_every_key_in_order() -> None:
    draws = uniform(5, np.arange(200)[:, None], np.arange(500))
    histogram = np.histogram(draws, bins=20, range=(0, 1))[0]
    chi_square = ((histogram - 5_000) ** 2 / 5_000).sum()
    assert chi_square < 43.8  # 99.9 % point at 19 degrees of freedom
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    assert len({float(uniform(*keys)) for keys in [(1, 2, 3), (1, 3, 2), (0, 2, 3), (1, 2, 4)]}) == 4


def test_text_key_is_stable_across_processes() -> None:
    assert int(text_key("session-1")) == 0x0ACE763D42CBD49AE
    assert text_key("session-1") != text_key("session-2")


def test_the_same_seed_gives_the_same_shop_and_history() -> None:
    one, two = (synthetic_shop(seed=4, n_items=200, n_shoppers=50) for _ in range(2))
    other = synthetic_shop(seed=5, n_items=200, n_shoppers=50)
    pasts = [history(s, end_s=NOW_S, weeks=2, sessions_per_week=100) for s in (one, two, other)]
    np.testing.assert_array_equal(one.products.title, two.products.title)
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(pasts[0].item, pasts[1].item)
    np.testing.assert_array_equal(pasts[0].at, pasts[1].at)
    assert not np.array_equal(pasts[0].item[:50], pasts[2].item[:50])


def test_products_read_like_products(shop: SyntheticShop) -> None:
    goods = shop.products
    assert len(set(goods.items)) == len(goods.items) == shop.n_items
    names = {title.split(",")[0] for title in goods.title}
    assert len(names) == shop.n_items  # no two products alike but for the size
    assert all(len(text) > 40 and text.endswith(".") for text in goods.description)
    assert (goods.price > 0).all()
    assert len(set(goods.category)) >= 10


def test_the_history_is_ordered_ends_before_now_and_narrows(shop: SyntheticShop) -> None:
    past = history(shop, end_s=NOW_S, weeks=2, sessions_per_week=300)
    assert (np.diff(past.at) >= 0).all()
    assert past.at[0] >= NOW_S - 14 * 86_400
    assert past.at[-1] <= NOW_S
    counts = np.bincount(past.kind, minlength=4)
    assert counts[VIEW] > counts[CART] > counts[PURCHASE] > 0
    assert counts[KINDS.index("click")] == 0
    assert (KINDS[VIEW], KINDS[CART], KINDS[PURCHASE]) == ("view", "add_to_cart", "purchase")


@pytest.mark.parametrize("name", ["shop", "holdout"])
def test_clicks_depend_on_session_item_and_position_only(name: str, request: pytest.FixtureRequest) -> None:
    shop = request.getfixturevalue(name)
    visits, slates = visits_to(shop, 2_000), random_slates(shop, 2_000)
    together = clicks(shop, visits, slates)
    order = np.random.default_rng(9).permutation(2_000)
    shuffled = clicks(shop, Visits(visits.shopper[order], visits.session[order], visits.at_s), slates[order])
    np.testing.assert_array_equal(shuffled, together[order])
    alone = clicks(shop, Visits(visits.shopper[:1], visits.session[:1], visits.at_s), slates[:1])
    np.testing.assert_array_equal(alone[0], together[0])


def test_shoppers_do_not_know_the_arm(shop: SyntheticShop) -> None:
    visits = visits_to(shop, 3_000)
    slates = {"als": random_slates(shop, 3_000, seed=4), "popularity": random_slates(shop, 3_000, seed=5)}
    assigned = np.random.default_rng(6).integers(2, size=3_000)

    def earned(names: list[str]) -> np.ndarray:
        shown = np.where((assigned == 0)[:, None], slates["als"], slates["popularity"])
        by_arm = clicks(shop, visits, shown).any(axis=1)
        return np.array([by_arm[np.array(names)[assigned] == name].sum() for name in sorted(names)])

    np.testing.assert_array_equal(earned(["als", "popularity"]), earned(["popularity", "als"])[::-1])


@pytest.mark.parametrize("name", ["shop", "holdout"])
def test_position_bias_is_recovered_from_clicks(name: str, request: pytest.FixtureRequest) -> None:
    shop = request.getfixturevalue(name)
    n = 60_000
    visits = visits_to(shop, n)
    slates = best_slate(shop, visits_to(shop, n, seed=1), 10) if name == "holdout" else None
    if slates is None:
        slates = np.tile(best_slate(shop, visits_to(shop, 1), 10), (n, 1))
    slates = np.random.default_rng(8).permuted(slates, axis=1)  # every item as often at every position
    rate = clicks(shop, visits, slates).mean(axis=0)
    eta = -np.polyfit(np.log(1 + np.arange(10)), np.log(rate / rate[0]), 1)[0]
    assert eta == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("name", ["shop", "holdout"])
def test_value_is_what_clicks_average_to(name: str, request: pytest.FixtureRequest) -> None:
    shop = request.getfixturevalue(name)
    visits = visits_to(shop, 40_000)
    slates = np.tile(best_slate(shop, visits_to(shop, 1), 10), (40_000, 1))
    truth = slate_value(shop, visits, slates).mean()
    seen = clicks(shop, visits, slates).any(axis=1).mean()
    assert seen == pytest.approx(truth, abs=4 * np.sqrt(truth * (1 - truth) / 40_000))


def test_better_rankings_earn_more(shop: SyntheticShop) -> None:
    """Random < popular two months ago < popular last week < the best, in clicks and not only in truth."""
    past = history(shop, end_s=NOW_S, weeks=8, sessions_per_week=800)
    visits = visits_to(shop, 20_000)

    def popular(first_week: int) -> np.ndarray:
        chosen = (past.at // WEEK_S - past.at[0] // WEEK_S) == first_week
        counts = np.bincount(past.item[chosen], minlength=shop.n_items)
        return np.tile(np.argsort(-counts)[:10].astype(np.int32), (20_000, 1))

    slates = [random_slates(shop, 20_000), popular(0), popular(7), best_slate(shop, visits, 10)]
    clicked = [clicks(shop, visits, slate).any(axis=1).astype(float) for slate in slates]
    for worse, better in pairwise(clicked):
        gain = better - worse
        assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_a_better_position_for_a_better_item_earns_more(shop: SyntheticShop) -> None:
    visits = visits_to(shop, 1_000)
    best = best_slate(shop, visits, 10)
    assert (slate_value(shop, visits, best) >= slate_value(shop, visits, best[:, ::-1]) - 1e-12).all()


def test_empty_places_are_never_clicked(shop: SyntheticShop, holdout: HoldoutShop) -> None:
    for any_shop in (shop, holdout):
        empty = np.full((500, 5), NO_ITEM, np.int32)
        assert (click_probability(any_shop, visits_to(any_shop, 500), empty) == 0).all()
        assert not clicks(any_shop, visits_to(any_shop, 500), empty).any()


def test_held_out_purchases_are_what_shoppers_click() -> None:
    category = np.array(["tea", "tea", "toys", "toys"])
    shop = holdout_shop(
        np.array([1], np.int32), np.array([0], np.int32), category, n_users=3, levels=Levels(0.5, 0.1, 0.01)
    )
    visits = Visits(np.array([1, 2], np.int32), np.array([1, 2], np.uint64), NOW_S)
    everything = np.tile(np.arange(4, dtype=np.int32), (2, 1))
    np.testing.assert_allclose(shop.attraction(visits, everything), [[0.5, 0.1, 0.01, 0.01], [0.01] * 4])
    assert set(shop.visitors(np.random.default_rng(0), 50)) == {1}  # the others bought nothing


def test_a_shop_without_purchases_is_refused() -> None:
    empty = np.empty(0, np.int32)
    with pytest.raises(ValueError, match="user: no held-out purchases"):
        holdout_shop(empty, empty, np.array(["tea"]), n_users=1)


def test_examination_falls_from_one() -> None:
    probability = examination(10)
    assert probability[0] == 1
    assert (np.diff(probability) < 0).all()


def test_clicks_lead_to_purchases_at_the_documented_rates(shop: SyntheticShop) -> None:
    session = np.arange(50_000, dtype=np.uint64)
    how_far = click_outcome(shop, session, np.zeros(50_000, np.int32))
    assert (how_far >= 1).mean() == pytest.approx(0.35, abs=0.01)
    assert (how_far == 2).mean() == pytest.approx(0.175, abs=0.01)
