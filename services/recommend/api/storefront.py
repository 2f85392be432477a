"""The routes that storefronts call: each translates one request into one question, and the answer into a
response."""

from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.errors import BadInputError, ForbiddenError
from services.messages.events import Excluded
from services.recommend.answer import Answering
from services.recommend.api.events import Collecting
from services.recommend.api.fast_path import read_body
from services.recommend.assignment import Visitor
from services.recommend.bots import is_bot
from services.recommend.schemas import (
    EventsRefused,
    PopularRequest,
    RecommendRequest,
    RerankRequest,
    SimilarRequest,
    SlateRequest,
    from_body,
    from_query,
)
from services.recommend.slate_request import Ask
from services.recommend.snapshot.snapshot import Serving
from services.web.access import AccessControl
from services.web.api_keys import Principal, Role
from services.web.problem import Problem

CALLERS: tuple[Role, ...] = ("storefront", "admin")
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
)
_encode = msgspec.json.Encoder().encode


class Storefront:
    """Endpoints over what answers and collects."""

    def __init__(
        self,
        access: AccessControl,
        serving: Callable[[], Serving],
        answering: Answering,
        collecting: Collecting,
        limit: int,
    ):
        self._access = access
        self._serving = serving
        self._answering = answering
        self._collecting = collecting
        self._limit = limit  # bytes of a body

    async def recommend(self, request: Request) -> Response:
        """GET /recommend: items for a shopper."""
        principal = self._caller(request)
        said = from_query(RecommendRequest, request.scope["query_string"])
        return await self._slate(Ask.of(said, self._visitor(request, principal, said), context=said.context))

    async def recommend_posted(self, request: Request) -> Response:
        """POST /recommend: the same with a body, for long lists."""
        principal = self._caller(request)
        said = from_body(RecommendRequest, await read_body(request, self._limit))
        return await self._slate(Ask.of(said, self._visitor(request, principal, said), context=said.context))

    async def similar(self, request: Request) -> Response:
        """GET /similar/{item_id}: items like this one."""
        principal = self._caller(request)
        said = from_query(SimilarRequest, request.scope["query_string"])
        anchor = request.path_params["item_id"]  # decoded by the server; may hold slashes
        return await self._slate(Ask.of(said, self._visitor(request, principal, said), anchor=anchor))

    async def rerank(self, request: Request) -> Response:
        """POST /rerank: a given list of items, in the order that suits the shopper."""
        principal = self._caller(request)
        said = from_body(RerankRequest, await read_body(request, self._limit))
        return await self._slate(Ask.rerank(said, self._visitor(request, principal, said)))

    async def popular(self, request: Request) -> Response:
        """GET /popular: what is popular now."""
        self._caller(request)
        said = from_query(PopularRequest, request.scope["query_string"])
        return _json(_encode(self._answering.popular(Ask.popular(said))))

    async def events(self, request: Request) -> Response:
        """POST /events: what shoppers did. Answered only after the log has it."""
        self._caller(request)
        answer = await self._collecting.collect(await read_body(request, self._limit))
        self._access.charge(request, answer.accepted + len(answer.rejected))
        if answer.rejected and not answer.accepted:
            first = answer.rejected[0]
            problem = Problem("bad_input", f"{first.index}.{first.field}", first.problem)
            return _json(_encode(EventsRefused(error=problem, rejected=answer.rejected)), 422)
        return _json(_encode(answer), 202)

    async def _slate(self, ask: Ask) -> Response:
        return _json(_encode(await self._answering.answer(ask)))

    def _caller(self, request: Request) -> Principal:
        return self._access.admit(request, CALLERS)

    def _visitor(self, request: Request, principal: Principal, said: SlateRequest | RerankRequest) -> Visitor:
        forced = said.arm or request.headers.get("x-ringside-arm")
        if forced is not None:
            self._may_force(principal, forced)
        return Visitor(
            said.user_id,
            said.session_id,
            _excluded(forced, said.staff, request.headers.get("user-agent", "")),
            forced,
        )

    def _may_force(self, principal: Principal, arm: str) -> None:
        if principal.role != "admin":
            raise ForbiddenError("only an admin key may force an arm")
        if self._serving().version_of(arm) is None:
            raise BadInputError("arm", f"no arm {arm!r} in the experiment")


def _excluded(forced: str | None, staff: bool, user_agent: str) -> Excluded | None:
    if forced is not None:
        return "preview"
    if staff:
        return "staff"
    return "bot" if is_bot(user_agent) else None


def _json(body: bytes, status: int = 200) -> Response:
    return _Json(body, status)


class _Json(Response):
    """A response whose constant headers are encoded once (Starlette's own takes 5 µs for them)."""

    def __init__(self, body: bytes, status: int):
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), *_HEADERS]
