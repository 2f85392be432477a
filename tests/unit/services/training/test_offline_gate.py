"""The offline gate compares both specs on the same future."""

import pytest
from support.fitted_models import NOW_S, catalogue, interactions
from support.training_shop import dataset

from services.ports.training import Dataset
from services.training.model_spec import model_spec
from services.training.offline_gate import compare, run_gate


@pytest.mark.parametrize(("candidate", "passed"), [(0.0899, False), (0.0901, True), (0.5, True)])
def test_the_gate_allows_a_tenth_less_than_the_champion(candidate, passed):
    gate = compare({"recall@20": candidate, "users": 99.0}, 0.1, 0.0)
    assert gate.passed is passed
    assert "0.1000" in gate.reason


def test_both_model_specs_are_evaluated_on_later_events():
    seen = []

    def fit(spec, split, progress):
        seen.append((spec.algorithm, split.train.at.max(), split.cut_s))
        return spec.fit(split.train, catalogue(), now_s=split.cut_s, encoder=None)

    gate = run_gate(model_spec("popularity"), model_spec("reversed_popularity"), dataset(), fit)
    assert [name for name, _, _ in seen] == ["popularity", "reversed_popularity"]
    assert all(latest_s <= cut_s == gate.cut_s < NOW_S for _, latest_s, cut_s in seen)
    assert gate.metrics["recall@20"] == gate.candidate > gate.champion
    assert gate.metrics["all users"] >= gate.users > 0


def test_too_few_users_pass_the_gate_with_a_reason():
    few = Dataset("d", catalogue(), interactions([(0, 1, 9.0), (0, 2, 1.0)], 1), "test")
    gate = run_gate(model_spec("popularity"), None, few, lambda *_: pytest.fail("the gate must not fit"))
    assert gate.passed
    assert "not evaluated" in gate.reason
