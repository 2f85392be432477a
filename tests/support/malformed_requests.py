"""Malformed requests, generated from the OpenAPI description and then corrupted; a function of a seed."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, quote_from_bytes

from support.asgi_calls import AsgiRequest, key, parts_of


class Verbatim(str):
    """JSON text that is written unchanged, valid or not."""


LONE = Verbatim('"\\ud800"')
NESTED = Verbatim("[" * 20_000 + "]" * 20_000)
HOSTILE: Sequence[Any] = (
    None, True, False, 0, -1, 1, 101, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 0.1, -0.0, 1e308,
    Verbatim("1e400"), Verbatim("NaN"), Verbatim("Infinity"), Verbatim("-Infinity"), Verbatim("9" * 400),
    Verbatim("01"), Verbatim("+1"), Verbatim("0x10"), Verbatim(""), Verbatim("undefined"),
    "", " ", "0", "\x00", "a\x00b", LONE, Verbatim('"\\udc00\\ud800"'), Verbatim('"\\uZZZZ"'),
    Verbatim('"\x01"'),
    "\u202edrawkcab", "\ufeff", "🦊" * 60, "é" * 200, "x" * 200, "x" * 201, "x" * 10_240, "İ" * 501, "a|b|c",
    "r:1",
    "../../../../etc/passwd", "..%2f..%2fetc/passwd", "i1/../../items", "\\\\host\\share", "C:\\boot.ini",
    "{{7*7}}", "${7*7}", "#{7*7}", "{% raw %}", "<script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "' OR 1=1 --", "; DROP TABLE items", "$(reboot)", "`id`", "=cmd|' /C calc'!A0", "%s%s%n",
    "\r\nSet-Cookie: a=b",
    [], {}, [None], [[]], {"": {}}, {"__proto__": {"a": 1}}, {"$ref": "#"}, ["i1"] * 1_001, list(range(300)),
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00",
    "0001-01-01T00:00:00+23:59", Verbatim("-62135596800001"),
)  # fmt: skip
KNOWN = {
    "item_id": ("i1", "i7", "i39"), "items": ("i1", "i2", "i3"), "context": ("i4",), "exclude": ("i5",),
    "user_id": ("anna", "ben"), "session_id": ("s1", "s2"), "placement": ("home", "cart", "item"),
    "arm": ("good", "other"), "category": ("lamps", "mugs"), "experiment": ("storefront",),
    "model_version": ("good", "other"),
}  # fmt: skip
TEXTS = ("Mozilla/5.0", "Googlebot/2.1", "", "\xff\xfe", "a" * 20_000, "${jndi:ldap://x}", "<b>")


def dumps(value: Any) -> str:
    """JSON, with `Verbatim` as it stands."""
    if isinstance(value, Verbatim):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(name)}:{dumps(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(dumps, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Operation:
    """One method of one path of the OpenAPI description."""

    method: str
    path: str
    parameters: Sequence[dict[str, Any]]
    body: dict[str, Any] | None
    secured: bool


def operations(document: dict[str, Any]) -> list[Operation]:
    """Everything that the description offers."""
    found = []
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            content = said.get("requestBody", {}).get("content", {})
            body = content.get("application/json", {}).get("schema")
            secured = bool(said.get("security"))
            found.append(Operation(method.upper(), path, said.get("parameters", ()), body, secured))
    return found


class ValueGenerator:
    """Makes values that a schema allows, mostly ones that mean something to the shop."""

    def __init__(self, document: dict[str, Any], rng: random.Random, tokens: Sequence[str] = ()):
        self._schemas = document["components"]["schemas"]
        self._rng = rng
        self.tokens = list(tokens)

    def value(self, schema: dict[str, Any], name: str = "") -> Any:
        """A value that fits."""
        schema = self.resolved(schema)
        if name == "recommendation_id" and self.tokens:
            return self._rng.choice(self.tokens)
        if "anyOf" in schema:
            return self.value(self._rng.choice(schema["anyOf"]), name)
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        make = {"object": self._object, "array": self._array, "string": self._text}.get(
            schema.get("type", "")
        )
        return make(schema, name) if make else self._plain(schema)

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema that a reference names."""
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def _object(self, schema: dict[str, Any], name: str) -> dict[str, Any]:
        required = schema.get("required", ())
        wanted = [
            (field, part) for field, part in schema.get("properties", {}).items()
            if field in required or self._rng.random() < 0.5
        ]  # fmt: skip
        return {field: self.value(part, field) for field, part in wanted}

    def _array(self, schema: dict[str, Any], name: str) -> list[Any]:
        long_lists = self._rng.choice([1, 1, 2, 3, 8])
        return [
            self.value(schema.get("items", {}), name)
            for _ in range(max(long_lists, schema.get("minItems", 0)))
        ]

    def _text(self, schema: dict[str, Any], name: str) -> str:
        if name in KNOWN and self._rng.random() < 0.9:
            return self._rng.choice(KNOWN[name])
        if schema.get("format") == "date-time":
            return "2026-11-24T12:00:00Z"
        return "".join(self._rng.choices("abcXYZ019._-", k=self._rng.randint(1, 12)))

    def _plain(self, schema: dict[str, Any]) -> Any:
        kind = schema.get("type")
        low, high = schema.get("minimum", 0), min(schema.get("maximum", 1_000), 10_000)
        if kind == "integer":
            return self._rng.randint(int(low), int(high))
        if kind == "number":
            return round(self._rng.uniform(low, high), 2)
        return self._rng.random() < 0.3 if kind == "boolean" else None


