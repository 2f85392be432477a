"""The table of storefront routes with their OpenAPI descriptions."""

from collections.abc import Mapping
from typing import Any

from services.recommend.api.fast_path import HotRoute
from services.recommend.api.openapi import ANY_KEY, body, failures, query_parameters, ref, success
from services.recommend.api.storefront import Storefront
from services.recommend.schemas import (
    Answer,
    EventIn,
    EventsAnswer,
    EventsRefused,
    PopularRequest,
    RecommendRequest,
    RerankRequest,
    SimilarRequest,
)

ANSWER = {
    "recommendation_id": "mtwBqXN0b3JlZnJvbnQ.kq3…",
    "items": [
        {
            "item_id": "85123A",
            "score": 0.81,
            "position": 0,
            "reason": "liked by people like you",
            "metadata": {"title": "White hanging heart", "category": "Decoration", "price": 2.95},
        }
    ],
    "experiment": "storefront",
    "arm": "als-20260101T000000-1a2b3c4d",
    "model_version": "als-20260101T000000-1a2b3c4d",
    "degraded": None,
}
CLICK = {
    "event_id": "0f8fad5b-d9cb-469f-a165-70867728950e",
    "type": "click",
    "item_id": "85123A",
    "user_id": "anna",
    "recommendation_id": "mtwBqXN0b3JlZnJvbnQ.kq3…",
    "ts": 1_767_225_600_000,
}
_COMMON = ("401", "403", "422", "429")
_SAMPLE = {"user_id": "anna", "session_id": "s-17", "n": 10, "placement": "home"}


def hot_routes(storefront: Storefront) -> list[HotRoute]:
    """Every route of the storefront."""
    return [
        HotRoute("/recommend", "GET", storefront.recommend, _asked(RecommendRequest, "A slate.")),
        HotRoute("/recommend", "POST", storefront.recommend_posted, _posted(RecommendRequest, _SAMPLE)),
        HotRoute("/similar/{item_id:path}", "GET", storefront.similar, _similar()),
        HotRoute(
            "/rerank", "POST", storefront.rerank, _posted(RerankRequest, {"items": ["85123A", "22423"]})
        ),
        HotRoute("/popular", "GET", storefront.popular, _asked(PopularRequest, "What is popular now.")),
        HotRoute("/events", "POST", storefront.events, _events()),
    ]


def _asked(struct: type, said: str) -> dict[str, Any]:
    return _described(
        {"parameters": query_parameters(struct, _SAMPLE)},
        {**success(Answer, said, ANSWER), **failures(*_COMMON)},
    )


def _posted(struct: type, example: Mapping[str, Any]) -> dict[str, Any]:
    responses = {**success(Answer, "A slate.", ANSWER), **failures("400", "413", *_COMMON)}
    return _described({"requestBody": body(ref(struct), example)}, responses)


def _similar() -> dict[str, Any]:
    item = {
        "name": "item_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "example": "85123A",
    }
    described = _asked(SimilarRequest, "Items like this one.")
    described["parameters"] = [item, *described["parameters"]]
    described["responses"] |= failures("404")
    return described


def _events() -> dict[str, Any]:
    rows = {"type": "array", "items": ref(EventIn), "maxItems": 500}
    unattributed = [{"index": 1, "reason": "not_in_slate"}]
    taken = {"accepted": 2, "attributed": 1, "unattributed": unattributed, "rejected": []}
    refused = {
        "error": {"code": "bad_input", "field": "0.type", "message": "Invalid enum value 'tap'"},
        "rejected": [{"index": 0, "field": "type", "problem": "Invalid enum value 'tap'"}],
    }
    responses = {
        **success(EventsAnswer, "The log has the good rows.", taken, "202"),
        **failures("400", "413", *_COMMON, "503"),
        **success(EventsRefused, "Not a list, or no row was good.", refused, "422"),
    }
    return _described({"requestBody": body(rows, [CLICK], "application/json", "text/plain")}, responses)


def _described(part: dict[str, Any], responses: dict[str, Any]) -> dict[str, Any]:
    return {**part, "responses": responses, "security": ANY_KEY}
