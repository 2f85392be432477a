"""The gate, the latest window, and what a retraining request leads to."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry
from support.fitted_models import DAY_S, NOW_S, catalogue, interactions, two_tastes

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Origin
from experiments.lifecycle.fold import IllegalTransition, Rules
from models.algorithms import ALGORITHM_NAMES
from models.evaluation.offline import cases
from models.evaluation.splits import split_last
from models.recommender import KINDS
from services.adapters.memory.decision_log import MemoryDecisionLog
from services.adapters.memory.stores import MemoryDataStore, MemoryModelRegistry, MemoryModelStore
from services.adapters.text_encoder import CachedTextEncoder, bag_of_words
from services.cli.models import algorithm_name, parse_params
from services.errors import BadInputError, UnavailableError
from services.ports.lake import PastEvents
from services.ports.training import Dataset
from services.runtime.progress import ProgressLog
from services.training.metrics import TrainingMetrics
from services.training.model_spec import model_spec, spec_of
from services.training.offline_gate import TOLERANCE, compare, run_gate
from services.training.offline_report import Entry, line_up, make_report
from services.training.pipeline import AnsweredError, TrainingPipeline, enter
from services.training.served_queries import as_served, query_of
from services.training.training_window import extended, indices, training_window
from services.training.worker import MAX_ATTEMPTS, TrainingWorker

EXPERIMENT = "storefront"
ALS = {"factors": 16, "threads": 1}


def dataset() -> Dataset:
    return Dataset("d1", catalogue(), two_tastes(), "test")


class Shop:
    """A trainer on in-memory adapters, with a clock that moves when told to."""

    def __init__(self, tmp_path, registry=None):
        self.now_ms = 1_000
        self.decisions = MemoryDecisionLog()
        self.models = MemoryModelStore()
        self.registry = registry or MemoryModelRegistry()
        self.pipeline = TrainingPipeline(
            dataset=dataset,
            models=self.models,
            registry=self.registry,
            encoder=lambda: CachedTextEncoder(tmp_path, lambda: bag_of_words),
            clock_ms=self.clock,
        )
        self.worker = self.restarted()

    def clock(self) -> int:
        self.now_ms += 1_000
        return self.now_ms

    def restarted(self) -> TrainingWorker:
        return TrainingWorker(EXPERIMENT, self.decisions, self.models, self.registry, self.pipeline)

    def origin(self, author="decider") -> Origin:
        return Origin(author=author, now_ms=self.clock())

    def start(self, algorithm="popularity", **params):
        version = self.pipeline.train(model_spec(algorithm, params)).manifest.model_version
        champion = {"name": version, "model_version": version}
        return self.decisions.append(commands.start(EXPERIMENT, champion, Rules(), "salt", self.origin()))

    def ask(self, arm=None):
        state = self.decisions.catch_up()[EXPERIMENT]
        decision = commands.retrain(state, arm or state.champion, "the champion fell", self.origin())
        return self.decisions.append(decision)

    def poll(self):
        return self.worker.poll(lambda *_: None)

    def kinds(self):
        return [decision.kind for decision in self.decisions.history(EXPERIMENT)]

    @property
    def state(self):
        return self.decisions.catch_up()[EXPERIMENT]


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


# ---- retraining --------------------------------------------------------------


def test_a_request_yields_a_challenger_of_the_same_spec(shop):
    shop.start("als", **ALS)
    shop.ask()
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
    assert entered.evidence["gate"]["passed"] is True
    assert entered.evidence["gate"]["candidate"] == pytest.approx(trained.gate.candidate)


def test_a_rollbacks_request_is_answered_for_the_removed_arm(shop):
    shop.start()
    made = shop.pipeline.train(model_spec("als", ALS))
    fallen = made.manifest.model_version
    enter(shop.decisions, EXPERIMENT, made, shop.origin("command"))
    shop.decisions.append(commands.promote(shop.state, fallen, shop.origin()))
    shop.ask()  # an older request, which is not the one that waits
    shop.decisions.append(commands.rollback(shop.state, fallen, shop.origin(), retrain="it fell"))
    trained = shop.poll()
    assert trained.manifest.algorithm == "als"
    attempt, entered = shop.decisions.history(EXPERIMENT)[-2:]
    assert (attempt.kind, attempt.detail["answers"], attempt.reason.endswith("it fell.")) == (
        "attempt", entered.revision - 2, True,
    )  # fmt: skip
    assert (entered.kind, entered.detail["answers"]) == ("enter", entered.revision - 2)
    assert not shop.state.retrain_pending


def test_a_request_is_answered_once_also_after_a_restart(shop):
    shop.start()
    shop.ask()
    assert shop.poll() is not None
    assert shop.poll() is None
    shop.worker = shop.restarted()
    assert shop.poll() is None
    assert len(shop.state.arms) == 2


def test_two_trainers_give_one_answer(shop, monkeypatch):
    shop.start()
    shop.ask()
    other, train = shop.restarted(), TrainingPipeline.train

    def slow(pipeline, *given):
        monkeypatch.setattr(TrainingPipeline, "train", train)
        assert other.poll(lambda *_: None) is None  # it knows from the log that ours began
        shop.now_ms += 60_000
        other.poll(lambda *_: None)  # ours takes long: the other one answers
        return train(pipeline, *given)

    monkeypatch.setattr(TrainingPipeline, "train", slow)
    with pytest.raises(BadInputError, match="was answered meanwhile"):
        shop.poll()
    assert shop.kinds() == ["start", "retrain", "attempt", "attempt", "enter"]
    assert shop.poll() is None


def test_an_ended_experiment_is_not_trained_for(shop):
    shop.start()
    shop.decisions.append(commands.end(shop.ask(), shop.origin()))
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
    enter(shop.decisions, EXPERIMENT, broken, shop.origin("command"))
    shop.ask(arm=broken.manifest.model_version)
    trained = shop.poll()
    assert trained.manifest.algorithm == "reversed_popularity"
    assert not trained.gate.passed
    assert trained.gate.candidate < (1 - TOLERANCE) * trained.gate.champion
    assert trained.manifest.model_version not in shop.state.arms
    assert shop.registry.tags[trained.manifest.model_version]["gate"] == "refused"
    answer = shop.decisions.history(EXPERIMENT)[-1]
    assert (answer.kind, answer.detail["outcome"], answer.detail["answers"]) == ("answer", "refused", 3)
    assert answer.evidence["gate"]["champion"] == trained.gate.champion
    assert trained.gate.reason in answer.reason
    assert not shop.state.retrain_pending
    shop.worker = shop.restarted()
    shop.now_ms += 3_600_000
    assert shop.poll() is None
    shop.ask(arm=shop.state.champion)
    assert shop.poll().gate.passed


def test_another_decision_in_between_does_not_lose_the_challenger(shop, monkeypatch):
    shop.start()
    shop.ask()
    honest, meddled = commands.enter, []

    def enter_late(state, *rest):
        decision = honest(state, *rest)
        if not meddled:
            meddled.append(shop.decisions.append(commands.hold(state, ["a test"], shop.origin())))
        return decision

    monkeypatch.setattr(commands, "enter", enter_late)
    version = shop.poll().manifest.model_version
    assert meddled
    assert version in shop.state.arms


class BrokenRegistry(MemoryModelRegistry):
    """MLflow that is gone until it is `mended`."""

    mended = False

    def register(self, manifest):
        if not self.mended:
            raise UnavailableError("MLflow", "gone")
        super().register(manifest)


def test_without_the_registry_training_goes_on(tmp_path):
    shop = Shop(tmp_path, BrokenRegistry())
    first = shop.start().champion
    shop.ask()
    second = shop.poll().manifest.model_version
    assert second in shop.state.arms
    shop.poll()
    shop.registry.mended = True
    shop.poll()
    assert shop.registry.aliases == {}  # it rests, rather than trying at every look
    shop.now_ms += 60_000
    shop.poll()
    assert shop.registry.aliases == {"champion": first, "challenger": second}
    assert json.loads(shop.registry.tags[second]["decision.enter"])["author"] == "trainer"


# ---- the registry follows --------------------------------------------------------------


def test_aliases_and_evidence_follow_the_decisions(shop):
    first = shop.start().champion
    second = shop.pipeline.train(model_spec("als", ALS))
    version = second.manifest.model_version
    enter(shop.decisions, EXPERIMENT, second, shop.origin("command"))
    shop.poll()
    assert shop.registry.aliases == {"champion": first, "challenger": version}
    shop.decisions.append(commands.promote(shop.state, version, shop.origin()))
    shop.poll()
    assert shop.registry.aliases == {"champion": version, "holdback": first}
    shop.decisions.append(commands.rollback(shop.state, version, replace(shop.origin(), rule="click-race")))
    shop.poll()
    assert shop.registry.aliases == {"champion": first}
    told = json.loads(shop.registry.tags[version]["decision.rollback"])
    assert (told["rule"], told["author"]) == ("click-race", "decider")


def test_a_deleted_artifact_does_not_block_the_registry(shop, caplog):
    first = shop.start().champion
    second = shop.pipeline.train(model_spec("als", ALS))
    old = second.manifest.model_version
    enter(shop.decisions, EXPERIMENT, second, shop.origin("command"))
    artifact = shop.models._artifacts.pop(old)
    shop.poll()
    assert shop.registry.aliases == {}  # a live arm is waited for
    shop.decisions.append(commands.rollback(shop.state, old, shop.origin()))
    for _ in range(3):
        shop.now_ms += 60_000
        shop.poll()
    assert shop.registry.aliases == {"champion": first}
    assert sum("a retired model is not registered" in record.getMessage() for record in caplog.records) == 1
    shop.models._artifacts[old] = artifact
    shop.decisions.append(commands.undo(shop.state, shop.state.revision, shop.origin()))
    shop.poll()
    assert shop.registry.aliases == {"champion": first, "challenger": old}
    assert old in shop.worker.registered


# ---- the gate --------------------------------------------------------------


@pytest.mark.parametrize(("candidate", "passed"), [(0.0899, False), (0.0901, True), (0.5, True)])
def test_the_gate_allows_a_tenth_less_than_the_champion(candidate, passed):
    gate = compare({"recall@20": candidate, "users": 99.0}, 0.1, 0.0)
    assert gate.passed is passed
    assert "0.1000" in gate.reason


def test_both_model_specs_are_evaluated_on_later_events():
    seen = []

    def fit(made, split, progress):
        seen.append((made.algorithm, split.train.at.max(), split.cut_s))
        return made.fit(split.train, catalogue(), now_s=split.cut_s, encoder=None)

    gate = run_gate(model_spec("popularity"), model_spec("reversed_popularity"), dataset(), fit)
    assert [name for name, _, _ in seen] == ["popularity", "reversed_popularity"]
    assert all(latest_s <= cut_s == gate.cut_s < NOW_S for _, latest_s, cut_s in seen)
    assert gate.metrics["recall@20"] == gate.candidate > gate.champion
    assert gate.metrics["all users"] >= gate.users > 0


def test_too_few_users_are_no_verdict_and_say_so():
    few = Dataset("d", catalogue(), interactions([(0, 1, 9.0), (0, 2, 1.0)], 1), "test")
    gate = run_gate(model_spec("popularity"), None, few, lambda *_: pytest.fail("nothing to judge by"))
    assert gate.passed
    assert "not judged" in gate.reason


# ---- recipes --------------------------------------------------------------


def test_a_recipe_comes_back_from_the_manifest(shop):
    made = model_spec("popularity", {"fast_days": 3.0})
    assert spec_of(shop.pipeline.train(made).manifest).params["fast_days"] == 3.0


@pytest.mark.parametrize(
    ("algorithm", "params", "named"), [("magic", {}, "magic"), ("als", {"wide": 1}, "wide")]
)
def test_an_unknown_algorithm_or_parameter_is_named(algorithm, params, named):
    with pytest.raises(BadInputError, match=named):
        model_spec(algorithm, params)


def test_a_parameter_that_makes_no_sense_is_bad_input(shop):
    with pytest.raises(BadInputError, match="params"):
        shop.pipeline.train(model_spec("als", {"factors": "many"}))


def test_content_is_trained_through_the_encoder(shop):
    trained = shop.pipeline.train(model_spec("content", {"dimensions": 8}))
    model, _ = shop.models.load(trained.manifest.model_version)
    assert model.vectors.shape == (60, 8)


@pytest.mark.parametrize(("former", "present"), [("linear", "ease"), ("inverted", "reversed_popularity")])
def test_former_names_of_algorithms_are_accepted(former, present):
    assert model_spec(former).algorithm == algorithm_name(former) == present


@pytest.mark.parametrize("pair", ["factors", "=3"])
def test_a_parameter_without_value_is_named(pair):
    with pytest.raises(BadInputError, match="name=value"):
        parse_params([pair])
    assert parse_params(["a=1", "b=x"]) == {"a": 1, "b": "x"}


# ---- the window --------------------------------------------------------------


def past(rows: list[tuple[str, str, float, str]]) -> PastEvents:
    user, item, at, kind = (list(column) for column in zip(*rows, strict=True))
    return PastEvents(
        np.array(user), np.array(item), np.array(at), np.array([KINDS.index(k) for k in kind], np.uint8)
    )


def test_the_window_goes_on_with_what_shoppers_did_since():
    later = past(
        [
            ("new", "item-003", NOW_S + 1, "click"),
            ("u7", "item-000", NOW_S + 2, "purchase"),
            ("u7", "gone", NOW_S + 3, "click"),
        ]
    )
    longer = extended(dataset(), later).interactions
    before = dataset().interactions
    assert len(longer.at) == len(before.at) + 2
    assert longer.users[longer.user[-2:]].tolist() == ["new", "u7"]
    assert longer.item[-2:].tolist() == [3, 0]
    assert longer.kind[-2:].tolist() == [KINDS.index("click"), KINDS.index("purchase")]
    np.testing.assert_array_equal(longer.user[:-2], before.user)
    assert (np.diff(longer.at) >= 0).all()


def test_only_events_after_the_import_are_asked_for():
    asked = []

    class History:
        def since(self, after_ms):
            asked.append(after_ms)
            return PastEvents.none()

    data = dataset()
    assert len(training_window(MemoryDataStore(data), History()).interactions.at) == len(data.interactions.at)
    assert asked == [int(data.interactions.at[-1] * 1_000)]


def test_places_are_found_in_any_order():
    names = np.array(["b", "zz", "a", "", "c"])
    assert indices(np.array(["c", "a", "b"]), names).tolist() == [2, -1, 1, -1, 0]
    assert indices(np.empty(0, "<U1"), names).tolist() == [-1] * 5


# ---- report and progress --------------------------------------------------------------


def test_the_report_puts_the_better_model_above_the_broken_one(tmp_path):
    entries = (
        Entry("als", model_spec("als", ALS)),
        Entry("content", model_spec("content", {"dimensions": 8})),
        Entry("broken", model_spec("reversed_popularity")),
    )
    encoder = CachedTextEncoder(tmp_path, lambda: bag_of_words)
    found = make_report(dataset(), lambda: encoder, lambda *_: None, test_days=10.0, entries=entries)
    good, _, broken = found.lines
    assert good.metrics["recall@20"] > broken.metrics["recall@20"]
    assert found.cut_s == pytest.approx(found.until_s - 10 * DAY_S)
    assert found.train_rows + found.test_rows == len(two_tastes().at)
    text = found.to_markdown()
    assert f"| als | {good.metrics['recall@10']:.4f} | {good.metrics['recall@20']:.4f} |" in text
    assert f"| als | {good.metrics['all recall@10']:.4f} |" in text
    assert json.loads(json.dumps(found.to_json()))["lines"][0]["metrics"] == good.metrics


def test_the_line_up_holds_every_algorithm_and_its_variants():
    entries = line_up()
    assert [entry.spec.algorithm for entry in entries if not entry.spec.params] == list(ALGORITHM_NAMES)
    assert [entry.name for entry in line_up(["popularity"])] == [
        "popularity, all time",
        "popularity, last ten days",
        "popularity",
    ]
    assert [entry.name for entry in line_up(["reversed_popularity"])] == [
        "reversed_popularity (broken on purpose)"
    ]


def test_a_split_that_leaves_nothing_to_learn_from_is_refused():
    with pytest.raises(BadInputError, match="test_days"):
        make_report(dataset(), lambda: None, lambda *_: None, test_days=1_000.0)


def test_a_log_gets_stage_ends_and_occasional_progress(caplog):
    moments = iter([0.0, 1.0, 6.0, 7.0, 8.0])
    lines = ProgressLog("fit", lambda: next(moments))
    with caplog.at_level("INFO"):
        for done in (1, 2, 3, 4):
            lines(done, 4, "als")
    assert [record.getMessage() for record in caplog.records] == ["fit: als 2/4", "fit: als 4/4"]


# ---- point-in-time --------------------------------------------------------------


class Features:
    """The offline store's answers, from rows (user, at_ms, items)."""

    def __init__(self, *rows, applied=True):
        self.rows, self.is_applied, self.asked = rows, applied, []

    def applied(self):
        return self.is_applied

    def history(self, view, columns):
        stamps = pa.array([at_ms * 1_000 for _, at_ms, _ in self.rows], pa.timestamp("us", "UTC"))
        return pa.table({"user_id": [user for user, _, _ in self.rows], "event_timestamp": stamps})

    def rows_as_of(self, view, features, keys, at_ms):
        self.asked.append((view, list(keys)))
        found = [self._latest(key, moment) for key, moment in zip(keys, at_ms, strict=True)]
        return pd.DataFrame(found, columns=list(features))

    def _latest(self, key, moment):
        rows = sorted((at, items) for user, at, items in self.rows if user == key and at <= moment)
        if not rows:
            return (None, None, None)
        at, items = rows[-1]
        return (np.array(items), [at] * len(items), ["click"] * len(items))


