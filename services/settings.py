"""Configuration: every value comes from the environment (`RINGSIDE_…`) or from its default here."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.experiment_table import ExperimentTable

EXPERIMENT_NAME = r"^[A-Za-z0-9._-]{1,64}$"  # as the HTTP API reaches one by its path


class Settings(BaseSettings):
    """What every process of one Ringside installation agrees on.

    Durations end in `_s` (seconds) or `_ms` (milliseconds). Secrets have no default.
    """

    model_config = SettingsConfigDict(env_prefix="RINGSIDE_", extra="ignore", frozen=True)

    # Where things are
    home: Path = Field(Path("var"), description="Folder for data, models, lake, registry, logs.")
    data_dir: Path | None = Field(None, description="Folder with real data sets; tests and demo only.")
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)
    state_deadline_ms: int = Field(1_000, ge=1, description="For Redis where no slate waits.")
    kafka_bootstrap: str = "127.0.0.1:9092"
    kafka_mode: Literal["embedded", "kafka"] = Field(
        "embedded", description="embedded: the broker in the confluent-kafka wheel; kafka: Apache Kafka."
    )
    kafka_partitions: int = Field(
        4, ge=1, description="Of `exposures` and `events`; fixed at creation (Kafka: 32)."
    )
    mlflow_uri: str = Field("", repr=False, description="MLflow tracking URI; empty: SQLite under `home`.")
    experiment: str = Field(
        "storefront",
        pattern=EXPERIMENT_NAME,
        description="Id of the experiment that decides the slates of every placement.",
    )

    # Who may do what: "role=sha256hex" pairs, comma separated; several keys a role allow rotation.
    keys: str = Field(
        "", repr=False, description="storefront=…,analyst=…,admin=…; made by `ringside keys new`."
    )
    keys_file: str = Field(
        "", description="More such pairs, one a line; read again within a second when the file changes."
    )
    signing_key: str = Field(
        "", repr=False, description="Secret that signs recommendation ids; comma separated: newest first."
    )
    rates: str = Field(
        "analyst=20,admin=50,client=20",
        description="Requests a second that a key of a role, and a client (an address outside of "
        "`own_networks`), may send to the workers of one `ringside recommend` together; what is not named is "
        "not limited.",
    )
    rate_burst_s: float = Field(10.0, gt=0, description="So many seconds' worth may come at once.")
    own_networks: str = Field(
        "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7",
        description="Shop servers and proxies: not clients; their X-Forwarded-For is believed.",
    )
    client_connections: int = Field(
        250,
        ge=1,
        description="Connections that a client may have at once, at each process. A browser keeps one or a "
        "few for 5 s: enough for all behind one address who together send what `rates` lets them.",
    )
    cors_origins: str = Field("*", description="Origins from which browsers may send events.")

    # Serving
    host: str = "127.0.0.1"
    recommend_port: int = 8080
    recommend_workers: int = Field(1, ge=1)
    drain_s: float = Field(
        5.0, ge=0, description="A stopping replica answers kept connections this long, asking them to close."
    )
    console_port: int = 8081
    shop_port: int = 8082
    replica: str = Field("", description="Name of this process; empty: host and pid.")
    redis_deadline_ms: int = Field(40, ge=1, description="For the one read of /recommend.")
    broker_ack_deadline_ms: int = Field(2_000, ge=1, description="For the acknowledgement of POST /events.")
    producer_queue: int = Field(
        10_000, ge=1, description="Records that wait for the broker before new ones fail."
    )
    rank_deadline_ms: int = Field(60, ge=1)
    shed_lag_ms: float = Field(
        20.0, ge=0, description="Storefront requests are shed while the event loop lags this much; 0: never."
    )
    state_cutoff_s: float = Field(30.0, description="Champion only after this long without experiment state.")
    refresh_s: float = Field(0.5, description="How often replicas look for new state, models and items.")
    placements: str = Field(
        "home,category,search,item,cart,email,discover,buy_again",
        description="Known placements, comma separated; `buy_again` may show what the user has bought.",
    )
    category_share: float = Field(0.5, gt=0, le=1, description="Largest share of a slate from one category.")
    max_body_bytes: int = Field(1_048_576, ge=1_024, description="Larger requests are answered 413.")
    recommendation_ttl_s: float = Field(86_400.0, description="Events may name a slate this long.")
    heartbeat_s: float = Field(
        1.0, description="Replicas report what they have loaded; expires after 5 times this."
    )

    # The sample shop and simulated shoppers: clients of the public HTTP contract
    recommend_url: str = Field(
        "", description="Where they call; several replicas comma separated. Empty: host and recommend_port."
    )
    storefront_key: str = Field("", repr=False, description="The storefront key with which they call.")
    shop_events_url: str = Field(
        "", description="Where browsers in the shop send events; empty: the first `recommend_url`."
    )
    shop_users: str = Field("", description="User ids that the shop offers to slip into, comma separated.")
    shop_currency: str = Field("£", description="Sign in front of the shop's prices.")

    # Data
    import_max_bytes: int = Field(
        4 << 30, ge=1, description="Largest file that `ringside data import` fetches or unpacks."
    )

    # Features
    recent_items: int = Field(50, ge=1)
    activity_flush_ms: int = Field(50, ge=1, description="Longest wait of an event for its Feast push.")
    activity_ttl_s: int = Field(
        90 * 86_400,
        description="Age after which recent activity is not served. Longer knows more of who comes seldom, "
        "and keeps the rows of guests who never come back for as long in Redis.",
    )
    activity_horizon_ms: int = Field(
        500, ge=0, description="Rows are stamped this far ahead, so that none is readable before its time."
    )
    profile_ttl_s: int = Field(7 * 86_400, description="Age after which a user's profile is not served.")
    materialize_horizon_ms: int = Field(
        20_000,
        ge=0,
        description="Materialised rows are stamped this far ahead; a run that takes longer says so.",
    )
    lake_flush_s: float = Field(10.0, gt=0, description="Longest time a record waits for its Parquet file.")
    lake_flush_records: int = Field(50_000, ge=1, description="Records of a topic that make a file at once.")

    # Deciding: defaults of a new experiment's rules (experiments.lifecycle.fold.Rules)
    unit: Literal["request", "session", "user_day"] = "session"
    window_s: float = Field(1_800.0, description="Attribution window A.")
    lateness_s: float = Field(120.0, description="Allowed lateness L.")
    look_every_s: float = Field(300.0, description="Between two looks of the decider.")
    min_new_units: int = 200
    half_life_s: float = 7 * 86_400.0
    stall_s: float = 900.0
    bandit_partitions: str = Field(
        "", description="Like `0-3,7`: counted by this worker; empty: a group's share."
    )
    watermark_safety_s: float = Field(2.0, ge=0, description="Margin of the clock that moves the watermark.")

    # Text embeddings
    text_model: str = Field(
        "", description="sentence-transformers name or path; empty: the packaged MiniLM; words: hashed words."
    )

    # Seen from outside
    trace_to: str = Field(
        "",
        description="OTLP collector, like http://127.0.0.1:4318 (ringside[tracing]); empty: no traces.",
    )
    trace_share: float = Field(
        0.01, ge=0, le=1, description="Of requests that begin a trace; those with a traceparent follow it."
    )
    metrics_port: int = Field(
        0,
        ge=-1,
        le=65_535,
        description="/metrics of every process, without a key: for a private network. 0: a free port, named "
        "in `home`/metrics; -1: none.",
    )
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line, for machines.")

    @property
    def experiments(self) -> ExperimentTable:
        """Experiment of each placement; today `experiment` serves them all."""
        return ExperimentTable(self.experiment)

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
