"""API keys by role. The configuration holds only sha256 digests; a key is shown once, when it is made."""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.errors import ConfigurationError, ForbiddenError, NoKeyError
from services.setting_types import ROLES as ROLES
from services.setting_types import Role as Role
from services.settings import Settings

log = logging.getLogger(__name__)

_KEYS_ADVICE = "run `ringside keys new` and set the RINGSIDE_KEYS and RINGSIDE_SIGNING_KEY that it prints"
POLL_EVERY_S = 0.5
_PREFIX = {"storefront": "rs_pub_", "analyst": "rs_ana_", "admin": "rs_adm_"}


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a key. `name` (role and the first 8 digits of the hash) goes into audit records."""

    role: Role
    name: str


class Keys:
    """The configured keys. Several of one role allow rotation.

    configured: "role=sha256hex" pairs, comma separated. file: more of them, one a line, with `#` comments.
    A change of the file takes effect within a second; an unreadable file changes nothing and is logged.
    """

    def __init__(
        self, configured: str, file: Path | None = None, now_s: Callable[[], float] = time.monotonic
    ):
        self._configured = _pairs(configured, "RINGSIDE_KEYS")
        self._file = file
        self._now_s = now_s
        self._stamp = _stamp(file)
        self._poll_at_s = now_s() + POLL_EVERY_S
        self._digests = self._read()
        if not self._digests:
            raise ConfigurationError(
                f"RINGSIDE_KEYS is empty, so no caller would be admitted; {_KEYS_ADVICE}"
            )

    @classmethod
    def of(cls, settings: Settings) -> "Keys":
        """The keys of this installation. Raises ConfigurationError."""
        return cls(settings.keys, settings.keys_file)

    def _read(self) -> list[tuple[str, Principal]]:
        if self._file is None:
            return self._configured
        try:
            lines = self._file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"RINGSIDE_KEYS_FILE: {error}") from error
        pairs = ",".join(line.partition("#")[0] for line in lines)
        return [*self._configured, *_pairs(pairs, str(self._file))]

    def _reload(self) -> None:
        """Read the file again if it has changed."""
        if self._file is None or self._now_s() < self._poll_at_s:
            return
        self._poll_at_s = self._now_s() + POLL_EVERY_S
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = self._read()
            log.info("%s was read again: %d keys", self._file, len(self._digests))
        except ConfigurationError as error:
            log.error("the keys were not replaced: %s", error)

    def principal(self, key: str) -> Principal | None:
        """The holder of `key`. All digests are compared, each in constant time."""
        return self.holder(digest_of(key))

    def holder(self, presented: str) -> Principal | None:
        """The holder of the key with this sha256 (hex)."""
        self._reload()
        holder: Principal | None = None
        for digest, principal in self._digests:
            if hmac.compare_digest(digest, presented):
                holder = principal
        return holder

    def configured(self, roles: Sequence[Role]) -> bool:
        """Whether a key of one of these roles is configured."""
        return any(principal.role in roles for _, principal in self._digests)

    def allow(self, key: str | None, roles: tuple[Role, ...]) -> Principal:
        """The principal of `key` if its role is one of `roles`. Raises NoKeyError or ForbiddenError."""
        if not key:
            raise NoKeyError(
                "send an API key: Authorization: Bearer <key>, X-API-Key, or ?key= for sendBeacon"
            )
        principal = self.principal(key)
        if principal is None:
            raise NoKeyError("this API key is not known here")
        if principal.role not in roles:
            raise ForbiddenError(
                f"the role {principal.role} may not do this; it requires {' or '.join(roles)}"
            )
        return principal


def digest_of(key: str) -> str:
    """sha256 of a key, in hex; the key itself is never stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _stamp(file: Path | None) -> tuple[int, int, int] | None:
    """A value that changes with the file; None if there is no file."""
    try:
        stat = file.stat() if file is not None else None
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat is not None else None


def _pairs(text: str, where: str) -> list[tuple[str, Principal]]:
    return [_parse(pair.strip(), where) for pair in text.split(",") if pair.strip()]


def _parse(pair: str, where: str) -> tuple[str, Principal]:
    role, _, digest = pair.partition("=")
    digest = digest.lower()
    if role not in ROLES:  # not repeated, because it may be a key in plain text
        raise ConfigurationError(
            f"{where}: a pair does not begin with a role ({', '.join(ROLES)}); {_KEYS_ADVICE}"
        )
    if len(digest) != 64 or any(letter not in "0123456789abcdef" for letter in digest):
        raise ConfigurationError(f"{where}: the value of {role} is not a sha256 in hex; {_KEYS_ADVICE}")
    return digest, Principal(role, f"{role}:{digest[:8]}")


def new_key(role: Role) -> tuple[str, str]:
    """A fresh random key and its "role=sha256" pair for RINGSIDE_KEYS."""
    key = _PREFIX[role] + secrets.token_urlsafe(24)
    return key, f"{role}={digest_of(key)}"


def new_signing_key() -> str:
    """A fresh secret for RINGSIDE_SIGNING_KEY."""
    return secrets.token_urlsafe(32)


def fresh_keys(roles: Sequence[str]) -> list[str]:
    """Lines to print with new keys of `roles`; without any, of all roles and with a signing secret. Raises
    ConfigurationError."""
    made = [(role, *new_key(_role(role))) for role in roles or ROLES]
    lines = ["# Keep these; they are shown once:"]
    lines += [f"#   {role:<10} {key}" for role, key, _ in made]
    lines += [
        "# Set these for every process; to rotate keys, add them to those that are set. Without a restart:"
    ]
    lines += ["# put each role=… on a line of its own into the file that RINGSIDE_KEYS_FILE names."]
    lines += ["RINGSIDE_KEYS=" + ",".join(pair for _, _, pair in made)]
    return lines if roles else [*lines, f"RINGSIDE_SIGNING_KEY={new_signing_key()}"]


def _role(name: str) -> Role:
    if name not in ROLES:
        raise ConfigurationError(f"--role: {name!r} is none of {', '.join(ROLES)}")
    return name


def signing_keys(settings: Settings) -> list[str]:
    """Secrets that sign recommendation ids, newest first. Raises ConfigurationError without one."""
    keys = list(settings.signing_key)
    if not keys:
        raise ConfigurationError(
            f"RINGSIDE_SIGNING_KEY is empty, so no slate could be signed; {_KEYS_ADVICE}"
        )
    if short := [key for key in keys if len(key) < 16]:
        raise ConfigurationError(
            f"RINGSIDE_SIGNING_KEY: {len(short)} of {len(keys)} keys are shorter than 16 characters"
        )
    return keys