def judged_cases():
    split = split_last(dataset().interactions, 10 * DAY_S)
    return split, cases(split)


def test_queries_are_the_rows_that_serving_would_have_read():
    split, judged = judged_cases()
    cut_ms = int(split.cut_s * 1_000)
    first, second = (str(split.train.users[case.user]) for case in judged[:2])
    store = Features(
        (first, cut_ms - 9, ["item-007"]),
        (first, cut_ms - 5, ["item-005", "gone", "item-007"]),
        (first, cut_ms + 5, ["item-009"]),
        (second, cut_ms + 1, ["item-009"]),
    )
    served = as_served(judged, split, catalogue(), store)
    assert store.asked == [("user_activity", [first])]
    assert served[0].query.recent.tolist() == [5, 7]
    assert served[0].query.recent_at.tolist() == [(cut_ms - 5) / 1_000] * 2
    assert [KINDS[kind] for kind in served[0].query.recent_kind] == ["click", "click"]
    assert served[1:] == judged[1:]
    np.testing.assert_array_equal(served[0].later, judged[0].later)


def test_users_away_beyond_the_ttl_are_not_evaluated():
    """Neither by a row of Feast nor by old interactions: serving would know nothing."""
    split, judged = judged_cases()
    away_s = [split.cut_s - float(case.query.recent_at[0]) for case in judged]
    ttl_s = float(np.median(away_s))
    lately = str(split.train.users[judged[int(np.argmax(away_s))].user])
    row = (lately, int((split.cut_s - 1) * 1_000), ["item-001"])
    kept = as_served(judged, split, catalogue(), Features(row), ttl_s)
    recent = [case.user for case, away in zip(judged, away_s, strict=True) if away <= ttl_s]
    assert {case.user for case in kept} == {*recent, judged[int(np.argmax(away_s))].user}
    assert 0 < len(recent) < len(judged)


