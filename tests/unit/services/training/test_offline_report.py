"""The offline report measures every algorithm of the table."""

import json
from dataclasses import asdict

import pytest
from support.fitted_models import DAY_S, two_tastes
from support.training_shop import ALS, dataset

from models.algorithms import ALGORITHM_NAMES
from services.adapters.text_encoder import CachedTextEncoder, bag_of_words
from services.errors import BadInputError
from services.training.model_spec import model_spec
from services.training.offline_report import Entry, make_report, report_entries


def test_the_report_puts_the_better_model_above_the_broken_one(tmp_path):
    entries = (
        Entry("als", model_spec("als", ALS)),
        Entry("content", model_spec("content", {"dimensions": 8})),
        Entry("broken", model_spec("reversed_popularity")),
    )
    encoder = CachedTextEncoder(tmp_path, lambda: bag_of_words)
    report = make_report(dataset(), lambda: encoder, lambda *_: None, test_days=10.0, entries=entries)
    good, _, broken = report.lines
    assert good.metrics["recall@20"] > broken.metrics["recall@20"]
    assert report.cut_s == pytest.approx(report.until_s - 10 * DAY_S)
    assert report.train_rows + report.test_rows == len(two_tastes().at)
    text = report.to_markdown()
    assert f"| als | {good.metrics['recall@10']:.4f} | {good.metrics['recall@20']:.4f} |" in text
    assert f"| als | {good.metrics['all recall@10']:.4f} |" in text
    assert json.loads(json.dumps(asdict(report)))["lines"][0]["metrics"] == good.metrics


def test_the_line_up_holds_every_algorithm_and_its_variants():
    entries = report_entries()
    assert [entry.spec.algorithm for entry in entries if not entry.spec.params] == list(ALGORITHM_NAMES)
    assert [entry.name for entry in report_entries(["popularity"])] == [
        "popularity, all time",
        "popularity, last ten days",
        "popularity",
    ]
    assert [entry.name for entry in report_entries(["reversed_popularity"])] == [
        "reversed_popularity (broken on purpose)"
    ]


def test_a_split_that_leaves_nothing_to_learn_from_is_refused():
    with pytest.raises(BadInputError, match="test_days"):
        make_report(dataset(), lambda: None, lambda *_: None, entries=report_entries(), test_days=1_000.0)
