"""The trainer process: `ringside trainer`."""

import getpass
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from experiments.lifecycle.commands import Origin
from experiments.lifecycle.fold import Experiment
from services import bootstrap
from services.errors import RingsideError
from services.runtime.process import stop_on_signal
from services.runtime.progress import shown
from services.settings import Settings
from services.training.metrics import TrainerMetrics
from services.training.model_spec import Recipe, recipe, recipe_of
from services.training.pipeline import Trained, TrainingPipeline, enter
from services.training.training_window import latest
from services.training.worker import TrainerWorker

log = logging.getLogger(__name__)
NICENESS = 10
LOOK_EVERY_S = 1.0
LONGEST_FIT_S = 3_600.0  # a fit is one long turn of the loop


def run(settings: Settings) -> None:
    """Follow decisions until told to stop. Fitting runs in this process, at low priority."""
    bootstrap.configure_logging(settings, "trainer")
    os.nice(NICENESS)
    stop = stop_on_signal(settings, "trainer")
    worker = make_worker(settings)
    with (
        bootstrap.metered(settings, "trainer", silent_s=LONGEST_FIT_S) as meters,
        shown("retraining") as progress,
    ):
        metrics = TrainerMetrics(meters.registry)
        while not stop.wait(LOOK_EVERY_S):
            try:
                with meters.step():
                    metrics.around(lambda: worker.look(progress))
            except RingsideError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("retraining failed; the request is tried again later")


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
        clock_ms=lambda: time.time_ns() // 1_000_000,
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
