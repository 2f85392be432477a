"""Laws that every recommender keeps."""

from dataclasses import replace

import numpy as np
import pytest
from support.fitted_models import N_ITEMS, NOW_S, catalogue, embeddings, fit, query, two_tastes

from models.algorithms import ALGORITHM_NAMES, UnknownAlgorithmError, algorithm_class, current_name
from models.algorithms.ease import ease
from models.recommender import Interactions, Recommender

PERSONAL = [name for name in ALGORITHM_NAMES if algorithm_class(name).personalised]
every = pytest.mark.parametrize("algorithm", ALGORITHM_NAMES)
personal = pytest.mark.parametrize("algorithm", PERSONAL)
MASK = np.arange(N_ITEMS) % 4 != 0


@pytest.fixture(scope="module")
def fitted() -> dict[str, Recommender]:
    return {name: fit(name, two_tastes(), catalogue()) for name in ALGORITHM_NAMES}


@every
def test_the_table_names_file_and_class(algorithm):
    kind = algorithm_class(algorithm)
    assert (kind.algorithm, kind.__module__) == (algorithm, f"models.algorithms.{algorithm}")
    assert [current_name(former) for former in kind.former_names] == [algorithm] * len(kind.former_names)
    assert kind.reason
    assert kind.similar_reason
    kind.params_type()  # every parameter has a default


def test_an_unknown_algorithm_is_refused_with_the_known_ones():
    with pytest.raises(UnknownAlgorithmError, match="'magic' is not one of popularity, als"):
        algorithm_class("magic")


@every
@pytest.mark.parametrize("n", [0, 1, 7, N_ITEMS, 500])
@pytest.mark.parametrize("allowed", [None, MASK, np.zeros(N_ITEMS, bool)])
def test_a_ranking_is_the_best_of_the_allowed_in_order(fitted, algorithm, n, allowed):
    shopper = query([1, 5], context=np.array([7], np.int32))
    ranking = fitted[algorithm].rank(shopper, n, allowed=allowed)
    mask = np.ones(N_ITEMS, bool) if allowed is None else allowed
    best = np.sort(fitted[algorithm].scores(shopper)[mask])[::-1][:n]
    assert ranking.item.dtype == np.int32
    assert ranking.score.dtype == np.float32
    assert len(set(ranking.item.tolist())) == len(ranking.item) == min(n, int(mask.sum()))
    assert mask[ranking.item].all()
    np.testing.assert_array_equal(ranking.score, best)


@every
def test_similar_leaves_the_item_itself_out(fitted, algorithm):
    similar = fitted[algorithm].similar(4, N_ITEMS, allowed=MASK | (np.arange(N_ITEMS) == 4))
    assert 4 not in similar.item
    assert len(similar.item) == int(MASK.sum())


@every
def test_arrays_and_back_is_the_same_model(fitted, algorithm):
    model = fitted[algorithm]
    again = algorithm_class(algorithm).from_arrays(*model.to_arrays())
    assert isinstance(model, Recommender)
    for items in ([], [3], [40, 2, 40, 9]):
        shopper = query(items, category="cat-1")
        ours, theirs = model.rank(shopper, 20), again.rank(shopper, 20)
        np.testing.assert_array_equal(ours.item, theirs.item)
        np.testing.assert_array_equal(ours.score, theirs.score)


@every
def test_nothing_is_learnt_from_the_future(algorithm):
    past = two_tastes()
    after = np.full(50, NOW_S + 1.0)
    future = Interactions(
        np.append(past.user, np.zeros(50, np.int32)),
        np.append(past.item, np.full(50, 59, np.int32)),
        np.append(past.at, after),
        np.append(past.quantity, after.astype(np.float32)),
        np.append(past.price, after.astype(np.float32)),
        np.append(past.kind, np.full(50, 3, np.uint8)),
        past.users,
    )
    ours, _ = fit(algorithm, past, catalogue()).to_arrays()
    theirs, _ = fit(algorithm, future, catalogue()).to_arrays()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@every
def test_an_unknown_parameter_is_named(algorithm):
    with pytest.raises(ValueError, match="facters"):
        fit(algorithm, two_tastes(), catalogue(), facters=3)


@every
def test_progress_reaches_its_total(algorithm):
    seen = []
    fit(algorithm, two_tastes(), catalogue(), progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1]


@personal
def test_a_user_gets_items_of_the_own_taste(fitted, algorithm):
    for half in (0, 1):
        history = [half * 30 + k for k in (1, 4, 9)]
        allowed = np.ones(N_ITEMS, bool)
        allowed[history] = False
        ranking = fitted[algorithm].rank(query(history), 10, allowed=allowed)
        assert np.mean(ranking.item // 30 == half) > 0.8


@personal
def test_recent_actions_weigh_more_than_old_ones(fitted, algorithm):
    def share_of_second_half(first_ago: float, second_ago: float) -> float:
        order = query([1, 31], [first_ago, second_ago])
        return float(np.mean(fitted[algorithm].rank(order, 20).item // 30))

    assert share_of_second_half(0.0, 200.0) + 0.3 <= share_of_second_half(200.0, 0.0)


@personal
def test_the_cart_is_enough_for_an_unknown_user(fitted, algorithm):
    shopper = query([], context=np.array([33, 40], np.int32))
    assert np.mean(fitted[algorithm].rank(shopper, 10).item // 30) > 0.8


@personal
def test_a_query_without_items_gets_an_empty_ranking(fitted, algorithm):
    assert fitted[algorithm].scores(query([])) is None
    assert len(fitted[algorithm].rank(query([]), 5).item) == 0


@personal
def test_interactions_later_than_the_query_count_as_fresh(fitted, algorithm):
    late = query([1, 5], [-0.01, -0.02])
    np.testing.assert_array_equal(fitted[algorithm].scores(late), fitted[algorithm].scores(query([1, 5])))


def test_content_requires_one_embedding_per_item():
    with pytest.raises(ValueError, match="embeddings"):
        fit("content", two_tastes(), catalogue(), embeddings=embeddings(7))


def test_a_regularisation_too_small_to_invert_is_named():
    same = np.array([[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match="regularization: 0.0"):
        ease(same, 0.0)
    assert np.isfinite(ease(same, 1.0)).all()


def test_reversed_popularity_reverses_popularity(fitted):
    upside, popular = (
        fitted["reversed_popularity"].rank(query([]), N_ITEMS),
        fitted["popularity"].scores(query([])),
    )
    assert (np.diff(popular[upside.item]) >= 0).all()


def test_reversed_popularity_ranks_unsold_items_last():
    learnt = two_tastes()
    model = fit("reversed_popularity", learnt, catalogue(N_ITEMS + 3))
    assert set(model.rank(query([]), N_ITEMS + 3).item[-3:].tolist()) == {N_ITEMS, N_ITEMS + 1, N_ITEMS + 2}


def test_items_of_the_queried_category_rank_first(fitted):
    ranking = fitted["popularity"].rank(query([], category="cat-2"), 25)
    assert (ranking.item[:20] % 3 == 2).all()
    assert (ranking.item[20:] % 3 != 2).all()
    unknown = fitted["popularity"].rank(replace(query([]), category="cat-9"), 25)
    np.testing.assert_array_equal(unknown.item, fitted["popularity"].rank(query([]), 25).item)
