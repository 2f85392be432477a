"""Bodies have a limit, also where FastAPI reads them itself."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.web.problem import TooLargeError, response_to

_DIGITS = 18


class BodyLimit:
    """ASGI middleware: 413 as soon as the declared or received size passes `limit` bytes."""

    def __init__(self, app: ASGIApp, limit: int):
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what is received."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if declared_length(scope) > self._limit:
            await response_to(TooLargeError(self._limit))(scope, receive, send)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, f"larger than {self._limit} bytes")  # FastAPI makes others a 400
            return message

        await self._app(scope, counting, send)


def declared_length(scope: Scope) -> int:
    """Bytes that the sender says will come, 0 if that is not said. A hint: what comes is counted as well.

    No number of digits may be an error here: Python refuses to read more than 4,300 of them.
    """
    said = max((value for name, value in scope["headers"] if name == b"content-length"), key=len, default=b"")
    return int(said[:_DIGITS]) if said.isdigit() else 0
