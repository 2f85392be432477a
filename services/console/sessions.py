"""Who is at the console: log-in with an API key, a signed cookie, a token against forged forms."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeTimedSerializer

from services.errors import ConfigurationError
from services.settings import Settings

COOKIE = "ringside_console"
MAX_AGE_S = 12 * 3_600
READERS = ("analyst", "admin")


@dataclass(frozen=True, slots=True)
class Person:
    """Who is logged in. `name` goes into audit records: the role and the first eight digits of the key's
    hash."""

    role: str
    name: str
    csrf: str

    @property
    def may_command(self) -> bool:
        """Only admins change what shoppers get."""
        return self.role == "admin"


def key_hashes(keys: str) -> Mapping[str, str]:
    """sha256 hex → role, from "role=sha256hex,…". Raises ConfigurationError naming the pair that is wrong."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in keys.split(","))):
        role, _, digest = pair.partition("=")
        if not role or len(digest) != 64:
            raise ConfigurationError(
                f"RINGSIDE_KEYS: {pair[:24]!r} is not role=sha256hex; make one with `ringside keys new`"
            )
        found[digest.lower()] = role
    return found


class Sessions:
    """Logs people in and recognises them again. Holds no state: a session is a signed cookie."""

    def __init__(self, settings: Settings) -> None:
        signing = [key for key in settings.signing_key.split(",") if key]
        if not signing:
            raise ConfigurationError("RINGSIDE_SIGNING_KEY is empty; set it to a long random string")
        self._roles = {digest: role for digest, role in key_hashes(settings.keys).items() if role in READERS}
        # itsdangerous signs with the last key of a list; ours has the newest first.
        self._serializer = URLSafeTimedSerializer(signing[::-1], salt="console-session")

    @property
    def usable(self) -> bool:
        """False when no analyst or admin key is configured, so nobody can log in."""
        return bool(self._roles)

    def log_in(self, key: str) -> str | None:
        """Cookie for whoever holds `key`; None if it is not an analyst's or admin's."""
        digest = hashlib.sha256(key.strip().encode()).hexdigest()
        if self._role(digest) is None:
            return None
        return self._serializer.dumps({"key": digest, "csrf": secrets.token_urlsafe(24)})

    def person(self, cookie: str | None) -> Person | None:
        """Who a cookie belongs to; None if it is missing, forged, too old, or its key was withdrawn."""
        try:
            value = self._serializer.loads(cookie or "", max_age=MAX_AGE_S)
        except BadSignature:
            return None
        role = self._role(value["key"])
        return None if role is None else Person(role, f"{role}:{value['key'][:8]}", value["csrf"])

    def _role(self, digest: str) -> str | None:
        matches = [role for known, role in self._roles.items() if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None


def csrf_holds(person: Person, token: str) -> bool:
    """True if a form carries the token of this session."""
    return hmac.compare_digest(person.csrf.encode(), token.encode())
