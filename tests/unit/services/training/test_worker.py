"""Retraining requests are answered once, and the registry follows the decisions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from support.training_shop import ALS, EXPERIMENT, TrainingShop

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import AnswerDetail
from experiments.lifecycle.transitions import IllegalTransition
from services.adapters.memory.stores import MemoryModelRegistry
from services.errors import BadInputError, UnavailableError
from services.training.metrics import TrainingMetrics
from services.training.model_spec import model_spec
from services.training.offline_gate import TOLERANCE
from services.training.pipeline import AnsweredError, TrainingPipeline, enter
from services.training.worker import MAX_ATTEMPTS


def fails(*_):
    raise UnavailableError("the disk", "full")


def refuse(*_):
    raise IllegalTransition("arm x is already in storefront")


class BrokenRegistry(MemoryModelRegistry):
    """MLflow that is unavailable until `mended`."""

    mended = False

    def register(self, manifest):
        if not self.mended:
            raise UnavailableError("MLflow", "gone")
        super().register(manifest)


def lose_the_next_acknowledgement(shop, monkeypatch, kind):
    """The record reaches the log, but its acknowledgement is lost."""
    original = shop.decisions.append

    def append(decision):
        state = original(decision)
        if decision.kind == kind:
            monkeypatch.setattr(shop.decisions, "append", original)
            raise UnavailableError("the decision log", "no acknowledgement")
        return state

    monkeypatch.setattr(shop.decisions, "append", append)


def test_a_request_yields_a_challenger_of_the_same_spec(shop):
    shop.start("als", **ALS)
    shop.request()
    trained = shop.poll()
    version = trained.manifest.model_version
    arm = shop.state.arms[version]
    assert (arm.role, arm.model_version, shop.state.weights.shares[version]) == ("challenger", version, 0.0)
    assert not shop.state.retrain_pending
    assert trained.manifest.params == {**trained.manifest.params, **ALS}
    model, _ = shop.models.load(version)
    assert model.algorithm == "als"
    entered = shop.decisions.history(EXPERIMENT)[-1]
    assert (entered.kind, entered.author, entered.rule) == ("enter", "trainer", "retrain")
    assert entered.evidence.gate.passed is True
    assert entered.evidence.gate.candidate == pytest.approx(trained.gate.candidate)


def test_a_rollbacks_request_is_answered_for_the_removed_arm(shop):
    shop.start()
    trained_model = shop.pipeline.train(model_spec("als", ALS))
    removed = trained_model.manifest.model_version
    enter(shop.decisions, EXPERIMENT, trained_model, shop.provenance("command"))
    shop.decisions.append(commands.promote(shop.state, removed, shop.provenance()))
    shop.request()  # an older request than the pending one
    shop.decisions.append(commands.rollback(shop.state, removed, shop.provenance(), retrain="it fell"))
    trained = shop.poll()
    assert trained.manifest.algorithm == "als"
    attempt, entered = shop.decisions.history(EXPERIMENT)[-2:]
    assert (attempt.kind, attempt.detail.answers, attempt.reason.endswith("it fell.")) == (
        "attempt", entered.revision - 2, True,
    )  # fmt: skip
    assert (entered.kind, entered.detail.answers) == ("enter", entered.revision - 2)
    assert not shop.state.retrain_pending


def test_a_request_is_answered_once_also_after_a_restart(shop):
    shop.start()
    shop.request()
    assert shop.poll() is not None
    assert shop.poll() is None
    shop.worker = shop.restarted()
    assert shop.poll() is None
    assert len(shop.state.arms) == 2


def test_two_workers_give_one_answer(shop, monkeypatch):
    shop.start()
    shop.request()
    other, train = shop.restarted(), TrainingPipeline.train

    def slow(pipeline, *given):
        monkeypatch.setattr(TrainingPipeline, "train", train)
        assert other.poll(lambda *_: None) is None  # the log shows that our attempt began
        shop.now_ms += 60_000
        other.poll(lambda *_: None)  # our attempt takes long, so the other worker answers
        return train(pipeline, *given)

    monkeypatch.setattr(TrainingPipeline, "train", slow)
    with pytest.raises(BadInputError, match="was answered meanwhile"):
        shop.poll()
    assert shop.kinds() == ["start", "retrain", "attempt", "attempt", "enter"]
    assert shop.poll() is None


def test_an_ended_experiment_is_not_trained_for(shop):
    shop.start()
    shop.decisions.append(commands.end(shop.request(), shop.provenance()))
    assert shop.poll() is None
    assert len(shop.models.versions()) == 1


def test_without_an_experiment_or_a_request_nothing_is_trained(shop):
    assert shop.poll() is None
    shop.start()
    assert shop.poll() is None
    assert len(shop.models.versions()) == 1


def test_the_gate_rejects_a_worse_model_without_retrying(shop):
    shop.start("als", **ALS)
    broken = shop.pipeline.train(model_spec("reversed_popularity"))
    enter(shop.decisions, EXPERIMENT, broken, shop.provenance("command"))
    shop.request(arm=broken.manifest.model_version)
    trained = shop.poll()
    assert trained.manifest.algorithm == "reversed_popularity"
    assert not trained.gate.passed
    assert trained.gate.candidate < (1 - TOLERANCE) * trained.gate.champion
    assert trained.manifest.model_version not in shop.state.arms
    assert shop.registry.tags[trained.manifest.model_version]["gate"] == "refused"
    answer = shop.decisions.history(EXPERIMENT)[-1]
    assert (answer.kind, answer.detail.outcome, answer.detail.answers) == ("answer", "refused", 3)
    assert answer.evidence.gate.champion == trained.gate.champion
    assert trained.gate.reason in answer.reason
    assert not shop.state.retrain_pending
    shop.worker = shop.restarted()
    shop.now_ms += 3_600_000
    assert shop.poll() is None
    shop.request(arm=shop.state.champion)
    assert shop.poll().gate.passed


def test_another_decision_in_between_does_not_lose_the_challenger(shop, monkeypatch):
    shop.start()
    shop.request()
    original, interleaved = commands.enter, []

    def enter_late(state, *rest):
        decision = original(state, *rest)
        if not interleaved:
            interleaved.append(shop.decisions.append(commands.hold(state, ["a test"], shop.provenance())))
        return decision

    monkeypatch.setattr(commands, "enter", enter_late)
    version = shop.poll().manifest.model_version
    assert interleaved
    assert version in shop.state.arms


def test_after_a_failure_the_worker_waits_before_retrying(shop, monkeypatch):
    shop.start()
    shop.request()
    original = TrainingPipeline.train
    monkeypatch.setattr(TrainingPipeline, "train", fails)
    with pytest.raises(UnavailableError):
        shop.poll()
    monkeypatch.setattr(TrainingPipeline, "train", original)
    assert shop.poll() is None
    shop.worker = shop.restarted()
    assert shop.poll() is None  # the log holds the start of the attempt: a restart does not help
    shop.now_ms += 60_000
    assert shop.poll().manifest.model_version in shop.state.arms


@pytest.mark.parametrize("dies", [False, True])
def test_what_always_fails_is_given_up_with_its_reason(shop, monkeypatch, dies):
    def killed(*_):
        raise KeyboardInterrupt  # no code of the worker runs after it, as with kill -9

    shop.start()
    shop.request()
    monkeypatch.setattr(TrainingPipeline, "train", killed if dies else fails)
    began = []
    for _ in range(200):
        before = len(shop.kinds())
        try:
            shop.poll()
        except (UnavailableError, KeyboardInterrupt):
            began.append(shop.state.retrain_tried_ms)
            shop.worker = shop.restarted()
        shop.now_ms += 30_000
        assert len(shop.kinds()) - before <= 2
    assert shop.kinds() == ["start", "retrain", *["attempt"] * MAX_ATTEMPTS, "answer"]
    rests = np.diff(began) / 60_000
    assert [int(rest) for rest in np.log2(rests)] == list(range(MAX_ATTEMPTS - 1))
    answer = shop.decisions.history(EXPERIMENT)[-1]
    assert (answer.detail.outcome, answer.detail.attempts) == ("failed", MAX_ATTEMPTS)
    assert ("died during the last attempt" if dies else "full") in answer.reason
    assert not shop.state.retrain_pending


def test_a_log_outage_does_not_refit_a_fitted_model(shop, monkeypatch):
    shop.start()
    shop.request()
    original, fitted = commands.enter, []
    train = TrainingPipeline.train
    monkeypatch.setattr(TrainingPipeline, "train", lambda *given: fitted.append(train(*given)) or fitted[-1])
    monkeypatch.setattr(commands, "enter", fails)
    with pytest.raises(UnavailableError):
        shop.poll()
    with pytest.raises(UnavailableError):
        shop.poll()
    monkeypatch.setattr(commands, "enter", original)
    assert shop.poll() is fitted[0]
    assert (len(fitted), shop.kinds()[-1]) == (1, "enter")


@pytest.mark.parametrize(
    ("kind", "outcome"), [("enter", "passed"), ("answer", "refused"), ("answer", "failed")]
)
def test_a_fit_is_recorded_despite_a_lost_acknowledgement(shop, monkeypatch, kind, outcome):
    shop.start("als", **ALS)
    if outcome == "refused":
        broken = shop.pipeline.train(model_spec("reversed_popularity"))
        enter(shop.decisions, EXPERIMENT, broken, shop.provenance("command"))
    if outcome == "failed":
        monkeypatch.setattr(commands, "enter", refuse)
    shop.request(arm=list(shop.state.arms)[-1])
    lose_the_next_acknowledgement(shop, monkeypatch, kind)
    with pytest.raises(UnavailableError):
        shop.poll()
    trained = shop.poll()
    assert trained.outcome == outcome
    assert shop.kinds()[-2:] == ["attempt", kind]  # answered once
    gate = shop.registry.tags[trained.manifest.model_version]["gate"]
    assert gate == ("refused" if outcome == "refused" else "passed")
    assert shop.poll() is None


def test_a_fit_answered_by_another_worker_first_is_recorded(shop, monkeypatch):
    shop.start()
    request = shop.request().retrain_revision
    monkeypatch.setattr(commands, "enter", fails)
    with pytest.raises(UnavailableError):
        shop.poll()
    fitted = shop.worker.fitted[1].manifest.model_version
    shop.decisions.append(
        commands.answer(
            shop.state, AnswerDetail(answers=request, outcome="failed"), shop.provenance("another")
        )
    )
    assert shop.poll() is None
    assert shop.registry.tags[fitted]["gate"] == "passed"
    assert shop.worker.fitted is None


def test_metrics_count_the_outcome_of_each_fit(shop, monkeypatch):
    registry = CollectorRegistry()
    shop.start()
    shop.request()
    monkeypatch.setattr(commands, "enter", refuse)
    TrainingMetrics(registry).observe(shop.poll)
    counted = {"algorithm": "popularity", "gate": "failed"}
    assert registry.get_sample_value("ringside_fits_total", counted) == 1
    assert registry.get_sample_value("ringside_fits_total", counted | {"gate": "passed"}) is None


def test_a_model_refused_by_the_experiment_ends_the_request(shop, monkeypatch):
    shop.start()
    shop.request()
    monkeypatch.setattr(commands, "enter", refuse)
    shop.poll()
    answer = shop.decisions.history(EXPERIMENT)[-1]
    assert (answer.kind, answer.detail.outcome) == ("answer", "failed")
    assert "already in storefront" in answer.reason


def test_a_late_answer_does_not_answer_a_later_request(shop):
    shop.start()
    first = shop.request().retrain_revision
    trained = shop.pipeline.train(model_spec("popularity"))
    second = shop.request().retrain_revision
    with pytest.raises(AnsweredError, match=f"revision {first}"):
        enter(shop.decisions, EXPERIMENT, trained, shop.provenance("trainer"), answers=first)
    with pytest.raises(IllegalTransition, match=f"revision {first} is not waiting"):
        commands.answer(
            shop.state, AnswerDetail(answers=first, outcome="refused"), shop.provenance("trainer")
        )
    assert (shop.state.retrain_pending, shop.state.retrain_revision) == (True, second)


def test_without_the_registry_training_goes_on(tmp_path):
    shop = TrainingShop(tmp_path, BrokenRegistry())
    first = shop.start().champion
    shop.request()
    second = shop.poll().manifest.model_version
    assert second in shop.state.arms
    shop.poll()
    shop.registry.mended = True
    shop.poll()
    assert shop.registry.aliases == {}  # retried after a minute, not at every poll
    shop.now_ms += 60_000
    shop.poll()
    assert shop.registry.aliases == {"champion": first, "challenger": second}
    assert json.loads(shop.registry.tags[second]["decision.enter"])["author"] == "trainer"


def test_aliases_and_evidence_follow_the_decisions(shop):
    first = shop.start().champion
    second = shop.pipeline.train(model_spec("als", ALS))
    version = second.manifest.model_version
    enter(shop.decisions, EXPERIMENT, second, shop.provenance("command"))
    shop.poll()
    assert shop.registry.aliases == {"champion": first, "challenger": version}
    shop.decisions.append(commands.promote(shop.state, version, shop.provenance()))
    shop.poll()
    assert shop.registry.aliases == {"champion": version, "holdback": first}
    shop.decisions.append(
        commands.rollback(shop.state, version, replace(shop.provenance(), rule="click-race"))
    )
    shop.poll()
    assert shop.registry.aliases == {"champion": first}
    evidence = json.loads(shop.registry.tags[version]["decision.rollback"])
    assert (evidence["rule"], evidence["author"]) == ("click-race", "decider")


def test_a_deleted_artifact_does_not_block_the_registry(shop, caplog):
    first = shop.start().champion
    second = shop.pipeline.train(model_spec("als", ALS))
    old = second.manifest.model_version
    enter(shop.decisions, EXPERIMENT, second, shop.provenance("command"))
    artifact = shop.models._artifacts.pop(old)
    shop.poll()
    assert shop.registry.aliases == {}  # the artifact of a live arm is required
    shop.decisions.append(commands.rollback(shop.state, old, shop.provenance()))
    for _ in range(3):
        shop.now_ms += 60_000
        shop.poll()
    assert shop.registry.aliases == {"champion": first}
    assert sum("a retired model is not registered" in record.getMessage() for record in caplog.records) == 1
    shop.models._artifacts[old] = artifact
    shop.decisions.append(commands.undo(shop.state, shop.state.revision, shop.provenance()))
    shop.poll()
    assert shop.registry.aliases == {"champion": first, "challenger": old}
    assert old in shop.worker.registered
