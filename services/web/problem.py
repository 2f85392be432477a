"""Error responses: one table from exception to status, and one schema of the body."""

import logging
from collections.abc import Mapping
from math import ceil
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services import errors

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1
LONGEST = 500  # characters
T = TypeVar("T", str, None, str | None)


class MalformedBodyError(errors.BadInputError):
    """The body is not JSON."""

    def __init__(self, problem: str):
        super().__init__("body", problem)


class TooLargeError(errors.BadInputError):
    """The body exceeds the limit."""

    def __init__(self, limit: int):
        super().__init__("body", f"larger than {limit} bytes")


class TooManyRequestsError(errors.RingsideError):
    """A caller exceeds its rate; its next request will be accepted in `wait_s` seconds."""

    def __init__(self, caller: str, wait_s: float):
        self.wait_s = ceil(wait_s)
        super().__init__(f"{caller} sends too many requests; wait {self.wait_s} s")


class ConflictError(errors.RingsideError):
    """The command is not possible in the present state."""


class OverloadedError(errors.RingsideError):
    """The server sheds load."""

    def __init__(self) -> None:
        super().__init__("the server is overloaded; try again after the seconds in Retry-After")


STATUS: dict[type[Exception], int] = {
    MalformedBodyError: 400,
    TooLargeError: 413,
    errors.NotFoundError: 404,
    errors.BadInputError: 422,
    errors.NoKeyError: 401,
    errors.ForbiddenError: 403,
    ConflictError: 409,
    errors.StalePositionError: 409,
    TooManyRequestsError: 429,
    errors.UnavailableError: 503,
    OverloadedError: 503,
    errors.ConfigurationError: 503,
    errors.RingsideError: 500,
}
HEADERS: dict[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": str(RETRY_AFTER_S)},
}


class Problem(msgspec.Struct, frozen=True):
    """The error of a response. `field` names the part of the request, as the sender wrote it."""

    code: str
    field: str | None
    message: str


class Failure(msgspec.Struct, frozen=True):
    """The body of every error response."""

    error: Problem


def failure(status: int, code: str, message: str, field: str | None = None) -> Response:
    """The JSON response of an error."""
    body = msgspec.json.encode(Failure(Problem(code, shortened(field), shortened(message))))
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **HEADERS.get(status, {})}
    return Response(body, status, headers, "application/json")


def shortened(text: T) -> T:
    """Cut text that a caller sent to `LONGEST` characters; lone surrogates become "?"."""
    if text is None:
        return text
    cut = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return cut.encode("utf-8", "replace").decode()


def response_to(error: Exception) -> Response:
    """The response to an exception: by the table for our own errors, else 500 without details."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            problem = error.problem if isinstance(error, errors.BadInputError) else str(error)
            response = failure(STATUS[kind], _code(kind), problem, getattr(error, "field", None))
            if isinstance(error, TooManyRequestsError):
                response.headers["Retry-After"] = str(error.wait_s)
            return response
    if isinstance(error, HTTPException):
        return _http(error)
    log.error("unexpected error", exc_info=error)
    return failure(500, "internal", "an unexpected error; it has been logged")


def _http(error: HTTPException) -> Response:
    """The response to an error of Starlette and FastAPI: an unknown path or method, an unreadable body."""
    code, field = {400: ("malformed_body", "body"), 413: ("too_large", "body")}.get(
        error.status_code, ("http", None)
    )
    response = failure(error.status_code, code, str(error.detail), field)
    response.headers.update(error.headers or {})
    return response


def _code(kind: type) -> str:
    """BadInputError -> bad_input."""
    name = kind.__name__.removesuffix("Error")
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
