"""Columns of Feast's offline sources, one folder of Parquet files for each view below
`Settings.offline_path`."""

import pyarrow as pa

from services.adapters.feast.redis_layout import (
    DAYS,
    ITEM_CONTENT,
    ITEM_STATISTICS,
    PROFILE_FEATURES,
    USER_ACTIVITY,
    USER_PROFILE,
)

_STAMP = ("event_timestamp", pa.timestamp("us", "UTC"))
STATISTICS_FEATURES = (
    *(f"{what}_{days}d" for what in ("views", "purchases") for days in DAYS),
    "trend",
    "price",
    "age_days",
)
SCHEMAS = {
    USER_ACTIVITY: pa.schema(
        [
            ("user_id", pa.string()),
            ("item_ids", pa.list_(pa.string())),
            ("item_at", pa.list_(pa.int64())),
            ("item_types", pa.list_(pa.string())),
            ("event_ids", pa.list_(pa.string())),
            _STAMP,
        ]
    ),
    USER_PROFILE: pa.schema(
        [("user_id", pa.string()), *((name, pa.float64()) for name in PROFILE_FEATURES), _STAMP]
    ),
    ITEM_STATISTICS: pa.schema(
        [("item_id", pa.string()), *((name, pa.float64()) for name in STATISTICS_FEATURES), _STAMP]
    ),
    ITEM_CONTENT: pa.schema(
        [("item_id", pa.string()), ("category", pa.string()), ("text_hash", pa.string()), _STAMP]
    ),
}
