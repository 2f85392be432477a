"""Checks of settings: unknown variables, invalid values, the window, weak secrets, ports in use."""

import difflib
import socket
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from services.doctor.check_result import CheckResult, fail, ok, warn
from services.doctor.installation import Installation
from services.errors import ConfigurationError
from services.runtime.liveness import is_ringside
from services.settings import PREFIX, Settings, problems
from services.web.api_keys import Keys, Role, digest_of, signing_keys

FEAST = "RINGSIDE_FEAST_"  # read by feature_repo; see `ringside features environment`
MIN_SECRET_LENGTH, MIN_DISTINCT = 32, 12  # characters
REQUIRED_ROLES: tuple[Role, ...] = ("storefront", "admin")  # roles without which an installation is of no use


def variables(environ: Mapping[str, str]) -> Iterator[CheckResult]:
    """Check that each variable with our prefix is a setting."""
    known = [name.upper() for name in Settings.model_fields]
    for name in sorted(environ):
        short = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or name.startswith(FEAST) or short in known:
            continue
        near = difflib.get_close_matches(short, known, 1)
        action = f"did you mean {PREFIX}{near[0]}?" if near else "unset it: no setting has a similar name"
        yield warn("settings", f"{name} is not a setting and has no effect", action)


def read(environ: Mapping[str, str]) -> tuple[Settings | None, list[CheckResult]]:
    """Read the settings; None if one is invalid. Values are never printed: they may hold secrets."""
    try:
        settings = Settings()
    except ValidationError as error:
        invalid = [fail("settings", problem, "correct it") for problem in problems(error)]
        return None, [*variables(environ), *invalid]
    return settings, [*variables(environ), ok("settings", "every value is valid")]


def window(installation: Installation) -> Iterator[CheckResult]:
    """Check that the broker retains exposures until their attribution window has passed."""
    settings = installation.settings
    try:
        installation.check_window(settings)
    except ConfigurationError as error:
        yield fail("window", str(error), "change the setting named here")
        return
    if settings.kafka_mode == "embedded":
        message = "the embedded broker keeps its log in memory"
        yield warn("window", message, "use RINGSIDE_KAFKA_MODE=kafka for more than a trial")
        return
    yield ok("window", f"{settings.window_s:g} s and {settings.lateness_s:g} s of lateness")


def secrets(installation: Installation) -> Iterator[CheckResult]:
    """Check that API keys and the signing key are configured and can't be guessed."""
    settings = installation.settings
    try:
        keys = Keys.of(settings)
    except ConfigurationError as error:
        yield fail("keys", str(error), "run `ringside keys new`")
    else:
        yield from _keys(settings, keys)
    try:
        signing = signing_keys(settings)
    except ConfigurationError as error:
        yield fail("signing key", str(error), "run `ringside keys new`")
        return
    weak = [key for key in signing if len(key) < MIN_SECRET_LENGTH or len(set(key)) < MIN_DISTINCT]
    if weak:
        action = "run `ringside keys new`, put the new key first, and remove the old one after a day"
        yield warn("signing key", f"{len(weak)} of {len(signing)} could be guessed", action)
    else:
        yield ok("signing key", f"{len(signing)}, none easy to guess")


def _keys(settings: Settings, keys: Keys) -> Iterator[CheckResult]:
    missing = [role for role in REQUIRED_ROLES if not keys.configured([role])]
    if missing:
        message = f"no key is configured for {' or '.join(missing)}"
        yield warn("keys", message, "run `ringside keys new --role …`")
    else:
        yield ok("keys", "keys of storefront and admin are configured")
    shop = settings.storefront_key
    if shop and keys.holder(digest_of(shop)) is None:
        action = "add its hash there, or use a key that is in it"
        yield fail("shop's key", "RINGSIDE_STOREFRONT_KEY is not in RINGSIDE_KEYS", action)


def ports(installation: Installation) -> Iterator[CheckResult]:
    """Check that the ports of the processes differ, and that each is free or answered by Ringside."""
    settings = installation.settings
    by_process = {name: getattr(settings, f"{name}_port") for name in ("recommend", "console", "shop")}
    if settings.metrics_port > 0:
        by_process["metrics"] = settings.metrics_port
    for port in sorted(set(by_process.values())):
        users = [name for name, configured in by_process.items() if configured == port]
        if len(users) > 1:
            action = f"change {PREFIX}{users[1].upper()}_PORT"
            yield fail("ports", f"{port} is configured for {' and '.join(users)}", action)
            continue
        yield _port(settings.host, port, users[0])


def _port(host: str, port: int, user: str) -> CheckResult:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return ok("ports", f"{port} ({user}) is free")
        except OSError as error:
            message = f"{port} ({user}): {error.strerror}"
    if is_ringside(host, port):
        return ok("ports", f"{port} ({user}) is answered by Ringside")
    return fail("ports", message, f"stop the program that uses it, or change {PREFIX}{user.upper()}_PORT")
