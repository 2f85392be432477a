"""Reading requests of the hot path."""

import asyncio

import pytest
from starlette.requests import Request

from services.recommend.failures import MalformedBodyError
from services.recommend.hot import read_body


def test_a_caller_that_hangs_up_within_its_body_is_no_error_of_ours() -> None:
    messages = iter([{"type": "http.request", "body": b"[{", "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict:
        return next(messages)

    request = Request({"type": "http", "method": "POST", "path": "/events", "headers": []}, receive)
    with pytest.raises(MalformedBodyError, match="connection ended"):
        asyncio.run(read_body(request, 1_000))
