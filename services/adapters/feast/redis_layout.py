"""The layout of Feast's rows in Redis, without importing Feast (which costs seconds and hundreds of
megabytes).

Each entity is one hash. Its key is the serialised entity key and the name of the project. The field of a
feature is the mmh3 hash of "view:feature", and its value a protobuf `Value`. The field "_ts:view" is the
row's event timestamp. Source: Feast 0.67, `infra/online_stores/redis.py`, `helpers.py`,
`infra/key_encoding_utils.py` (serialisation version 3). A conformance test compares all of it with Feast
itself.
"""

import functools
import runpy
import struct
import sys
from importlib.metadata import distribution
from typing import Any

import mmh3
from google.protobuf.timestamp_pb2 import Timestamp

PROJECT = "ringside"
USER_ACTIVITY = "user_activity"
USER_PROFILE = "user_profile"
ITEM_STATISTICS = "item_statistics"
ITEM_CONTENT = "item_content"
ACTIVITY_FEATURES = ("item_ids", "item_at", "item_types", "event_ids")
DAYS = (1, 7, 30)
PROFILE_FEATURES = (
    *(f"{what}_{days}d" for what in ("views", "purchases", "spend") for days in DAYS),
    "view_age_s",
    "purchase_age_s",
)

_STRING = 2  # ValueType.STRING


def entity_key(join_key: str, value: str) -> bytes:
    """Redis key of the row of one entity with a text join key.

    >>> entity_key("user_id", "u1")[-11:]
    b'\\x00u1ringside'
    """
    name, text = join_key.encode(), value.encode()
    head = struct.pack("<III", 1, _STRING, len(name))
    return b"".join((head, name, struct.pack("<II", _STRING, len(text)), text, PROJECT.encode()))


def feature_field(view: str, feature: str) -> bytes:
    """Field of a feature in the hash: four bytes."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def timestamp_field(view: str) -> bytes:
    """Field of a view's event timestamp in the hash."""
    return f"_ts:{view}".encode()


def timestamp_ms(raw: bytes | None) -> int:
    """Event timestamp in ms since the epoch; 0 if there is no row."""
    if not raw:
        return 0
    stamp = Timestamp.FromString(raw)
    return int(stamp.seconds * 1_000 + stamp.nanos // 1_000_000)


def texts(raw: bytes | None) -> tuple[str, ...]:
    """A feature of type Array(String)."""
    return tuple(value_type().FromString(raw).string_list_val.val) if raw else ()


def integers(raw: bytes | None) -> tuple[int, ...]:
    """A feature of type Array(Int64)."""
    return tuple(value_type().FromString(raw).int64_list_val.val) if raw else ()


def number(raw: bytes | None) -> float | None:
    """A feature of type Float64; None if it is missing."""
    value = value_type().FromString(raw) if raw else None
    return value.double_val if value is not None and value.WhichOneof("val") else None


@functools.cache
def value_type() -> Any:
    """Feast's protobuf class `Value`, loaded from its file without importing the package."""
    if imported := sys.modules.get("feast.protos.feast.types.Value_pb2"):
        return imported.Value
    path = distribution("feast").locate_file("feast/protos/feast/types/Value_pb2.py")
    return runpy.run_path(str(path))["Value"]
