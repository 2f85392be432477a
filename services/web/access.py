"""Access to routes: the role of the caller's API key, then a rate for the key and one for the client."""

import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from services.setting_types import CLIENT, Network
from services.settings import Settings
from services.web.api_keys import Keys, Principal, Role
from services.web.client_address import parse_address, strangers
from services.web.problem import TooManyRequestsError
from services.web.rate_limit import RateLimiter

log = logging.getLogger(__name__)

READERS: tuple[Role, ...] = ("analyst", "admin")
_LONGEST = 64  # characters of an X-Forwarded-For entry that is no address
ROWS_A_TOKEN = 10  # of /events: the impressions of a slate and a click
LOG_EVERY_S = 10.0


class AccessControl:
    """Admits requests by key and rate. `now_s` is a clock that never goes back."""

    def __init__(self, settings: Settings, now_s: Callable[[], float]):
        self.keys = Keys.of(settings)
        rates = settings.rates
        self._limiters = {name: RateLimiter(per_s, settings.rate_burst_s) for name, per_s in rates.items()}
        self._client_of = client_reader(settings.own_networks) if CLIENT in rates else None
        self._now_s = now_s
        self._log_at_s = float("-inf")

    def admit(self, request: Request, roles: tuple[Role, ...]) -> Principal:
        """The caller. Raises NoKeyError, ForbiddenError or TooManyRequestsError."""
        principal = self.keys.allow(key_of(request), roles)
        if (by_role := self._limiters.get(principal.role)) is not None:
            self._take(by_role, principal.name, f"the key {principal.name}")
        if self._client_of is not None and (client := self._client_of(request)) is not None:
            self._take(self._limiters[CLIENT], client, "this client")
        return principal

    def charge(self, request: Request, rows: int) -> None:
        """Every ten rows of a batch cost the client one more token, because each row is work for every
        worker."""
        extra = rows // ROWS_A_TOKEN
        if extra and self._client_of is not None and (client := self._client_of(request)) is not None:
            self._limiters[CLIENT].charge(client, extra, self._now_s())

    def may_see_details(self, request: Request) -> bool:
        """Whether a health check may name internals to this caller. Takes no token and raises no error."""
        key = key_of(request)
        principal = self.keys.principal(key) if key else None
        return principal is not None and principal.role in READERS

    def _take(self, limiter: RateLimiter, name: str, caller: str) -> None:
        now_s = self._now_s()
        if not (wait_s := limiter.take(name, now_s)):
            return
        if now_s >= self._log_at_s:
            self._log_at_s = now_s + LOG_EVERY_S
            log.warning(
                "%s exceeds its rate; the next such warning follows in %g s at the earliest",
                name,
                LOG_EVERY_S,
            )
        raise TooManyRequestsError(caller, wait_s)


class Caller:
    """A FastAPI dependency that yields the caller, if its role is one of `roles`. The route has to be a
    `KeyFirstRoute`."""

    def __init__(self, access: AccessControl, *roles: Role):
        self._access = access
        self._roles = roles

    async def __call__(self, request: Request) -> Principal:
        """The principal that `admit` stored."""
        principal: Principal = request.state.caller
        return principal

    def admit(self, request: Request) -> None:
        """Raises what `AccessControl.admit` raises."""
        request.state.caller = self._access.admit(request, self._roles)


class KeyFirstRoute(APIRoute):
    """A route that checks the key first. FastAPI reads and parses the body before its dependencies, and a
    megabyte of JSON without a key would delay the slates of other callers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, after the check."""
        handle = super().get_route_handler()
        callers = [one.call for one in self.dependant.dependencies if isinstance(one.call, Caller)]

        async def check_and_handle(request: Request) -> Response:
            for caller in callers:
                caller.admit(request)
            return await handle(request)

        return check_and_handle


def client_reader(networks: Sequence[Network]) -> Callable[[Request], str | None]:
    """A function from a request to its client: an address outside our own networks, or None.

    A peer in our own networks is a shop's server, which acts for all of its shoppers, or a proxy, which names
    its client in X-Forwarded-For. From any other peer that header is ignored. Its last entry outside our
    networks counts, even if it is no address, because the client itself may have sent the entries before it.
    """
    stranger = strangers(networks)

    @lru_cache(maxsize=10_000)
    def forwarded(chain: str) -> str | None:
        entries = filter(None, (part.strip() for part in reversed(chain.split(","))))
        names = (stranger(part) if parse_address(part) else part[:_LONGEST] for part in entries)
        return next(filter(None, names), None)

    def client(request: Request) -> str | None:
        peer = request.scope.get("client")
        outside = stranger(peer[0]) if peer is not None else None
        if outside is not None:
            return outside
        chains = [value for name, value in request.scope["headers"] if name == b"x-forwarded-for"]
        return forwarded(b",".join(chains)[-1_000:].decode("latin-1")) if chains else None

    return client


def key_of(request: Request) -> str | None:
    """The API key from X-API-Key, Authorization, or the parameter `key`; None without one."""
    headers = request.headers
    if key := headers.get("x-api-key"):
        return key
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return request.query_params.get("key")
