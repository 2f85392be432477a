"""The offline report on real purchases: the targets that models must reach on Online Retail II."""

from datetime import UTC, datetime

import pytest

from services import bootstrap
from services.data_import.app import ImportRequest, import_data
from services.settings import Settings
from services.training.offline_report import make_report, report_entries

ALGORITHMS = ("popularity", "als", "reversed_popularity")


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report_and_metrics(data_dir, tmp_path_factory):
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    import_data(
        settings, ImportRequest(str(data_dir / "online_retail_ii.parquet")), datetime(2026, 1, 1, tzinfo=UTC)
    )
    dataset = bootstrap.data_store(settings).load()
    report = make_report(
        dataset, lambda: bootstrap.text_encoder(settings), lambda *_: None, entries=report_entries(ALGORITHMS)
    )
    return report, {line.name: line.metrics for line in report.lines}


def test_the_split_is_by_time_and_large_enough(report_and_metrics):
    report, _ = report_and_metrics
    assert report.until_s - report.cut_s == report.test_days * 86_400
    assert report.users_judged > report.users_judged_new > 1_000


def test_time_matters_on_new_items(report_and_metrics):
    _, metrics = report_and_metrics
    recent = metrics["popularity, last ten days"]["recall@20"]
    assert recent > 2 * metrics["popularity, all time"]["recall@20"]
    assert metrics["popularity"]["recall@20"] > 0.95 * recent


def test_als_with_decay_beats_every_popularity_and_plain_als(report_and_metrics):
    _, metrics = report_and_metrics
    for name in ("recall@20", "ndcg@20", "all recall@20", "all ndcg@20"):
        others = [line[name] for entry, line in metrics.items() if entry != "als"]
        assert metrics["als"][name] > 1.1 * max(others)
    assert metrics["als"]["coverage@20"] > 5 * metrics["popularity"]["coverage@20"]


def test_the_model_that_is_broken_on_purpose_is_broken(report_and_metrics):
    _, metrics = report_and_metrics
    assert (
        metrics["reversed_popularity (broken on purpose)"]["all recall@20"]
        < 0.1 * metrics["popularity"]["all recall@20"]
    )
