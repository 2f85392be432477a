"""The folded-in user is the library's own, and answers come from it."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fitted_models import DAY_S, N_ITEMS, catalogue, fit, query, two_tastes
from threadpoolctl import threadpool_limits

from models.algorithms.als import Als, AlsParams
from models.algorithms.time_decay import recent_weights


@pytest.fixture(scope="module")
def model() -> Als:
    return fit("als", two_tastes(), catalogue())


def library_of(model: Als):
    """The library's own model with our item vectors."""
    from implicit.cpu.als import AlternatingLeastSquares

    params = model.params
    with threadpool_limits(1, "blas"):
        library = AlternatingLeastSquares(
            factors=model.factors.shape[1], regularization=params.regularization, num_threads=1
        )
    library.item_factors = model.factors
    return library


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.integers(0, N_ITEMS - 1), st.floats(0, 120), min_size=1, max_size=50))
def test_the_fold_in_is_the_librarys_recalculate_user(model, history):
    shopper = query(list(history), list(history.values()))
    item, weight = recent_weights(shopper, model.params.half_life_days * DAY_S)
    confidence = (1.0 + np.float32(model.params.confidence) * weight).astype(np.float32)
    row = scipy.sparse.csr_matrix((confidence, ([0] * len(item), item)), shape=(1, N_ITEMS))
    expected = library_of(model).recalculate_user(0, row)
    np.testing.assert_allclose(model.fold_in(item, weight), expected, rtol=2e-3, atol=2e-4)


def test_the_score_is_the_vectors_product_plus_the_trend(model):
    shopper = query([2, 8])
    item, weight = recent_weights(shopper, model.params.half_life_days * DAY_S, model.params.recent_places)
    user = model.fold_in(item, weight)
    np.testing.assert_allclose(
        model.scores(shopper), model.factors @ user + 0.3 * model.trend, rtol=1e-5, atol=1e-6
    )


def test_the_model_is_a_function_of_the_seed():
    one, same, other = (
        fit("als", two_tastes(), catalogue()).factors,
        fit("als", two_tastes(), catalogue()).factors,
        None,
    )
    np.testing.assert_array_equal(one, same)
    other = Als.fit(two_tastes(), catalogue(), now_s=100 * DAY_S, seed=4, factors=16, threads=1).factors
    assert np.abs(one - other).max() > 1e-3


def test_without_regularisation_and_vectors_there_is_still_a_finite_answer():
    flat = Als.from_factors(
        np.array(["a", "b"]),
        np.zeros((2, 4), np.float32),
        np.zeros(2, np.float32),
        AlsParams(regularization=0.0),
    )
    assert np.isfinite(flat.scores(query([0]))).all()
    assert np.isfinite(flat.similar(0, 1).score).all()
