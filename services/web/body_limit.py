"""A limit of request bodies, also for those that FastAPI reads itself."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.web.problem import TooLargeError, response_to

_DIGITS = 18


class BodyLimit:
    """ASGI middleware that answers 413 once the declared or received size exceeds `limit` bytes."""

    def __init__(self, app: ASGIApp, limit: int):
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the received bytes."""
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
                raise HTTPException(413, f"larger than {self._limit} bytes")  # other exceptions become a 400
            return message

        await self._app(scope, counting, send)


def declared_length(scope: Scope) -> int:
    """The largest Content-Length in bytes, 0 without one. A hint, because received bytes are counted as well.

    Only the first digits are read, because Python raises an error for more than 4,300 of them.
    """
    texts = (value for name, value in scope["headers"] if name == b"content-length")
    longest = max(texts, key=len, default=b"")
    return int(longest[:_DIGITS]) if longest.isdigit() else 0
