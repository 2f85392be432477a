"""The table of storefront routes with their OpenAPI descriptions."""

from collections.abc import Mapping
from typing import Any

from services.recommend.api.fast_path import FastRoute
from services.recommend.api.openapi import ANY_KEY, Responses, body, failures, query_parameters, ref, success
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


def storefront_routes(storefront: Storefront) -> list[FastRoute]:
    """Every route of the storefront."""
    return [
        FastRoute("/recommend", "GET", storefront.recommend, _query(RecommendRequest, "A slate.")),
        FastRoute("/recommend", "POST", storefront.recommend_posted, _body(RecommendRequest, _SAMPLE)),
        FastRoute("/similar/{item_id:path}", "GET", storefront.similar, _similar()),
        FastRoute("/rerank", "POST", storefront.rerank, _body(RerankRequest, {"items": ["85123A", "22423"]})),
        FastRoute("/popular", "GET", storefront.popular, _query(PopularRequest, "What is popular now.")),
        FastRoute("/events", "POST", storefront.events, _events()),
    ]


def _query(struct: type, description: str) -> dict[str, Any]:
    return _operation(
        {"parameters": query_parameters(struct, _SAMPLE)},
        {**success(Answer, description, ANSWER), **failures(*_COMMON)},
    )


def _body(struct: type, example: Mapping[str, Any]) -> dict[str, Any]:
    responses: Responses = {**success(Answer, "A slate.", ANSWER), **failures("400", "413", *_COMMON)}
    return _operation({"requestBody": body(ref(struct), example)}, responses)


def _similar() -> dict[str, Any]:
    item = {
        "name": "item_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "example": "85123A",
    }
    operation = _query(SimilarRequest, "Items like this one.")
    operation["parameters"] = [item, *operation["parameters"]]
    operation["responses"] |= failures("404")
    return operation


def _events() -> dict[str, Any]:
    rows = {"type": "array", "items": ref(EventIn), "maxItems": 500}
    unattributed = [{"index": 1, "reason": "not_in_slate"}]
    accepted = {"accepted": 2, "attributed": 1, "unattributed": unattributed, "rejected": []}
    refused = {
        "error": {"code": "bad_input", "field": "0.type", "message": "Invalid enum value 'tap'"},
        "rejected": [{"index": 0, "field": "type", "problem": "Invalid enum value 'tap'"}],
    }
    responses: Responses = {
        **success(EventsAnswer, "The log has the accepted rows.", accepted, "202"),
        **failures("400", "413", *_COMMON, "503"),
        **success(EventsRefused, "Not a list, or every row was refused.", refused, "422"),
    }
    return _operation({"requestBody": body(rows, [CLICK], "application/json", "text/plain")}, responses)


def _operation(part: dict[str, Any], responses: Responses) -> dict[str, Any]:
    return {**part, "responses": responses, "security": ANY_KEY}
