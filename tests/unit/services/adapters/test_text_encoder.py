"""Each text is embedded once, in any order and however often it occurs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.adapters.text_encoder import CachedTextEncoder, bag_of_words, text_encoder
from services.errors import ConfigurationError
from services.settings import Settings


class CountingModel:
    """`bag_of_words` that records the texts it embeds, and is interrupted after `dies_after` of them."""

    def __init__(self):
        self.embedded: list[str] = []
        self.opened = 0
        self.dies_after = 10**9

    def open(self):
        self.opened += 1
        return self

    def __call__(self, texts):
        if len(self.embedded) + len(texts) > self.dies_after:
            raise KeyboardInterrupt
        self.embedded += texts
        return bag_of_words(texts)


@settings(max_examples=30, deadline=None)
@given(first=st.lists(st.text(max_size=9), max_size=12), second=st.lists(st.text(max_size=9), max_size=12))
def test_every_text_is_embedded_once_and_rows_keep_their_order(tmp_path_factory, first, second):
    model = CountingModel()
    cache = tmp_path_factory.mktemp("cache")
    for texts in (first, second):
        rows = CachedTextEncoder(cache, model.open, chunk=5).encode(texts)
        np.testing.assert_array_equal(rows.ravel(), bag_of_words(texts).ravel())
    assert sorted(model.embedded) == sorted(set(first + second))


def test_a_full_cache_never_loads_the_model(tmp_path):
    model = CountingModel()
    texts = ["red mug", "blue mug"]
    CachedTextEncoder(tmp_path, model.open).encode(texts)
    CachedTextEncoder(tmp_path, model.open).encode(texts[::-1])
    assert model.opened == 1


def test_a_killed_run_keeps_its_finished_chunks(tmp_path):
    model, texts = CountingModel(), [f"text {k}" for k in range(20)]
    model.dies_after = 12
    with pytest.raises(KeyboardInterrupt):
        CachedTextEncoder(tmp_path, model.open, chunk=5).encode(texts)
    model.dies_after = 10**9
    CachedTextEncoder(tmp_path, model.open, chunk=5).encode(texts)
    assert len(model.embedded) == 20


def test_a_damaged_chunk_is_embedded_again(tmp_path):
    model = CountingModel()
    expected = CachedTextEncoder(tmp_path, model.open).encode(["red mug"])
    (chunk,) = tmp_path.glob("*.npz")
    chunk.write_bytes(b"PK")
    np.testing.assert_array_equal(CachedTextEncoder(tmp_path, model.open).encode(["red mug"]), expected)
    assert len(model.embedded) == 2


def test_progress_counts_cached_texts(tmp_path):
    encoder, steps = CachedTextEncoder(tmp_path, CountingModel().open, chunk=2), []
    encoder.encode(["a"])
    encoder.encode(["a", "b", "c", "d"], progress=lambda *step: steps.append(step[:2]))
    assert steps == [(1, 4), (3, 4), (4, 4)]


def test_bags_of_words_need_no_weights_and_group_similar_texts(tmp_path):
    encoder = text_encoder(Settings(home=tmp_path, text_model="words"))
    mug, other_mug, lamp = encoder.encode(["red mug", "Red mug, large", "brass lamp"])
    assert mug @ other_mug > 0.7 > 0.3 > mug @ lamp


def test_the_packaged_model_groups_similar_meanings(tmp_path):
    """The one test that loads the weights."""
    encoder = text_encoder(Settings(home=tmp_path))
    texts = ["ceramic coffee mug", "porcelain tea cup", "garden spade"]
    mug, cup, spade = encoder.encode(texts)
    assert mug @ cup > mug @ spade + 0.2
    np.testing.assert_allclose(np.linalg.norm(mug), 1.0, rtol=1e-4)
    model_free = text_encoder(Settings(home=tmp_path))
    np.testing.assert_array_equal(model_free.encode(texts)[0], mug)
    with pytest.raises(ConfigurationError, match="RINGSIDE_TEXT_MODEL"):
        text_encoder(Settings(home=tmp_path, text_model=str(tmp_path))).encode(["x"])
