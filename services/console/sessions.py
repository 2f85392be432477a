"""Sessions of the console: login with an API key, a signed cookie, a token against forged forms (CSRF)."""

import secrets
from dataclasses import dataclass

from cachetools import FIFOCache
from itsdangerous import BadSignature, URLSafeTimedSerializer

from services.settings import Settings
from services.web.api_keys import Keys, Principal, Role, digest_of, signing_keys

COOKIE = "ringside_console"
MAX_AGE_S = 12 * 3_600
MOST_ENDED = 10_000
WRONG_KEYS_PER_S, WRONG_KEYS_BURST_S = 1 / 6, 60.0  # an address may try ten, then one every six seconds
READERS: tuple[Role, ...] = ("analyst", "admin")


@dataclass(frozen=True, slots=True)
class Person:
    """Who is logged in. `name` is the author of commands: the role and the first eight digits of the key's
    hash."""

    role: str
    name: str
    csrf: str

    @property
    def may_command(self) -> bool:
        """True for admins."""
        return self.role == "admin"


class Sessions:
    """Login and recognition of people. A session is a signed cookie; sessions that ended are remembered."""

    def __init__(self, settings: Settings) -> None:
        signing = signing_keys(settings)
        self._keys = Keys.of(settings)
        self._ended: FIFOCache[str, None] = FIFOCache(MOST_ENDED)
        # itsdangerous signs with the last key of a list; the settings have the newest first.
        self._serializer = URLSafeTimedSerializer(signing[::-1], salt="console-session")

    @property
    def usable(self) -> bool:
        """False if no analyst or admin key is configured, so that a login is impossible."""
        return self._keys.configured(READERS)

    def log_in(self, key: str) -> str | None:
        """A cookie for a session; None if `key` is not an analyst's or admin's."""
        digest = digest_of(key.strip())
        if self._reader(digest) is None:
            return None
        return self._serializer.dumps({"key": digest, "csrf": secrets.token_urlsafe(24)})

    def person(self, cookie: str | None) -> Person | None:
        """The person of a cookie; None if it is missing, forged, expired or ended, or its key is gone."""
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
        """End this session, also for copies of its cookie.

        Only this process remembers ended sessions, at most `MOST_ENDED`. A cookie expires after `MAX_AGE_S`.
        """
        self._ended[person.csrf] = None

    def _reader(self, digest: str) -> Principal | None:
        principal = self._keys.holder(digest)
        return principal if principal is not None and principal.role in READERS else None
