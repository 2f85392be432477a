"""API keys by role. Only sha256 digests are configured; a key itself is shown once, when it is made."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from services.errors import ConfigurationError, ForbiddenError, NoKeyError
from services.settings import Settings

Role = Literal["storefront", "analyst", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
HOW = "run `ringside keys new` and set RINGSIDE_KEYS and RINGSIDE_SIGNING_KEY as it says"
_PREFIX = {"storefront": "rs_pub_", "analyst": "rs_ana_", "admin": "rs_adm_"}


@dataclass(frozen=True, slots=True)
class Principal:
    """Whose key it is. `name` (role and the first 8 digits of the hash) goes into audit records."""

    role: Role
    name: str


class Keys:
    """The configured keys. Several of one role allow rotation."""

    def __init__(self, configured: str):
        self._digests = [_parse(pair.strip()) for pair in configured.split(",") if pair.strip()]
        if not self._digests:
            raise ConfigurationError(f"RINGSIDE_KEYS is empty, so nobody could call; {HOW}")

    def principal(self, key: str) -> Principal | None:
        """Who presents `key`; every digest is compared in constant time, none is skipped."""
        return self.holder(digest_of(key))

    def holder(self, presented: str) -> Principal | None:
        """Who the key with this sha256 (hex) belongs to."""
        found: Principal | None = None
        for digest, principal in self._digests:
            if hmac.compare_digest(digest, presented):
                found = principal
        return found

    def configured(self, roles: Sequence[Role]) -> bool:
        """Whether anybody holds a key of one of these roles."""
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
            raise ForbiddenError(f"the role {principal.role} may not do this; it takes {' or '.join(roles)}")
        return principal


def digest_of(key: str) -> str:
    """sha256 of a key, in hex: all that is ever stored of it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _parse(pair: str) -> tuple[str, Principal]:
    role, _, digest = pair.partition("=")
    digest = digest.lower()
    if role not in ROLES:
        raise ConfigurationError(f"RINGSIDE_KEYS: unknown role {role!r}; roles are {', '.join(ROLES)}")
    if len(digest) != 64 or any(letter not in "0123456789abcdef" for letter in digest):
        raise ConfigurationError(f"RINGSIDE_KEYS: the value of {role} is not a sha256 in hex; {HOW}")
    return digest, Principal(cast(Role, role), f"{role}:{digest[:8]}")


def new_key(role: Role) -> tuple[str, str]:
    """A fresh random key and its "role=sha256" pair for RINGSIDE_KEYS."""
    key = _PREFIX[role] + secrets.token_urlsafe(24)
    return key, f"{role}={digest_of(key)}"


def new_signing_key() -> str:
    """A fresh secret for RINGSIDE_SIGNING_KEY."""
    return secrets.token_urlsafe(32)


def fresh_keys(roles: Sequence[str]) -> list[str]:
    """Lines to print: fresh keys of these roles (none: all, and a signing secret). Raises
    ConfigurationError."""
    if unknown := [role for role in roles if role not in ROLES]:
        raise ConfigurationError(f"--role: {unknown[0]!r} is none of {', '.join(ROLES)}")
    made = [(role, *new_key(cast(Role, role))) for role in roles or ROLES]
    lines = ["# Keep these; they are shown once:"]
    lines += [f"#   {role:<10} {key}" for role, key, _ in made]
    lines += ["# Set for every process (add to what is set already, to rotate):"]
    lines += ["RINGSIDE_KEYS=" + ",".join(pair for _, _, pair in made)]
    return lines if roles else [*lines, f"RINGSIDE_SIGNING_KEY={new_signing_key()}"]


def signing_keys(settings: Settings) -> list[str]:
    """Secrets that sign recommendation ids, newest first. Raises ConfigurationError if there is none."""
    keys = [key.strip() for key in settings.signing_key.split(",") if key.strip()]
    if not keys:
        raise ConfigurationError(f"RINGSIDE_SIGNING_KEY is empty, so no slate could be signed; {HOW}")
    if short := [key for key in keys if len(key) < 16]:
        raise ConfigurationError(
            f"RINGSIDE_SIGNING_KEY: {len(short)} of {len(keys)} keys are shorter than 16 characters"
        )
    return keys
