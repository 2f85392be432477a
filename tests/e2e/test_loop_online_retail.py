"""The loop on Online Retail II: shoppers click what those users really bought in the held-out weeks."""

from pathlib import Path

import numpy as np
import pytest
from support.played_demo import DemoResult

from services.adapters.files.data_store import ParquetDataStore

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]  # `make test-demo`


@pytest.fixture(autouse=True)
def _real(data_dir: Path) -> None:
    """Skips, or fails on CI, without the data."""


def test_the_loop_closes_on_real_data(demo: DemoResult) -> None:
    assert demo.code == 0, demo.printed
    truth = demo.report["truth"]
    assert truth["better"] != "popularity"
    assert truth["standard_errors"] >= 3
    assert demo.report["weights"][-1]["shares"][truth["better"]] > 0.6


def test_training_ended_where_the_held_out_weeks_begin(demo: DemoResult) -> None:
    store = ParquetDataStore(demo.home / "demo" / "data")
    dataset, held_out = store.load(), store.load_holdout()
    assert "online_retail_ii" in dataset.source
    assert dataset.interactions.at.max() < held_out.at.min()
    assert 27 <= (held_out.at.max() - held_out.at.min()) / 86_400 <= 29
    assert len(np.unique(held_out.user)) > 1_000


def test_a_click_changes_the_next_slate(demo: DemoResult) -> None:
    personal = demo.report["click_to_slate"]["by_arm"]["als"]
    assert personal["n"] >= 20
    assert personal["n"] > personal["unchanged"]  # who clicks what they bought often before may see no change


def test_a_bad_model_is_taken_out_by_itself(demo: DemoResult) -> None:
    removal = demo.report["rollback"]
    assert removal["rule"] == "click-race"
    assert all(row["of_arm"] > 0 for row in removal["served_before"].values())
    assert all(row["of_arm"] == 0 and row["answers"] >= 200 for row in removal["served_after"].values())
