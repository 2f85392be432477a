"""Configuration. Every value comes from an environment variable (`RINGSIDE_…`) or from its default here.

The settings are grouped by topic into classes; `Settings` joins them, so that each is read as a plain
attribute. To add one, add a field to its group. Durations end in `_s` (seconds) or `_ms` (milliseconds).
A secret has no default and `repr=False`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from experiments.lifecycle.state import Rules, Unit
from services.experiment_table import ExperimentTable
from services.setting_types import (
    Names,
    Networks,
    Partitions,
    PathOrNone,
    Rates,
    RedisUrl,
    Urls,
    parse_names,
    parse_networks,
    parse_rates,
)

PREFIX = "RINGSIDE_"
EXPERIMENT_NAME = r"^[A-Za-z0-9._-]{1,64}$"  # so that the HTTP API can name one in a path
RULES = Rules()
DAY_S = 86_400


class Storage(BaseModel):
    """Folders, Redis, Kafka, MLflow."""

    home: Path = Field(Path("var"), description="Folder for data, models, lake, registry and logs.")
    data_dir: Path | None = Field(None, description="Folder with real data sets, for tests and the demo.")
    redis_url: RedisUrl = Field("redis://127.0.0.1:6379/0", repr=False)
    state_deadline_ms: int = Field(
        1_000, ge=1, description="Deadline of a call to Redis for which no slate waits."
    )
    kafka_bootstrap: str = "127.0.0.1:9092"
    kafka_mode: Literal["embedded", "kafka"] = Field(
        "embedded", description="embedded: the broker in the confluent-kafka wheel; kafka: Apache Kafka."
    )
    kafka_partitions: int = Field(
        4, ge=1, description="Partitions of `exposures` and `events`; fixed at creation (Kafka: 32)."
    )
    mlflow_uri: str = Field("", repr=False, description="MLflow tracking URI; empty: SQLite under `home`.")
    experiment: str = Field(
        "storefront",
        pattern=EXPERIMENT_NAME,
        description="Id of the experiment that decides the slates of every placement.",
    )


class Access(BaseModel):
    """API keys, rates and limits of clients."""

    keys: str = Field(
        "",
        repr=False,
        description="storefront=…,analyst=…,admin=…: sha256 hashes of keys, made by `ringside keys new`. "
        "Several keys of one role allow rotation.",
    )
    keys_file: PathOrNone = Field(
        None, description="File with more such pairs, one a line; a change takes effect within a second."
    )
    signing_key: Names = Field(
        (), repr=False, description="Secrets that sign recommendation ids, comma separated, newest first."
    )
    rates: Rates = Field(
        parse_rates("analyst=20,admin=50,client=20"),
        description="Most requests a second, per process: of each key of a role, and of each client (an "
        "address outside of `own_networks`). A role that is not listed has no limit.",
    )
    rate_burst_s: float = Field(
        10.0, gt=0, description="A burst may have as many requests as the rate allows in this time."
    )
    own_networks: Networks = Field(
        parse_networks("127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"),
        description="Networks of shop servers and proxies, which are not limited as clients. Their header "
        "X-Forwarded-For is trusted.",
    )
    client_connections: int = Field(
        250, ge=1, description="Maximum concurrent connections per client address and process."
    )
    cors_origins: Names = Field(("*",), description="Origins from which browsers may send events.")


class Serving(BaseModel):
    """Servers, and the recommend service."""

    host: str = "127.0.0.1"
    recommend_port: int = Field(8080, ge=0, le=65_535)
    recommend_workers: int = Field(1, ge=1, description="Processes that share the port.")
    drain_s: float = Field(
        5.0,
        ge=0,
        description="Grace period in which a stopping replica still serves keep-alive connections, answering "
        "with `Connection: close`.",
    )
    console_port: int = Field(8081, ge=0, le=65_535)
    shop_port: int = Field(8082, ge=0, le=65_535)
    replica: str = Field("", description="Name of this process; empty: host and pid.")
    redis_deadline_ms: int = Field(40, ge=1, description="Deadline of the one read of /recommend.")
    broker_ack_deadline_ms: int = Field(
        2_000, ge=1, description="Deadline for the acknowledgement of POST /events."
    )
    producer_queue: int = Field(
        10_000, ge=1, description="Records that wait for the broker before new ones fail."
    )
    rank_deadline_ms: int = Field(60, ge=1, description="Deadline of a model's scores.")
    shed_lag_ms: float = Field(
        20.0, ge=0, description="Storefront requests are shed while the event loop lags this much; 0: never."
    )
    state_cutoff_s: float = Field(
        30.0, description="Only the champion serves after this long without experiment state."
    )
    refresh_s: float = Field(0.5, description="Interval at which replicas read new state, models and items.")
    placements: Names = Field(
        parse_names("home,category,search,item,cart,email,discover,buy_again"),
        description="Placements that a request may name; `buy_again` may show what the user has bought.",
    )
    category_share: float = Field(0.5, gt=0, le=1, description="Largest share of a slate from one category.")
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="Larger requests are answered 413.")
    recommendation_ttl_s: float = Field(
        86_400.0, description="Age at which a slate is too old for events to count."
    )
    heartbeat_s: float = Field(
        1.0, description="Interval at which replicas report their models; a report expires after 5 of these."
    )


class Clients(BaseModel):
    """The sample shop and the simulated shoppers, which are clients of the public HTTP API."""

    recommend_url: Urls = Field(
        (), description="URLs of the replicas to call, comma separated; empty: host and recommend_port."
    )
    storefront_key: str = Field("", repr=False, description="The API key (role storefront) that they send.")
    shop_events_url: str = Field(
        "", description="Where browsers in the shop send events; empty: the first `recommend_url`."
    )
    shop_users: Names = Field((), description="User ids that a visitor of the shop may take.")
    shop_currency: str = Field("£", description="Sign in front of the shop's prices.")


class Data(BaseModel):
    """Imports, features and the lake."""

    import_max_bytes: int = Field(
        4 << 30, ge=1, description="Largest file that `ringside data import` fetches or unpacks."
    )
    recent_items: int = Field(50, ge=1, description="Items kept of each user's recent activity.")
    activity_flush_ms: int = Field(50, ge=1, description="Longest wait of an event for its Feast push.")
    activity_ttl_s: int = Field(
        90 * DAY_S,
        description="Age after which recent activity is not served. A longer TTL helps infrequent users but "
        "keeps rows of one-time guests in Redis longer.",
    )
    activity_horizon_ms: int = Field(
        500,
        ge=0,
        description="Rows carry a time this far ahead, so that training never reads a row earlier than "
        "serving could.",
    )
    profile_ttl_s: int = Field(7 * DAY_S, description="Age after which a user's profile is not served.")
    materialize_horizon_ms: int = Field(
        20_000,
        ge=0,
        description="Materialized rows carry a time this far ahead; a run that takes longer reports it.",
    )
    lake_flush_s: float = Field(10.0, gt=0, description="Longest time a record waits for its Parquet file.")
    lake_flush_records: int = Field(50_000, ge=1, description="Records of a topic that make a file at once.")
    text_model: str = Field(
        "", description="sentence-transformers name or path; empty: the packaged MiniLM; words: hashed words."
    )


class Deciding(BaseModel):
    """Rules of a new experiment that the environment may set (default: those of `Rules`), and counting."""

    unit: Unit = RULES.unit
    window_s: float = Field(RULES.window_s, description="Attribution window A.")
    lateness_s: float = Field(RULES.lateness_s, description="Allowed lateness L.")
    look_every_s: float = Field(RULES.look_every_s, description="Interval between looks of the decider.")
    min_new_units: int = RULES.min_new_units
    half_life_s: float = RULES.half_life_s
    stall_s: float = RULES.stall_s
    bandit_partitions: Partitions = Field(
        frozenset(), description="Partitions this worker counts, like `0-3,7`; empty: its group's share."
    )
    watermark_safety_s: float = Field(2.0, ge=0, description="Margin of the clock that moves the watermark.")

    @property
    def rules(self) -> Rules:
        """Rules of a new experiment of this installation."""
        return replace(RULES, **{name: getattr(self, name) for name in RULE_SETTINGS})


RULE_SETTINGS = tuple(name for name in Deciding.model_fields if hasattr(RULES, name))


class Observability(BaseModel):
    """Traces, metrics, logs."""

    trace_to: str = Field(
        "",
        description="OTLP collector, like http://127.0.0.1:4318 (ringside[tracing]); empty: no traces.",
    )
    trace_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of requests that begin a trace; one with a traceparent continues that trace.",
    )
    metrics_port: int = Field(
        0,
        ge=-1,
        le=65_535,
        description="Port of /metrics in every process. It takes no key, so keep it in a private network. "
        "0: a free port, which a file in `home`/metrics names; -1: no port.",
    )
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line, for machines.")


class Settings(Observability, Deciding, Data, Clients, Serving, Access, Storage, BaseSettings):
    """Settings that every process of one Ringside installation shares."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @field_validator(*RULE_SETTINGS)
    @classmethod
    def _valid_rule(cls, value: float | str, info: ValidationInfo) -> float | str:
        rule: dict[str, Any] = {str(info.field_name): value}
        try:
            replace(RULES, **rule)
        except ValueError as error:
            raise ValueError(str(error).partition(": ")[2]) from error
        return value

    @field_validator("bandit_partitions")
    @classmethod
    def _existing_partitions(cls, value: frozenset[int], info: ValidationInfo) -> frozenset[int]:
        count = info.data.get("kafka_partitions", 0)
        if count and value and max(value) >= count:
            raise ValueError(
                f"{max(value)} is not a partition in 0-{count - 1}; see RINGSIDE_KAFKA_PARTITIONS"
            )
        return value

    @property
    def experiments(self) -> ExperimentTable:
        """Experiment of each placement; today `experiment` serves them all."""
        return ExperimentTable(self.experiment)

    @property
    def replica_urls(self) -> tuple[str, ...]:
        """URLs of the recommend service's replicas, for its clients."""
        return self.recommend_url or (f"http://{self.host}:{self.recommend_port}",)

    @property
    def data_path(self) -> Path:
        """Imported data versions: `<home>/data/<data_version>/…` and `<home>/data/current` (a text file)."""
        return self.home / "data"

    @property
    def models_path(self) -> Path:
        """Model artifacts: `<home>/models/<model_version>/manifest.json` and arrays."""
        return self.home / "models"

    @property
    def lake_path(self) -> Path:
        """Parquet lake: `<home>/lake/<topic>/date=YYYY-MM-DD/hour=HH/…parquet`."""
        return self.home / "lake"

    @property
    def offline_path(self) -> Path:
        """Feast's offline sources: `<home>/offline/<source>/…parquet`."""
        return self.home / "offline"

    @property
    def kill_switch_path(self) -> Path:
        """While this file exists every replica serves the champion only, with or without Redis and Kafka."""
        return self.home / "champion-only"


def problems(error: ValidationError) -> list[str]:
    """One line for each invalid setting, with its variable and without its value, which may be a secret."""
    return [
        f"{PREFIX}{one['loc'][0]}".upper() + f": {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors(include_input=False)
    ]
