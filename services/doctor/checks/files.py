"""Checks of files: free disk space, imported data, Feast's registry, the models of live arms."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from experiments.lifecycle.state import Experiment
from services.doctor.check_result import CheckResult, fail, ok, warn
from services.doctor.installation import Installation
from services.errors import ArtifactError, ConfigurationError, UnavailableError

WARN_BELOW_BYTES, FAIL_BELOW_BYTES = 2_000_000_000, 200_000_000


def disk(installation: Installation) -> Iterator[CheckResult]:
    """Check that RINGSIDE_HOME can be written and has free space."""
    home = installation.settings.home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        yield fail(
            "disk", f"{home} can't be written: {error.strerror}", "fix its permissions or RINGSIDE_HOME"
        )
        return
    free = free_bytes(home)
    message = f"{free / 1e9:.1f} GB free in {home}"
    if free < FAIL_BELOW_BYTES:
        yield fail("disk", message, "free disk space: the lake and models can't be written")
    elif free < WARN_BELOW_BYTES:
        yield warn("disk", message, "free disk space: archive old hours of the lake, delete retired models")
    else:
        yield ok("disk", message)


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk that holds `folder`."""
    return shutil.disk_usage(folder).free


def data(installation: Installation) -> Iterator[CheckResult]:
    """Check that a data version was imported."""
    current = installation.data_store(installation.settings).current()
    if current is None:
        yield fail("data", "no data version was imported", "run `ringside data import …`")
    else:
        yield ok("data", current)


def features(installation: Installation) -> Iterator[CheckResult]:
    """Check that Feast's registry holds every required feature view."""
    views = installation.diagnostics.registered_views()
    action = "run `ringside features apply`, then `ringside features materialize`"
    if views is None:
        yield fail("features", "Feast's registry does not exist", action)
        return
    missing = [view for view in installation.diagnostics.required_views() if view not in views]
    if missing:
        yield fail("features", f"not registered: {', '.join(missing)}", action)
    else:
        yield ok("features", f"{len(views)} views are registered")


def models(installation: Installation) -> Iterator[CheckResult]:
    """Check that the model of every live arm exists and matches the hashes in its manifest."""
    name = installation.settings.experiments.default
    try:
        state, source = _state(installation, name)
    except UnavailableError as error:
        yield warn("models", f"the live arms are not known: {error}", "fix that first")
        return
    if state is None:
        action = "run `ringside models fit popularity`, then `ringside experiment start MODEL`"
        yield warn("models", f"experiment {name} was never started", action)
        return
    store = installation.model_store(installation.settings)
    for arm in state.live_arms():
        try:
            store.load(arm.model_version)
        except (ArtifactError, ConfigurationError, OSError) as error:
            action = f"restore it from a backup, or run `ringside experiment rollback {arm.name}`"
            yield fail("models", f"{arm.role} {arm.name}: {error}", action)
        else:
            yield ok("models", f"{arm.role} {arm.name}: {arm.model_version}, according to {source}")


def _state(installation: Installation, name: str) -> tuple[Experiment | None, str]:
    """Read the state of an experiment from the log of decisions, or from Redis if the broker is away."""
    try:
        return installation.decision_log(installation.settings).catch_up().get(name), "the log"
    except UnavailableError:
        return installation.state_cache(installation.settings).get(name), "Redis"
