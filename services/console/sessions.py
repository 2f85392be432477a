"""Who is at the console: log-in with an API key, a signed cookie, a token against forged forms."""

import hmac
import secrets
from dataclasses import dataclass

from itsdangerous import BadSignature, URLSafeTimedSerializer

from services.keys import Keys, Principal, Role, digest_of, signing_keys
from services.settings import Settings

COOKIE = "ringside_console"
MAX_AGE_S = 12 * 3_600
READERS: tuple[Role, ...] = ("analyst", "admin")


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


class Sessions:
    """Logs people in and recognises them again. Holds no state: a session is a signed cookie."""

    def __init__(self, settings: Settings) -> None:
        signing = signing_keys(settings)
        self._keys = Keys.of(settings)
        # itsdangerous signs with the last key of a list; ours has the newest first.
        self._serializer = URLSafeTimedSerializer(signing[::-1], salt="console-session")

    @property
    def usable(self) -> bool:
        """False when no analyst or admin key is configured, so nobody can log in."""
        return self._keys.configured(READERS)

    def log_in(self, key: str) -> str | None:
        """Cookie for whoever holds `key`; None if it is not an analyst's or admin's."""
        digest = digest_of(key.strip())
        if self._reader(digest) is None:
            return None
        return self._serializer.dumps({"key": digest, "csrf": secrets.token_urlsafe(24)})

    def person(self, cookie: str | None) -> Person | None:
        """Who a cookie belongs to; None if it is missing, forged, too old, or its key was withdrawn."""
        try:
            value = self._serializer.loads(cookie or "", max_age=MAX_AGE_S)
        except BadSignature:
            return None
        principal = self._reader(value["key"])
        return None if principal is None else Person(principal.role, principal.name, value["csrf"])

    def _reader(self, digest: str) -> Principal | None:
        principal = self._keys.holder(digest)
        return principal if principal is not None and principal.role in READERS else None


def csrf_holds(person: Person, token: str) -> bool:
    """True if a form carries the token of this session."""
    return hmac.compare_digest(person.csrf.encode(), token.encode())
