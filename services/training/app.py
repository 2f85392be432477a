"""`ringside training`: answer retraining requests with new challengers, until SIGTERM."""

import getpass
import logging
import os
from collections.abc import Mapping
from typing import Any

from experiments.lifecycle.commands import Origin
from experiments.lifecycle.fold import Experiment
from services import bootstrap
from services.runtime.clock import wall_ms
from services.runtime.process import stop_on_signal
from services.runtime.progress import shown
from services.runtime.worker_loop import WorkerLoop
from services.settings import Settings
from services.training.metrics import TrainerMetrics
from services.training.model_spec import Recipe, recipe, recipe_of
from services.training.pipeline import Trained, TrainingPipeline, enter
from services.training.training_window import latest
from services.training.worker import TrainerWorker

log = logging.getLogger(__name__)
PROCESS = "training"
NICENESS = 10
POLL_EVERY_S = 1.0
LONGEST_FIT_S = 3_600.0  # a fit is one long step


def run(settings: Settings) -> None:
    """Follow decisions until SIGTERM. Models are fitted in this process, at low priority."""
    bootstrap.configure_logging(settings, PROCESS)
    os.nice(NICENESS)
    stop = stop_on_signal(settings, PROCESS)
    worker = make_worker(settings)
    with (
        bootstrap.metered(settings, PROCESS, silent_s=LONGEST_FIT_S) as meters,
        shown("retraining") as progress,
    ):
        metrics = TrainerMetrics(meters.registry)
        WorkerLoop(
            "retraining",
            lambda: metrics.around(lambda: worker.look(progress)),
            every_s=POLL_EVERY_S,
            retry_s=POLL_EVERY_S,
            retried=(Exception,),  # the worker counts attempts, and gives up a request that fails too often
            metered=meters.step,
        ).run(stop)


def make_worker(settings: Settings) -> TrainerWorker:
    """The worker on real adapters."""
    return TrainerWorker(
        experiment=settings.experiments.default,
        decisions=bootstrap.decision_log(settings),
        models=bootstrap.model_store(settings),
        registry=bootstrap.model_registry(settings),
        workshop=make_workshop(settings),
    )


def make_workshop(settings: Settings) -> TrainingPipeline:
    """Training on real adapters."""
    data, history = bootstrap.data_store(settings), bootstrap.event_history(settings)
    return TrainingPipeline(
        dataset=lambda: latest(data, history),
        models=bootstrap.model_store(settings),
        registry=bootstrap.model_registry(settings),
        encoder=lambda: bootstrap.text_encoder(settings),
        features=bootstrap.feature_store(settings),
        activity_ttl_s=settings.activity_ttl_s,
        clock_ms=wall_ms,
    )


def train_by_command(
    settings: Settings, algorithm: str, params: Mapping[str, Any], *, against_champion: bool
) -> Trained:
    """Train, with progress for whoever watches; says what the gate found."""
    bootstrap.configure_logging(settings, "train")
    made = recipe(algorithm, params)
    champion = champion_recipe(settings) if against_champion else None
    with shown(algorithm) as progress:
        trained = make_workshop(settings).train(made, champion, progress)
    log.info("%s: %s", trained.manifest.model_version, trained.verdict.reason)
    return trained


def record(settings: Settings, trained: Trained) -> None:
    """Note a trained model in the registry."""
    make_workshop(settings).record(trained)


def champion_recipe(settings: Settings) -> Recipe | None:
    """How the champion was made; None before the experiment has started."""
    state = bootstrap.decision_log(settings).catch_up().get(settings.experiments.default)
    if state is None:
        return None
    _, manifest = bootstrap.model_store(settings).load(state.arms[state.champion].model_version)
    return recipe_of(manifest)


def enter_by_command(settings: Settings, trained: Trained, arm: str | None, now_ms: int) -> Experiment:
    """Let a trained model join the experiment because a person said so."""
    author = f"shell:{getpass.getuser()}"
    origin = Origin(author=author, now_ms=now_ms, code_version=trained.manifest.code_version)
    return enter(bootstrap.decision_log(settings), settings.experiments.default, trained, origin, arm)
