"""Endpoints for storefronts: each translates an HTTP request into a SlateRequest, and the answer into a
response."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.errors import BadInputError, ForbiddenError
from services.messages.events import Excluded
from services.recommend import schemas
from services.recommend.answer import SlateService
from services.recommend.api.events import EventCollector
from services.recommend.api.fast_path import read_body
from services.recommend.bots import is_bot
from services.recommend.deps import Deps
from services.recommend.slate_request import SlateRequest, Visitor
from services.recommend.snapshot.snapshot import Snapshot
from services.web.access import AccessControl
from services.web.api_keys import Principal, Role
from services.web.problem import Problem

CALLERS: tuple[Role, ...] = ("storefront", "admin")
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-type", b"application/json"),
    (b"x-content-type-options", b"nosniff"),
)
F = TypeVar("F", bound=schemas.SlateFields | schemas.RerankRequest)
_encode = msgspec.json.Encoder().encode


class Storefront:
    """Endpoints over a SlateService and an EventCollector."""

    def __init__(
        self,
        deps: Deps,
        access: AccessControl,
        snapshot: Callable[[], Snapshot],
        slates: SlateService,
        collector: EventCollector,
    ):
        self._access = access
        self._snapshot = snapshot
        self._slates = slates
        self._collector = collector
        self._max_body_bytes = deps.settings.max_body_bytes
        self._clock_ms, self._new_id = deps.clock_ms, deps.new_id

    async def recommend(self, request: Request) -> Response:
        """GET /recommend: items for a shopper."""
        principal = self._authorize(request)
        fields = schemas.from_query(schemas.RecommendRequest, request.scope["query_string"])
        return await self._answer(SlateRequest.of, request, principal, fields)

    async def recommend_posted(self, request: Request) -> Response:
        """POST /recommend: the same with a body, for long lists."""
        principal = self._authorize(request)
        fields = schemas.from_body(schemas.RecommendRequest, await read_body(request, self._max_body_bytes))
        return await self._answer(SlateRequest.of, request, principal, fields)

    async def similar(self, request: Request) -> Response:
        """GET /similar/{item_id}: items like this one."""
        principal = self._authorize(request)
        fields = schemas.from_query(schemas.SimilarRequest, request.scope["query_string"])
        # the item of the path is decoded by the server, and may hold slashes
        of = partial(SlateRequest.of, anchor=request.path_params["item_id"])
        return await self._answer(of, request, principal, fields)

    async def rerank(self, request: Request) -> Response:
        """POST /rerank: a given list of items, in the order that suits the shopper."""
        principal = self._authorize(request)
        fields = schemas.from_body(schemas.RerankRequest, await read_body(request, self._max_body_bytes))
        return await self._answer(SlateRequest.of_rerank, request, principal, fields)

    async def popular(self, request: Request) -> Response:
        """GET /popular: what is popular now."""
        self._authorize(request)
        fields = schemas.from_query(schemas.PopularRequest, request.scope["query_string"])
        slate = SlateRequest.of(fields, Visitor(None, None), self._new_id(), self._clock_ms())
        return _JsonResponse(_encode(self._slates.popular(slate)))

    async def events(self, request: Request) -> Response:
        """POST /events: what shoppers did. Answered only after the log has it."""
        self._authorize(request)
        answer = await self._collector.collect(await read_body(request, self._max_body_bytes))
        self._access.charge(request, answer.accepted + len(answer.rejected))
        if answer.rejected and not answer.accepted:
            first = answer.rejected[0]
            problem = Problem("bad_input", f"{first.index}.{first.field}", first.problem)
            return _JsonResponse(_encode(schemas.EventsRefused(error=problem, rejected=answer.rejected)), 422)
        return _JsonResponse(_encode(answer), 202)

    async def _answer(
        self,
        of: Callable[[F, Visitor, str, int], SlateRequest],
        request: Request,
        principal: Principal,
        fields: F,
    ) -> Response:
        visitor = self._visitor(request, principal, fields)
        slate = await self._slates.answer(of(fields, visitor, self._new_id(), self._clock_ms()))
        return _JsonResponse(_encode(slate))

    def _authorize(self, request: Request) -> Principal:
        return self._access.admit(request, CALLERS)

    def _visitor(
        self, request: Request, principal: Principal, fields: schemas.SlateFields | schemas.RerankRequest
    ) -> Visitor:
        forced_arm = fields.arm or request.headers.get("x-ringside-arm")
        if forced_arm is not None:
            self._may_force(principal, fields.placement, forced_arm)
        return Visitor(
            fields.user_id,
            fields.session_id,
            _excluded(forced_arm, fields.staff, request.headers.get("user-agent", "")),
            forced_arm,
        )

    def _may_force(self, principal: Principal, placement: str, arm: str) -> None:
        if principal.role != "admin":
            raise ForbiddenError("only an admin key may force an arm")
        if self._snapshot().experiment(placement).version_of(arm) is None:
            raise BadInputError("arm", f"no arm {arm!r} in the experiment")


def _excluded(forced_arm: str | None, staff: bool, user_agent: str) -> Excluded | None:
    if forced_arm is not None:
        return "preview"
    if staff:
        return "staff"
    return "bot" if is_bot(user_agent) else None


class _JsonResponse(Response):
    """A response whose constant headers are encoded once (Starlette's own takes 5 µs for them)."""

    def __init__(self, body: bytes, status: int = 200):
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-length", b"%d" % len(body)), *_HEADERS]