@pytest.mark.parametrize("applied", [True, False])
def test_without_early_rows_feast_is_not_asked(applied):
    split, judged = judged_cases()
    late = (str(split.train.users[judged[0].user]), int(split.cut_s * 1_000) + 1, ["item-001"])
    store = Features(late, applied=applied)
    assert as_served(judged, split, catalogue(), store) == judged
    assert store.asked == []


def test_an_expired_or_unknown_row_is_no_query():
    assert query_of({"item_ids": None, "item_at": None, "item_types": None}, {"a": 0}, 1.0) is None
    assert query_of({"item_ids": float("nan"), "item_at": 0, "item_types": 0}, {"a": 0}, 1.0) is None
    assert query_of({"item_ids": ["b"], "item_at": [1], "item_types": ["view"]}, {"a": 0}, 1.0) is None


def fails(*_):
    raise UnavailableError("the disk", "full")


def test_after_a_failure_the_trainer_rests_and_then_tries_again(shop, monkeypatch):
    shop.start()
    shop.ask()
    honest = TrainingPipeline.train
    monkeypatch.setattr(TrainingPipeline, "train", fails)
    with pytest.raises(UnavailableError):
        shop.poll()
    monkeypatch.setattr(TrainingPipeline, "train", honest)
    assert shop.poll() is None
    shop.worker = shop.restarted()
    assert shop.poll() is None  # the log says when the attempt began: a restart does not hurry
    shop.now_ms += 60_000
    assert shop.poll().manifest.model_version in shop.state.arms


