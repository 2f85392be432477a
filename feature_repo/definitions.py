"""Entities, sources, views and feature services of Ringside, in one file because `feast apply` imports it by
name.

A row's timestamp is the time from which it could be read online, never earlier (infra/adr/0004). Offline
sources are folders of Parquet files below RINGSIDE_FEAST_HOME. Settings arrive as environment variables.
"""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float64, Int64, String

HOME = os.environ["RINGSIDE_FEAST_HOME"]
DAYS = (1, 7, 30)


def offline(name: str) -> FileSource:
    """Source of a view's history: a folder of Parquet files."""
    return FileSource(
        name=f"{name}_history",
        path=f"{HOME}/offline/{name}",
        timestamp_field="event_timestamp",
        file_format=ParquetFormat(),
    )


def ttl(variable: str) -> timedelta:
    """Time to live of a view, from an environment variable in seconds."""
    return timedelta(seconds=int(os.environ[variable]))


user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="The routing key: user id, else session id.",
)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="A product.")

activity_pushes = PushSource(name="user_activity_push", batch_source=offline("user_activity"))

user_activity = FeatureView(
    name="user_activity",
    entities=[user],
    ttl=ttl("RINGSIDE_ACTIVITY_TTL_S"),
    source=activity_pushes,
    description="Last interactions of a user, most recent first; lists of equal length.",
    schema=[
        Field(name="item_ids", dtype=Array(String)),
        Field(
            name="item_at", dtype=Array(Int64), description="received_at of each event, ms since the epoch"
        ),
        Field(name="item_types", dtype=Array(String)),
        Field(name="event_ids", dtype=Array(String), description="used to drop repeated events"),
    ],
)

user_profile = FeatureView(
    name="user_profile",
    entities=[user],
    ttl=ttl("RINGSIDE_PROFILE_TTL_S"),
    source=offline("user_profile"),
    description="Counts and spend (price times quantity) of a user over 1, 7 and 30 days.",
    schema=[
        *(
            Field(name=f"{what}_{days}d", dtype=Float64)
            for what in ("views", "purchases", "spend")
            for days in DAYS
        ),
        Field(
            name="view_age_s", dtype=Float64, description="seconds since the last view or click; null: never"
        ),
        Field(
            name="purchase_age_s", dtype=Float64, description="seconds since the last purchase; null: never"
        ),
    ],
)

item_statistics = FeatureView(
    name="item_statistics",
    entities=[item],
    ttl=ttl("RINGSIDE_PROFILE_TTL_S"),
    source=offline("item_statistics"),
    description="Views, purchases, trend, price and age of an item.",
    schema=[
        *(Field(name=f"{what}_{days}d", dtype=Float64) for what in ("views", "purchases") for days in DAYS),
        Field(
            name="trend",
            dtype=Float64,
            description="log of the events in 7 days over those expected from 30 days",
        ),
        Field(name="price", dtype=Float64),
        Field(name="age_days", dtype=Float64, description="days since it was first seen; null: unknown"),
    ],
)

item_content = FeatureView(
    name="item_content",
    entities=[item],
    ttl=timedelta(0),
    source=offline("item_content"),
    description="Category and text of an item; a new row when they change.",
    schema=[
        Field(name="category", dtype=String),
        Field(
            name="text_hash",
            dtype=String,
            description="SHA-256 of title and description; key of the embeddings",
        ),
    ],
)

popularity = FeatureService(
    name="popularity",
    features=[item_statistics],
    description="Counts like those of the model, for people; the model reads interactions and no features.",
)
als = FeatureService(
    name="als", features=[user_activity], description="The user's recent items, which the model reads."
)
ease = FeatureService(
    name="ease", features=[user_activity], description="The user's recent items, which the model reads."
)
content = FeatureService(
    name="content",
    features=[user_activity, item_content],
    description="The user's recent items, which the model reads; text_hash is the key of its embeddings.",
)
serving = FeatureService(
    name="serving",
    features=[user_activity[["item_ids", "item_at", "item_types"]], user_profile],
    description="The features that /recommend reads of a user.",
)