@dataclass(frozen=True)
class RequestDraft:
    """A request before it is written out, so that its parts can be spoiled one by one."""

    operation: Operation
    path: dict[str, Any]
    query: list[tuple[str, Any]]
    body: Any
    headers: list[tuple[bytes, bytes]]


class RequestFuzzer:
    """An endless stream of requests for a seed."""

    def __init__(self, document: dict[str, Any], seed: int, tokens: Sequence[str] = ()):
        self.rng = random.Random(seed)
        self.operations = operations(document)
        self.maker = ValueGenerator(document, self.rng, tokens)
        # the storefront's routes are open to everybody who reads a page's source: they get most of it
        self._weights = [6 if "storefront" in str(document["paths"][o.path][o.method.lower()]["tags"]) else 1
                         for o in self.operations]  # fmt: skip

    def requests(self, count: int) -> Iterator[AsgiRequest]:
        """`count` requests, a few of them right."""
        for _ in range(count):
            yield self.one()

    def one(self) -> AsgiRequest:
        """A request; spoiled in no, one or several ways."""
        draft = self.draft(self.rng.choices(self.operations, self._weights)[0])
        for _ in range(self.rng.choice([0, 1, 1, 1, 2, 3])):
            draft = self.rng.choice(DRAFT_MUTATIONS)(self.rng, draft)
        sent = to_request(draft)
        for _ in range(self.rng.choice([0, 0, 0, 1])):
            sent = self.rng.choice(BYTE_MUTATIONS)(self.rng, sent)
        return sent

    def draft(self, operation: Operation) -> RequestDraft:
        """A request that the description allows."""
        path, query = {}, []
        for part in operation.parameters:
            if part["in"] == "path":
                path[part["name"]] = self.maker.value(part["schema"], part["name"])
            elif part.get("required") or self.rng.random() < 0.4:
                value = self.maker.value(part["schema"], part["name"])
                if value is not None:
                    query.append((part["name"], value))
        body = None if operation.body is None else self.maker.value(operation.body)
        role = self.rng.choices(["admin", "storefront", "analyst"], [8, 3, 1])[0]
        headers = [key(role)] if operation.secured else []
        if operation.body is not None:
            headers.append((b"content-type", b"application/json"))
        return RequestDraft(operation, path, query, body, headers)


def to_request(draft: RequestDraft) -> AsgiRequest:
    """The draft on the wire."""
    path = draft.operation.path
    for name, value in draft.path.items():
        path = path.replace("{" + name + "}", str(value))
    pairs = []
    for name, value in draft.query:
        for part in value if isinstance(value, list) else [value]:
            text = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            pairs.append(quote(name).encode() + b"=" + quote_from_bytes(text).encode())
    body = b"" if draft.body is None else dumps(draft.body).encode("utf-8", "surrogatepass")
    length = [(b"content-length", str(len(body)).encode())] if body else []
    return AsgiRequest(draft.operation.method, path, b"&".join(pairs), [*draft.headers, *length], (body,))


# ---- spoiling a draft --------------------------------------------------------------------------------------


