"""What FastAPI's own routes depend on: the caller's key by role."""

from collections.abc import Callable

from starlette.requests import Request

from services.keys import Keys, Principal, Role
from services.recommend.storefront import key_of


def caller(keys: Keys, *roles: Role) -> Callable[[Request], Principal]:
    """A dependency that gives the caller, if their role is one of `roles`."""

    async def principal(request: Request) -> Principal:
        return keys.allow(key_of(request), roles)

    return principal
