"""Training on in-memory adapters, and a small data set."""

from experiments.lifecycle import commands
from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.state import Rules
from services.adapters.memory.stores import MemoryModelRegistry
from services.adapters.text_encoder import CachedTextEncoder, bag_of_words
from services.ports.training import Dataset
from services.training.model_spec import model_spec
from services.training.pipeline import TrainingPipeline
from services.training.worker import TrainingWorker
from support.breakable import BreakableDecisionLog, BreakableModelStore
from support.fitted_models import catalogue, two_tastes

EXPERIMENT = "storefront"
ALS = {"factors": 16, "threads": 1}


def dataset() -> Dataset:
    return Dataset("d1", catalogue(), two_tastes(), "test")


class TrainingShop:
    """A training worker with its stores, and a clock that advances by a second per reading."""

    def __init__(self, tmp_path, registry=None):
        self.now_ms = 1_000
        self.decisions = BreakableDecisionLog()
        self.models = BreakableModelStore()
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
        return TrainingWorker(EXPERIMENT, self.decisions, self.pipeline)

    def provenance(self, author="decider") -> Provenance:
        return Provenance(author=author, now_ms=self.clock())

    def start(self, algorithm="popularity", **params):
        version = self.pipeline.train(model_spec(algorithm, params)).manifest.model_version
        champion = commands.Deployed(version, version)
        return self.decisions.append(commands.start(EXPERIMENT, champion, Rules(), "salt", self.provenance()))

    def request(self, arm=None):
        state = self.decisions.catch_up()[EXPERIMENT]
        decision = commands.retrain(state, arm or state.champion, "the champion fell", self.provenance())
        return self.decisions.append(decision)

    def poll(self):
        return self.worker.poll(lambda *_: None)

    def kinds(self):
        return [decision.kind for decision in self.decisions.history(EXPERIMENT)]

    @property
    def state(self):
        return self.decisions.catch_up()[EXPERIMENT]