@pytest.mark.parametrize("dies", [False, True])
def test_what_always_fails_is_given_up_with_its_reason(shop, monkeypatch, dies):
    def killed(*_):
        raise KeyboardInterrupt  # nothing of the worker's runs after it, as with kill -9

    shop.start()
    shop.ask()
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
    assert (answer.detail["outcome"], answer.detail["attempts"]) == ("failed", MAX_ATTEMPTS)
    assert ("did not live" if dies else "full") in answer.reason
    assert not shop.state.retrain_pending


def test_a_log_outage_does_not_refit_a_fitted_model(shop, monkeypatch):
    shop.start()
    shop.ask()
    honest, fitted = commands.enter, []
    train = TrainingPipeline.train
    monkeypatch.setattr(TrainingPipeline, "train", lambda *given: fitted.append(train(*given)) or fitted[-1])
    monkeypatch.setattr(commands, "enter", fails)
    with pytest.raises(UnavailableError):
        shop.poll()
    with pytest.raises(UnavailableError):
        shop.poll()
    monkeypatch.setattr(commands, "enter", honest)
    assert shop.poll() is fitted[0]
    assert (len(fitted), shop.kinds()[-1]) == (1, "enter")


def lose_the_next_acknowledgement(shop, monkeypatch, kind):
    """The record gets into the log; whoever appended it hears nothing of that."""
    honest = shop.decisions.append

    def append(decision):
        state = honest(decision)
        if decision.kind == kind:
            monkeypatch.setattr(shop.decisions, "append", honest)
            raise UnavailableError("the decision log", "no acknowledgement")
        return state

    monkeypatch.setattr(shop.decisions, "append", append)


