"""OpenAPI descriptions of routes that bypass FastAPI's parsing, from the same structs that parse them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from fastapi import FastAPI

from services.recommend import schemas
from services.recommend.schemas import MAX_LISTED
from services.web.problem import Failure

STRUCTS = (
    schemas.RecommendRequest,
    schemas.SimilarRequest,
    schemas.PopularRequest,
    schemas.RerankRequest,
    schemas.Answer,
    schemas.EventIn,
    schemas.EventsAnswer,
    schemas.EventsRefused,
    Failure,
)
_REF = "#/components/schemas/{name}"
Responses = dict[int | str, dict[str, Any]]  # by status, as FastAPI takes them

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <API key>"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "query": {"type": "apiKey", "in": "query", "name": "key", "description": "For navigator.sendBeacon."},
}
ANY_KEY: list[dict[str, list[str]]] = [{name: []} for name in SECURITY]
FAILURES = {
    "400": "The body is not JSON.",
    "401": "No API key, or an unknown one.",
    "403": "The key's role may not do this.",
    "404": "Unknown id.",
    "409": "Not possible in the current state; read it again.",
    "413": "The body is too large.",
    "422": "A field is wrong; `error.field` names it.",
    "429": "Too many requests from this key or client; try again after Retry-After seconds.",
    "503": "A dependency did not answer in time; try again after Retry-After seconds.",
}


@cache
def components() -> dict[str, Any]:
    """JSON schema of every struct by name."""
    return msgspec.json.schema_components(STRUCTS, ref_template=_REF)[1]


def ref(struct: type) -> dict[str, str]:
    """Reference to a struct's schema."""
    return {"$ref": _REF.format(name=struct.__name__)}


def failures(*statuses: str) -> Responses:
    """Response descriptions of failures."""
    content = {"application/json": {"schema": ref(Failure)}}
    return {status: {"description": FAILURES[status], "content": content} for status in statuses}


def success(struct: type, description: str, example: Any, status: str = "200") -> Responses:
    """Response description of a success."""
    content = {"application/json": {"schema": ref(struct), "example": example}}
    return {status: {"description": description, "content": content}}


def query_parameters(struct: type, examples: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One query parameter for each field of a request struct; lists explain how they are written."""
    schema = components()[struct.__name__]
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": {**part, "maxItems": MAX_LISTED} if part.get("type") == "array" else part,
            **({"description": text} if (text := _description(name, part)) else {}),
            **({"example": examples[name]} if name in examples else {}),
        }
        for name, part in schema["properties"].items()
    ]


def _description(name: str, part: Mapping[str, Any]) -> str:
    description: str = part.get("description", "")
    if part.get("type") != "array":
        return description
    commas = "; %2C is a comma of a name." if name == "category" else ", escaped ones too."
    return f"{description} Repeated, or separated by commas{commas}"


def body(schema: Mapping[str, Any], example: Any, *media: str) -> dict[str, Any]:
    """Request body, JSON by default."""
    kinds: Sequence[str] = media or ("application/json",)
    return {
        "required": True,
        "content": {kind: {"schema": dict(schema), "example": example} for kind in kinds},
    }


def describe(app: FastAPI) -> None:
    """Add the request and response structs, and how keys are sent, to `app.openapi()`."""

    of_routes = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        document = of_routes()
        parts = document.setdefault("components", {})
        parts.setdefault("schemas", {}).update(components())
        parts["securitySchemes"] = SECURITY
        return document

    app.openapi = openapi  # type: ignore[method-assign]
