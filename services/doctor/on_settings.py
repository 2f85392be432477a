"""Settings: variables nobody reads, values that make no sense, weak secrets, ports that are taken."""

import difflib
import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from pydantic import ValidationError

from services import bootstrap
from services.doctor.findings import Finding, fail, ok, warn
from services.errors import ConfigurationError
from services.runtime.liveness import answers_as_ours
from services.settings import Settings
from services.web.api_keys import ROLES, Keys, digest_of, signing_keys

PREFIX = "RINGSIDE_"
FEAST = "RINGSIDE_FEAST_"  # read by feature_repo, see `ringside features environment`
ENOUGH_LETTERS = 12  # different ones, in a secret of 32


def variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each RINGSIDE_ variable is a setting."""
    short = [name.upper() for name in Settings.model_fields]
    known = {PREFIX + name for name in short}
    strange = [name for name in sorted(environ) if name.upper().startswith(PREFIX) and name not in known]
    for name in strange:
        if name.startswith(FEAST):
            continue
        near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), short, 1)
        todo = f"did you mean {PREFIX}{near[0]}?" if near else "unset it: no setting has such a name"
        yield warn("settings", f"{name} is no setting and changes nothing", todo)


def read(environ: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """The settings; None when one makes no sense."""
    try:
        settings = Settings()
        if odd := [*_odd(settings)]:
            return None, [*variables(environ), *odd]
        return settings, [*variables(environ), ok("settings", "every value makes sense")]
    except ValidationError as error:
        bad = [
            fail(
                "settings",
                f"{PREFIX}{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}",
                "mend the value",
            )
            for one in error.errors(include_input=False)
        ]
        return None, [*variables(environ), *bad]


def _odd(settings: Settings) -> Iterator[Finding]:
    """Text that its readers would refuse. It is not repeated: addresses hold passwords."""
    if not _is_redis(settings.redis_url):
        todo = "set it like redis://127.0.0.1:6379/0, or rediss://user:password@host:6379/0"
        yield fail("settings", f"{PREFIX}REDIS_URL is no address of a Redis", todo)
    wrong = [at for at, pair in enumerate(settings.rates.split(","), start=1) if not _is_rate(pair.strip())]
    if wrong:
        said = f"{PREFIX}RATES: entry {wrong[0]} is no rate"
        yield fail("settings", said, f"set it like {Settings.model_fields['rates'].default}")


def _is_redis(url: str) -> bool:
    """As redis-py reads it."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("redis", "rediss", "unix") and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    database = parts.path.strip("/")
    return known and (parts.scheme == "unix" or not database or database.isdecimal())


def _is_rate(pair: str) -> bool:
    """As services.web.access reads it."""
    name, _, number = pair.partition("=")
    try:
        return not pair or (name in (*ROLES, "client") and 0 < float(number) < 1e9)
    except ValueError:
        return False


def window(settings: Settings) -> Finding:
    """The broker keeps what the attribution window needs."""
    try:
        bootstrap.check_window(settings)
    except ConfigurationError as error:
        return fail("window", str(error), "set what it names")
    if settings.kafka_mode == "embedded":
        return warn(
            "window", "the embedded broker keeps its log in memory", "for more than trying out: kafka"
        )
    return ok("window", f"{settings.window_s:g} s and {settings.lateness_s:g} s of lateness")


def secrets(settings: Settings) -> Iterator[Finding]:
    """Keys and the signing secret are there, and can't be guessed."""
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
    weak = [key for key in signing if len(key) < 32 or len(set(key)) < ENOUGH_LETTERS]
    if weak:
        todo = "run `ringside keys new`, put the new one in front, take the old one away after a day"
        yield warn("signing key", f"{len(weak)} of {len(signing)} could be guessed", todo)
    else:
        yield ok("signing key", f"{len(signing)}, none easy to guess")


def _keys(settings: Settings, keys: Keys) -> Iterator[Finding]:
    missing = [role for role in ("storefront", "admin") if not keys.configured([role])]  # type: ignore[list-item]
    if missing:
        yield warn(
            "keys", f"nobody holds a key for {' or '.join(missing)}", "run `ringside keys new --role …`"
        )
    else:
        yield ok("keys", "storefront and admin have theirs")
    shop = settings.storefront_key
    if shop and keys.holder(digest_of(shop)) is None:
        yield fail(
            "shop's key",
            "RINGSIDE_STOREFRONT_KEY is not in RINGSIDE_KEYS",
            "add its hash, or take one that is",
        )


def ports(settings: Settings) -> Iterator[Finding]:
    """Ports are different, and free or ours."""
    named = {name: getattr(settings, f"{name}_port") for name in ("recommend", "console", "shop")}
    if settings.metrics_port > 0:
        named["metrics"] = settings.metrics_port
    for port in sorted(set(named.values())):
        users = [name for name, wanted in named.items() if wanted == port]
        if len(users) > 1:
            todo = f"change {PREFIX}{users[1].upper()}_PORT"
            yield fail("ports", f"{port} is wanted by {' and '.join(users)}", todo)
            continue
        yield _port(settings.host, port, users[0])


def _port(host: str, port: int, user: str) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return ok("ports", f"{port} ({user}) is free")
        except OSError as error:
            said = f"{port} ({user}): {error.strerror}"
    if answers_as_ours(host, port):
        return ok("ports", f"{port} ({user}) is answered by Ringside")
    return fail("ports", said, f"stop what has it, or change {PREFIX}{user.upper()}_PORT")
