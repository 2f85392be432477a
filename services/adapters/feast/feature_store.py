"""Feast itself, for the processes that push, materialise and train. Importing it costs seconds and hundreds
of megabytes, so it happens when a store is opened, and /recommend never does
(services.adapters.feast.online_reader).
"""

import json
import os
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import redis

from services.adapters.feast.offline_files import OfflineFolder, rows_as_of
from services.errors import ConfigurationError, UnavailableError
from services.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

REPOSITORY = Path(__file__).parents[3] / "feature_repo"
REDIS_TIMEOUT_S = 2.0


def environment(settings: Settings) -> dict[str, str]:
    """Variables that feature_store.yaml and definitions.py read."""
    return {
        "RINGSIDE_FEAST_HOME": str(settings.home.resolve()),
        "RINGSIDE_FEAST_REGISTRY": f"sqlite:///{registry_file(settings).resolve()}",
        "RINGSIDE_FEAST_REDIS": connection_string(settings.redis_url),
        "RINGSIDE_ACTIVITY_TTL_S": str(settings.activity_ttl_s),
        "RINGSIDE_PROFILE_TTL_S": str(settings.profile_ttl_s),
        # a day longer than anything is served: rows are stamped ahead
        "RINGSIDE_FEAST_KEY_TTL_S": str(max(settings.activity_ttl_s, settings.profile_ttl_s) + 86_400),
        "FEAST_USAGE": "False",
    }


def registry_file(settings: Settings) -> Path:
    """Where Feast keeps what is registered."""
    return settings.home / "feast.sqlite"


def connection_string(redis_url: str) -> str:
    """`redis://…` as Feast writes it, with timeouts and without redis-py's retries (they turn .05 s into 7
    s).

    >>> connection_string("redis://127.0.0.1:6379/2").split(",")[:2]
    ['127.0.0.1:6379', 'db=2']
    """
    parts = urlsplit(redis_url)
    options: dict[str, object] = {"db": int(parts.path.strip("/") or 0)}
    options |= {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S, "retry": None}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
        if "," in str(options["password"]):
            raise ConfigurationError("RINGSIDE_REDIS_URL: Feast can't take a password with a comma")
    if parts.scheme == "rediss":
        options["ssl"] = True
    pairs = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()
    ]
    return ",".join([f"{parts.hostname or '127.0.0.1'}:{parts.port or 6379}", *pairs])


def open_store(settings: Settings) -> "FeatureStore":
    """Feast's FeatureStore of this installation. Sets the variables that its repository reads."""
    os.environ.update(environment(settings))
    from feast import FeatureStore

    return FeatureStore(repo_path=str(REPOSITORY))


def apply(settings: Settings) -> None:
    """`feast apply`: register entities, views and services; idempotent. Sources must hold a file each."""
    os.environ.update(environment(settings))
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    with _inside_repository():
        config = load_repo_config(REPOSITORY, REPOSITORY / "feature_store.yaml")
        apply_total(config, REPOSITORY, skip_source_validation=True)


@contextmanager
def _inside_repository() -> Iterator[None]:
    """Feast imports definitions.py by its bare name and changes the working directory; undo both."""
    before = Path.cwd()
    sys.path.insert(0, str(REPOSITORY))
    sys.modules.pop("definitions", None)  # its content depends on the environment
    try:
        yield
    finally:
        sys.modules.pop("definitions", None)
        sys.path.remove(str(REPOSITORY))
        os.chdir(before)


class FeastFeatureStore:
    """See `services.ports.FeatureStore`. Feast is imported by the first call that needs it."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._folder = OfflineFolder(settings.offline_path)
        self._opened: FeatureStore | None = None

    def apply(self) -> None:
        """Register entities, views and services; idempotent."""
        self._folder.prepare()
        apply(self._settings)

    def applied(self) -> bool:
        """Whether views are registered here; costs no import of Feast. The file alone says nothing: whoever
        opens Feast makes it, and `apply` fills it bit by bit, with feature services last."""
        file = registry_file(self._settings)
        if not file.exists():
            return False
        try:
            with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as registry:
                return registry.execute("SELECT 1 FROM feature_services LIMIT 1").fetchone() is not None
        except sqlite3.OperationalError:  # no table yet, or somebody is just writing
            return False

    def open(self) -> None:
        """Import Feast and open what is registered here, registering it first where nothing is."""
        if not self.applied():
            self.apply()
        self._opened = self._opened or open_store(self._settings)

    def history(self, view: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Every row of a view's offline history."""
        return self._folder.read(view, columns)

    def append(self, view: str, rows: pa.Table, name: str) -> None:
        """Add a file of rows to a view's offline history; the same name replaces it."""
        self._folder.append(view, rows, name)

    def extend(self, view: str, rows: pa.Table, name: str) -> None:
        """Add rows to a file of a view's offline history; rows that it holds already change nothing."""
        self._folder.extend(view, rows, name)

    def write_online(self, view: str, rows: pa.Table) -> None:
        """Load rows into the online store; one that is not later than the row there is dropped by Feast."""
        with answering():
            self.opened.write_to_online_store(view, df=rows.to_pandas())

    def materialize(self, views: Sequence[str], until: datetime) -> None:
        """`feast materialize-incremental`: the latest rows up to `until` go online."""
        with answering(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dask, about pandas' future
            self.opened.materialize_incremental(end_date=until, feature_views=list(views))

    def rows_as_of(
        self, view: str, features: Sequence[str], keys: Sequence[str], at_ms: Sequence[int]
    ) -> "pd.DataFrame":
        """Rows point-in-time; see `services.adapters.feast.offline_files.rows_as_of`."""
        return rows_as_of(self.opened, view, features, keys, at_ms)

    @property
    def opened(self) -> "FeatureStore":
        """Feast's own store, imported and opened on first use."""
        if self._opened is None:
            if not self.applied():
                raise ConfigurationError("Feast knows no views here: run `ringside features apply` first")
            self._opened = open_store(self._settings)
        return self._opened


@contextmanager
def answering() -> Iterator[None]:
    """Turn what redis-py raises when Redis doesn't answer, or can't (out of memory), into
    UnavailableError."""
    try:
        yield
    except redis.RedisError as error:
        raise UnavailableError("Redis", str(error)) from error