@pytest.mark.parametrize(
    ("kind", "outcome"), [("enter", "passed"), ("answer", "refused"), ("answer", "failed")]
)
def test_a_fit_is_recorded_despite_a_lost_acknowledgement(shop, monkeypatch, kind, outcome):
    shop.start("als", **ALS)
    if outcome == "refused":
        broken = shop.pipeline.train(model_spec("reversed_popularity"))
        enter(shop.decisions, EXPERIMENT, broken, shop.origin("command"))
    if outcome == "failed":
        monkeypatch.setattr(commands, "enter", refuse)
    shop.ask(arm=list(shop.state.arms)[-1])
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
    asked = shop.ask().retrain_revision
    monkeypatch.setattr(commands, "enter", fails)
    with pytest.raises(UnavailableError):
        shop.poll()
    fitted = shop.worker.fitted[1].manifest.model_version
    shop.decisions.append(commands.answer(shop.state, asked, "failed", {}, shop.origin("another")))
    assert shop.poll() is None
    assert shop.registry.tags[fitted]["gate"] == "passed"
    assert shop.worker.fitted is None


def test_metrics_count_the_outcome_of_each_fit(shop, monkeypatch):
    registry = CollectorRegistry()
    shop.start()
    shop.ask()
    monkeypatch.setattr(commands, "enter", refuse)
    TrainingMetrics(registry).observe(shop.poll)
    counted = {"algorithm": "popularity", "gate": "failed"}
    assert registry.get_sample_value("ringside_fits_total", counted) == 1
    assert registry.get_sample_value("ringside_fits_total", counted | {"gate": "passed"}) is None


def refuse(*_):
    raise IllegalTransition("arm x is already in storefront")


def test_a_model_refused_by_the_experiment_ends_the_request(shop, monkeypatch):
    shop.start()
    shop.ask()
    monkeypatch.setattr(commands, "enter", refuse)
    shop.poll()
    answer = shop.decisions.history(EXPERIMENT)[-1]
    assert (answer.kind, answer.detail["outcome"]) == ("answer", "failed")
    assert "already in storefront" in answer.reason


def test_a_zombies_late_answer_does_not_answer_later_requests(shop):
    shop.start()
    first = shop.ask().retrain_revision
    trained = shop.pipeline.train(model_spec("popularity"))
    second = shop.ask().retrain_revision
    with pytest.raises(AnsweredError, match=f"revision {first}"):
        enter(shop.decisions, EXPERIMENT, trained, shop.origin("trainer"), answers=first)
    with pytest.raises(IllegalTransition, match=f"revision {first} is not waiting"):
        commands.answer(shop.state, first, "refused", {}, shop.origin("trainer"))
    assert (shop.state.retrain_pending, shop.state.retrain_revision) == (True, second)
