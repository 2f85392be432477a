"""What lies on disk: Feast's registry, models of the arms that serve, room for more."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.lifecycle.fold import Experiment
from services import bootstrap
from services.doctor.findings import Finding, fail, ok, warn
from services.errors import ArtifactError, ConfigurationError, UnavailableError
from services.settings import Settings

LOW_BYTES, OUT_BYTES = 2_000_000_000, 200_000_000


def disk(settings: Settings) -> Iterator[Finding]:
    """RINGSIDE_HOME can be written, and has room."""
    home = settings.home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        yield fail(
            "disk", f"{home} can't be written: {error.strerror}", "mend its permissions, or RINGSIDE_HOME"
        )
        return
    free = free_bytes(home)
    said = f"{free / 1e9:.1f} GB free in {home}"
    if free < OUT_BYTES:
        yield fail("disk", said, "make room: the lake and models can't be written")
    elif free < LOW_BYTES:
        yield warn("disk", said, "make room: move old hours of the lake away, delete retired models")
    else:
        yield ok("disk", said)


def free_bytes(folder: Path) -> int:
    """Room that is left there."""
    return shutil.disk_usage(folder).free


def data(settings: Settings) -> Finding:
    """There is a data version."""
    current = bootstrap.data_store(settings).current()
    if current is None:
        return fail("data", "none was imported", "run `ringside data import …`")
    return ok("data", current)


def features(settings: Settings) -> Finding:
    """Views are registered."""
    views = bootstrap.diagnostics(settings).registered_views()
    todo = "run `ringside features apply`, then `ringside features materialize`"
    if views is None:
        return fail("features", "Feast's registry is not there", todo)
    missing = [view for view in bootstrap.diagnostics(settings).required_views() if view not in views]
    if missing:
        return fail("features", f"not registered: {', '.join(missing)}", todo)
    return ok("features", f"{len(views)} views are registered")


def models(settings: Settings) -> Iterator[Finding]:
    """Every live arm's model is there, with the bytes that its manifest promises."""
    try:
        state, source = _state(settings)
    except UnavailableError as error:
        yield warn("models", f"which arms serve is not known: {error}", "mend that first")
        return
    if state is None:
        todo = "`ringside models fit popularity`, then `ringside experiment start MODEL`"
        yield warn("models", f"experiment {settings.experiment} was never started", todo)
        return
    store = bootstrap.model_store(settings)
    for arm in state.live_arms():
        try:
            store.load(arm.model_version)
        except (ArtifactError, ConfigurationError, OSError) as error:
            todo = f"bring it back from a backup, or `ringside experiment rollback {arm.name}`"
            yield fail("models", f"{arm.role} {arm.name}: {error}", todo)
        else:
            yield ok("models", f"{arm.role} {arm.name}: {arm.model_version}, as {source} has it")


def _state(settings: Settings) -> tuple[Experiment | None, str]:
    try:
        return bootstrap.decision_log(settings).catch_up().get(settings.experiment), "the log"
    except UnavailableError:
        return bootstrap.state_cache(settings).get(settings.experiment), "Redis"
