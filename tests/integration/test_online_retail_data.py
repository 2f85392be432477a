"""The real Online Retail II file, against its published counts."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest

from services.adapters.files.data_store import ParquetDataStore
from services.data_import.app import ImportRequest, import_data
from services.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def imported(data_dir, tmp_path_factory) -> tuple[dict, ParquetDataStore, Path]:
    path = data_dir / "online_retail_ii.parquet"
    settings = Settings(home=tmp_path_factory.mktemp("retail"))
    manifest = import_data(settings, ImportRequest(str(path)), datetime(2026, 1, 1, tzinfo=UTC))
    return manifest, ParquetDataStore(settings.data_path), path


def test_cleaning_counts(imported) -> None:
    left = {rule["name"]: rule["left"] for rule in imported[0]["rules"]}
    assert left["no_customer"] == 1_067_370 - 243_007
    assert left["not_positive"] == 805_619
    assert left["duplicate"] == 782_217
    assert imported[0]["counts"]["interactions"] == left["not_a_product"] == 776_657


def test_the_oracles_of_the_file_itself(imported) -> None:
    kept = (
        f"""FROM '{imported[2]}' WHERE "Customer ID" IS NOT NULL AND Quantity > 0 AND Invoice NOT LIKE 'C%'"""
    )
    counts = 'count(*), count(DISTINCT "Customer ID"), count(DISTINCT StockCode), count(DISTINCT Invoice)'
    assert duckdb.sql(f"SELECT {counts} {kept}").fetchall() == [(805_619, 5_881, 4_631, 36_975)]


def test_arrays_agree_with_the_counts(imported) -> None:
    data = imported[1].load()
    assert len(data.catalogue) == 4_631 - 10  # without postage, fees, corrections and tests
    assert (len(data.interactions.users), len(data.interactions.at)) == (5_853, 776_657)
    assert (np.diff(data.interactions.at) >= 0).all()
    assert (data.interactions.quantity > 0).all()
    assert (np.bincount(data.interactions.item, minlength=len(data.catalogue)) > 0).all()
    assert np.mean(data.catalogue.category == "other") < 0.5
    assert (data.catalogue.price > 0).mean() > 0.999
