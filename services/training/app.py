"""`ringside training`: answer retraining requests with new challengers, until SIGTERM."""

import getpass
import logging
import os
from collections.abc import Mapping

from experiments.lifecycle.commands import Provenance
from experiments.lifecycle.state import Experiment
from services import bootstrap
from services.runtime.clock import wall_ms
from services.runtime.process import stop_on_signal
from services.runtime.progress import show_progress
from services.runtime.worker_loop import WorkerLoop
from services.settings import Settings
from services.training.metrics import TrainingMetrics
from services.training.model_spec import ModelSpec, model_spec, spec_of
from services.training.pipeline import TrainingPipeline, TrainingResult, enter
from services.training.training_window import training_window
from services.training.worker import TrainingWorker

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
        show_progress("retraining") as progress,
    ):
        metrics = TrainingMetrics(meters.registry)
        WorkerLoop(
            "retraining",
            lambda: metrics.observe(lambda: worker.poll(progress)),
            every_s=POLL_EVERY_S,
            retry_s=POLL_EVERY_S,
            retried=(Exception,),  # the worker counts attempts, and gives up a request that fails too often
            metered=meters.step,
        ).run(stop)


def make_worker(settings: Settings) -> TrainingWorker:
    """The worker on real adapters."""
    decisions = bootstrap.decision_log(settings)
    return TrainingWorker(settings.experiments.default, decisions, make_pipeline(settings))


def make_pipeline(settings: Settings) -> TrainingPipeline:
    """Training on real adapters."""
    data, history = bootstrap.data_store(settings), bootstrap.event_history(settings)
    return TrainingPipeline(
        dataset=lambda: training_window(data, history),
        models=bootstrap.model_store(settings),
        registry=bootstrap.model_registry(settings),
        encoder=lambda: bootstrap.text_encoder(settings),
        features=bootstrap.feature_store(settings),
        activity_ttl_s=settings.activity_ttl_s,
        clock_ms=wall_ms,
    )


def train_by_command(
    settings: Settings, algorithm: str, params: Mapping[str, object], *, against_champion: bool
) -> TrainingResult:
    """Train with progress on the terminal, and log the result of the offline gate."""
    bootstrap.configure_logging(settings, "train")
    spec = model_spec(algorithm, params)
    champion = champion_spec(settings) if against_champion else None
    with show_progress(algorithm) as progress:
        trained = make_pipeline(settings).train(spec, champion, progress)
    log.info("%s: %s", trained.manifest.model_version, trained.gate.reason)
    return trained


def record(settings: Settings, trained: TrainingResult) -> None:
    """Record a trained model in the registry."""
    make_pipeline(settings).record(trained)


def champion_spec(settings: Settings) -> ModelSpec | None:
    """Spec of the champion's model; None before the experiment has started."""
    state = bootstrap.decision_log(settings).catch_up().get(settings.experiments.default)
    if state is None:
        return None
    _, manifest = bootstrap.model_store(settings).load(state.arms[state.champion].model_version)
    return spec_of(manifest)


def enter_by_command(settings: Settings, trained: TrainingResult, arm: str | None, now_ms: int) -> Experiment:
    """Enter a trained model into the experiment by command of the current user."""
    author = f"shell:{getpass.getuser()}"
    provenance = Provenance(author=author, now_ms=now_ms, code_version=trained.manifest.code_version)
    return enter(bootstrap.decision_log(settings), settings.experiments.default, trained, provenance, arm)