def _json_paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a JSON value."""
    found = [at]
    if isinstance(value, dict):
        found += [place for name, part in value.items() for place in _json_paths(part, (*at, name))]
    elif isinstance(value, list):
        found += [place for index, part in enumerate(value[:8]) for place in _json_paths(part, (*at, index))]
    return found


def changed(value: Any, at: tuple[Any, ...], new: Callable[[Any], Any]) -> Any:
    """`value` with something else at this place."""
    if not at:
        return new(value)
    if isinstance(value, dict):
        return {name: changed(part, at[1:], new) if name == at[0] else part for name, part in value.items()}
    return [changed(part, at[1:], new) if index == at[0] else part for index, part in enumerate(value)]


def hostile_field(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """Something else in some field of the body."""
    place = rng.choice(_json_paths(draft.body))
    return replace(draft, body=changed(draft.body, place, lambda _: rng.choice(HOSTILE)))


def missing_field(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """A field left out."""
    if not isinstance(draft.body, dict) or not draft.body:
        return draft
    gone = rng.choice(list(draft.body))
    return replace(draft, body={name: part for name, part in draft.body.items() if name != gone})


def unknown_field(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """Add an unknown field."""
    spoil = {rng.choice(["limit", "", "__class__", "x" * 5_000, "\x00", "🦊"]): rng.choice(HOSTILE)}
    return replace(draft, body={**draft.body, **spoil} if isinstance(draft.body, dict) else spoil)


def field_twice(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """The same name twice in one object."""
    if not isinstance(draft.body, dict) or not draft.body:
        return draft
    name = rng.choice(list(draft.body))
    inside = dumps(draft.body)[1:-1]
    return replace(draft, body=Verbatim("{" + f"{inside},{dumps(name)}:{dumps(rng.choice(HOSTILE))}" + "}"))


def deep_nesting(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """Lists in lists in lists."""
    depth = rng.choice([50, 500, 5_000, 5_000, 100_000])
    shape = rng.choice([("[", "]"), ('{"a":', "}")])
    nested = Verbatim(shape[0] * depth + "1" + shape[1] * depth)
    if isinstance(draft.body, dict) and draft.body:
        return replace(draft, body={**draft.body, rng.choice(list(draft.body)): nested})
    return replace(draft, body=nested)


def long_lists(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """Make a list longer than the API accepts."""
    size = rng.choice([101, 501, 1_001, 20_000])
    lists = [place for place in _json_paths(draft.body) if isinstance(_at(draft.body, place), list)]
    if lists:
        return replace(draft, body=changed(draft.body, rng.choice(lists), lambda v: repeated_list(v, size)))
    return replace(draft, query=[*draft.query, ("exclude", b"i1," * size)])


def repeated_list(values: list[Any], size: int) -> Verbatim:
    """The elements of the list repeated `size` times, as JSON text."""
    return Verbatim("[" + ",".join([dumps(values)[1:-1] or '"i1"'] * size) + "]")


def hostile_query(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """Something else in a parameter, or an unknown parameter."""
    names = [part["name"] for part in draft.operation.parameters if part["in"] == "query"]
    name = rng.choice([*names, "limit", "key", ""])
    others = [pair for pair in draft.query if pair[0] != name or rng.random() < 0.2]
    return replace(draft, query=[*others, (name, rng.choice(HOSTILE))])


def query_twice(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """A parameter given twice."""
    return replace(draft, query=[*draft.query, rng.choice(draft.query)]) if draft.query else draft


def hostile_path(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """Something else in the path."""
    return replace(draft, path={name: rng.choice(HOSTILE) for name in draft.path})


def other_key(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """No key, a strange one, several."""
    rest = [pair for pair in draft.headers if pair[0] != b"x-api-key"]
    strange = [
        [], [(b"x-api-key", b"")], [(b"x-api-key", b"\xff\x00")], [(b"x-api-key", b"k" * 60_000)],
        [(b"authorization", b"Bearer")], [(b"authorization", b"Basic \xe9\xe9")], [key(), key("admin")],
        [(b"authorization", b"Bearer " + key("admin")[1])],
    ]  # fmt: skip
    return replace(draft, headers=[*rest, *rng.choice(strange)])


def other_headers(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """Headers that mean something, with what they should not say."""
    names = (
        "user-agent", "origin", "x-ringside-arm", "content-type", "accept", "cookie", "host",
        "x-forwarded-for",
        "transfer-encoding", "content-encoding", "expect", "range", "if-none-match", "accept-encoding",
        "access-control-request-method", "x-ringside-staff", "traceparent",
    )  # fmt: skip
    name = rng.choice(names).encode()
    value = rng.choice([*TEXTS, "good", "text/plain", "multipart/form-data", "gzip", "chunked", "bytes=0-1"])
    return replace(draft, headers=[*draft.headers, (name, value.encode("latin-1", "replace"))])


def lying_length(rng: random.Random, draft: RequestDraft) -> RequestDraft:
    """A content-length that is not true."""
    value = rng.choice(
        [b"0", b"5", b"-1", b"abc", b"999999999999", b"1" * 5_000, b"1_0", "²".encode(), b"1, 2", b""]
    )
    return replace(draft, headers=[*draft.headers, (b"content-length", value)])


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


DRAFT_MUTATIONS = (
    hostile_field, hostile_field, hostile_field, missing_field, unknown_field, field_twice,
    deep_nesting, long_lists,
    hostile_query,
    hostile_query, query_twice, hostile_path, other_key, other_headers, lying_length,
)  # fmt: skip


# ---- garbling what is written ------------------------------------------------------------------------------


def flipped(rng: random.Random, sent: AsgiRequest) -> AsgiRequest:
    """Flip some bits of the body."""
    body = bytearray(b"".join(sent.body))
    for _ in range(rng.randint(1, 4)):
        if body:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return replace(sent, body=(bytes(body),))


def cut(rng: random.Random, sent: AsgiRequest) -> AsgiRequest:
    """The body ends too early."""
    body = b"".join(sent.body)
    return replace(sent, body=(body[: rng.randrange(len(body) + 1)],))


def other_bytes(rng: random.Random, sent: AsgiRequest) -> AsgiRequest:
    """Replace the body by bytes that are not a valid request."""
    body = b"".join(sent.body)
    choices: list[Callable[[], bytes]] = [
        lambda: rng.randbytes(rng.randint(1, 2_000)), lambda: b"\xef\xbb\xbf" + body, lambda: b"",
        lambda: body.decode("utf-8", "replace").encode("utf-16"), lambda: b"\x00" * 1_000,
        lambda: body + body,
        lambda: b" " * 2_000_000, lambda: b"[" * 900_000, lambda: b'"' + b"\\" * 5_001,
        lambda: b"[" + b"1," * 200_000,
        lambda: b"{" + b'"a":1,' * 50_000 + b'"b":2}',
        lambda: b"x" * 10_000_000 if rng.random() < 0.1 else b"null",
    ]  # fmt: skip
    return replace(sent, body=(rng.choice(choices)(),))


def in_pieces(rng: random.Random, sent: AsgiRequest) -> AsgiRequest:
    """The body comes in parts; now and then the client leaves before the last one."""
    body = b"".join(sent.body)
    whole = parts_of(body, iter(lambda: rng.randint(1, max(1, len(body) // 3)), 0))
    return replace(sent, body=whole, hangs_up=rng.random() < 0.3)


def raw_query(rng: random.Random, sent: AsgiRequest) -> AsgiRequest:
    """A query string that no library wrote."""
    choices = [
        b"%", b"%zz=%ff", b"&&&=&=", b"a" * 70_000, b"n=5;n=6", b"n=%00", b"user_id=%ed%a0%80",
        b"user_id=\xff\xfe",
        b"exclude=" + b"i1," * 30_000, b"n=5&" * 2_000, b"?n=5", b"n[]=5", b"n=5#x", "n=٥".encode(),
        b"n=1e1", b"n=+5",
    ]  # fmt: skip
    return replace(sent, query=rng.choice([sent.query + b"&" + rng.choice(choices), rng.choice(choices)]))


def raw_path(rng: random.Random, sent: AsgiRequest) -> AsgiRequest:
    """A path without a route."""
    choices = ["/", "//", "/../etc/passwd", "/static-offline-docs/../../x", "/recommend/", "/RECOMMEND",
    "/similar/",
               "/items/", "/experiments/../items", "/\x00", "/\u202e", "/" + "a" * 60_000,
               "/docs/../openapi.json",
               "/similar/" + "/" * 3_000, "/events/../metrics", "/.git/config",
               "/similar/{{7*7}}"]  # fmt: skip
    return replace(sent, path=rng.choice(choices))


def other_method(rng: random.Random, sent: AsgiRequest) -> AsgiRequest:
    """Another method."""
    return replace(
        sent, method=rng.choice(["GET", "PUT", "HEAD", "OPTIONS", "TRACE", "DELETE", "PROPFIND", "X"])
    )


BYTE_MUTATIONS = (flipped, flipped, cut, other_bytes, in_pieces, raw_query, raw_path, other_method)
