"""Who is at the console: log-in with an API key, a signed cookie, a token against forged forms."""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from fastapi import Request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from services.settings import Settings
from services.web.api_keys import Keys, Principal, Role, digest_of, signing_keys
from services.web.rate_limit import RateLimiter

COOKIE = "ringside_console"
MAX_AGE_S = 12 * 3_600
MOST_ENDED = 10_000
GUESSES_PER_S, GUESSES_AT_ONCE_S = 1 / 6, 60.0  # of wrong keys by one address: ten, then one in six seconds
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
    """Logs people in and recognises them again. A session is a signed cookie; log-outs are remembered."""

    def __init__(self, settings: Settings) -> None:
        signing = signing_keys(settings)
        self._keys = Keys.of(settings)
        self._ended: dict[str, None] = {}
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
        return (
            None
            if principal is None or value["csrf"] in self._ended
            else Person(principal.role, principal.name, value["csrf"])
        )

    def log_out(self, person: Person) -> None:
        """End this session, also for whoever holds a copy of its cookie.

        Only this process knows, and it forgets the oldest: cookies end by themselves after `MAX_AGE_S`.
        """
        self._ended[person.csrf] = None
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    def _reader(self, digest: str) -> Principal | None:
        principal = self._keys.holder(digest)
        return principal if principal is not None and principal.role in READERS else None


class LoginThrottle:
    """Wrong keys by address. Keys can't be guessed; this keeps those who try from costing anything."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._buckets = RateLimiter(GUESSES_PER_S, GUESSES_AT_ONCE_S)
        self._now_s = now_s

    def wait_s(self, request: Request) -> int:
        """Seconds until this address may try again; 0: now."""
        return ceil(self._buckets.wait_s(_address(request), self._now_s()))

    def failed(self, request: Request) -> None:
        """A wrong key came from this address."""
        self._buckets.take(_address(request), self._now_s())


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def csrf_holds(person: Person, token: str) -> bool:
    """True if a form carries the token of this session."""
    return hmac.compare_digest(person.csrf.encode(), token.encode(errors="replace"))  # it may be no text
