"""What FastAPI's own routes depend on: the caller's key by role."""

from collections.abc import Callable

from starlette.requests import Request

from services.keys import Principal, Role
from services.recommend.gate import Gate


def caller(gate: Gate, *roles: Role) -> Callable[[Request], Principal]:
    """A dependency that gives the caller, if their role is one of `roles`."""

    async def principal(request: Request) -> Principal:
        return gate.admit(request, roles)

    return principal
