"""Who may come in, and how often: the caller's key by role, then a token bucket a key and one a client."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from services.errors import ConfigurationError
from services.settings import Settings
from services.web.api_keys import ROLES, Keys, Principal, Role
from services.web.client_address import parse_address, strangers
from services.web.problem import TooManyRequestsError
from services.web.rate_limit import Moments, RateLimiter

log = logging.getLogger(__name__)

READERS: tuple[Role, ...] = ("analyst", "admin")
CLIENT = "client"
_LONGEST = 64  # characters of what is no address
ROWS_A_TOKEN = 10  # of /events: the impressions of a slate and a click
TELL_EVERY_S = 10.0  # at most, of somebody who is slowed down


class Gate:
    """Every route's way in. `now_s`: a clock that never goes back; `moments`: those of all workers."""

    def __init__(self, settings: Settings, now_s: Callable[[], float], moments: Moments):
        self.keys = Keys.of(settings)
        rates = parse_rates(settings.rates)
        burst_s = settings.rate_burst_s
        self._buckets = {name: RateLimiter(per_s, burst_s, moments) for name, per_s in rates.items()}
        self._client_of = client_reader(settings.own_networks) if CLIENT in rates else None
        self._now_s = now_s
        self._tell_at_s = float("-inf")

    def admit(self, request: Request, roles: tuple[Role, ...]) -> Principal:
        """The caller. Raises NoKeyError, ForbiddenError or TooManyRequestsError."""
        principal = self.keys.allow(key_of(request), roles)
        if (by_role := self._buckets.get(principal.role)) is not None:
            self._take(by_role, principal.name, f"the key {principal.name}")
        if self._client_of is not None and (client := self._client_of(request)) is not None:
            self._take(self._buckets[CLIENT], client, "this client")
        return principal

    def charge(self, request: Request, rows: int) -> None:
        """A request with many rows counts as several of its client: each row is work for every worker."""
        extra = rows // ROWS_A_TOKEN
        if extra and self._client_of is not None and (client := self._client_of(request)) is not None:
            self._buckets[CLIENT].spend(client, extra, self._now_s())

    def sees_inside(self, request: Request) -> bool:
        """Whether the caller may know more of us than that we answer; never an error, and no token taken."""
        key = key_of(request)
        principal = self.keys.principal(key) if key else None
        return principal is not None and principal.role in READERS

    def _take(self, buckets: RateLimiter, name: str, who: str) -> None:
        now_s = self._now_s()
        if not (wait_s := buckets.wait_s(name, now_s)):
            return
        if now_s >= self._tell_at_s:
            self._tell_at_s = now_s + TELL_EVERY_S
            log.warning("%s sends more than it may; others are not named for %g s", name, TELL_EVERY_S)
        raise TooManyRequestsError(who, wait_s)


class Caller:
    """A dependency of FastAPI's own routes: the caller, if their role is one of `roles`. The route has to be
    a `KeyFirstRoute`."""

    def __init__(self, gate: Gate, *roles: Role):
        self._gate = gate
        self._roles = roles

    async def __call__(self, request: Request) -> Principal:
        """Whom the route let in."""
        return request.state.caller

    def let_in(self, request: Request) -> None:
        """Raises what `Gate.admit` raises."""
        request.state.caller = self._gate.admit(request, self._roles)


class KeyFirstRoute(APIRoute):
    """Looks at the key before anything else. FastAPI reads and parses the body before its dependencies, and a
    megabyte of JSON without a key would hold up everybody else's slates."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """FastAPI's, behind the gate."""
        handle = super().get_route_handler()
        callers = [one.call for one in self.dependant.dependencies if isinstance(one.call, Caller)]

        async def behind_the_gate(request: Request) -> Response:
            for caller in callers:
                caller.let_in(request)
            return await handle(request)

        return behind_the_gate


def parse_rates(configured: str) -> dict[str, float]:
    """Requests a second by role, or for `client`. Raises ConfigurationError.

    >>> parse_rates("analyst=20, client=0.5")
    {'analyst': 20.0, 'client': 0.5}
    """
    rates: dict[str, float] = {}
    for pair in filter(None, (part.strip() for part in configured.split(","))):
        name, _, number = pair.partition("=")
        try:
            rates[name] = float(number)
        except ValueError:
            rates[name] = 0.0
        if name not in (*ROLES, CLIENT) or not 0 < rates[name] < 1e9:
            known = ", ".join((*ROLES, CLIENT))
            raise ConfigurationError(f"RINGSIDE_RATES: {pair!r} is not <{known}>=<requests a second>")
    return rates


def client_reader(networks: str) -> Callable[[Request], str | None]:
    """Who is at the other end: an address outside of our own networks, or None.

    Who comes from our own networks is a shop's server, which speaks for all of its shoppers, or a proxy; a
    proxy says in X-Forwarded-For whom it speaks for. From anybody else that header means nothing. Its last
    entry that is not ours holds, even if it is no address: those before it are what anybody may have sent.
    """
    stranger = strangers(networks)

    @lru_cache(maxsize=10_000)
    def forwarded(chain: str) -> str | None:
        told = filter(None, (part.strip() for part in reversed(chain.split(","))))
        return next(
            filter(None, (stranger(part) if parse_address(part) else part[:_LONGEST] for part in told)), None
        )

    def client(request: Request) -> str | None:
        peer = request.scope.get("client")
        outside = stranger(peer[0]) if peer is not None else None
        if outside is not None:
            return outside
        chains = [value for name, value in request.scope["headers"] if name == b"x-forwarded-for"]
        return forwarded(b",".join(chains)[-1_000:].decode("latin-1")) if chains else None

    return client


def key_of(request: Request) -> str | None:
    """The API key, from wherever it was sent."""
    headers = request.headers
    if key := headers.get("x-api-key"):
        return key
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return request.query_params.get("key")
