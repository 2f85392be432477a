"""The feature store Feast, for the processes that push, materialise and train.

Importing Feast costs seconds and hundreds of megabytes. So it is imported when a store is opened, and
/recommend never imports it (see services.adapters.feast.online_reader).
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

from services.adapters.feast.offline_files import OfflineFolder, rows_as_of
from services.adapters.redis.client import redis_errors
from services.errors import ConfigurationError
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
        # a day longer than the longest ttl, because rows are stamped ahead
        "RINGSIDE_FEAST_KEY_TTL_S": str(max(settings.activity_ttl_s, settings.profile_ttl_s) + 86_400),
        "FEAST_USAGE": "False",
    }


def registry_file(settings: Settings) -> Path:
    """Path of Feast's registry."""
    return settings.home / "feast.sqlite"


def connection_string(redis_url: str) -> str:
    """Translate `redis://…` to Feast's form, with timeouts and without redis-py's retries.

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
    """Undo what Feast does: it imports definitions.py by its bare name and changes the working directory."""
    before = Path.cwd()
    sys.path.insert(0, str(REPOSITORY))
    sys.modules.pop("definitions", None)  # because its content depends on the environment
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
        """See FeatureStore."""
        self._folder.prepare()
        apply(self._settings)

    def applied(self) -> bool:
        """See FeatureStore. A registry file proves nothing: opening Feast creates it, and `apply` fills it
        step by step, feature services last."""
        file = registry_file(self._settings)
        if not file.exists():
            return False
        try:
            with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as registry:
                return registry.execute("SELECT 1 FROM feature_services LIMIT 1").fetchone() is not None
        except sqlite3.OperationalError:  # no table yet, or locked by a writer
            return False

    def open(self) -> None:
        """See FeatureStore."""
        if not self.applied():
            self.apply()
        self._opened = self._opened or open_store(self._settings)

    def history(self, view: str, columns: Sequence[str] | None = None) -> pa.Table:
        """See FeatureStore."""
        return self._folder.read(view, columns)

    def append(self, view: str, rows: pa.Table, name: str) -> None:
        """See FeatureStore."""
        self._folder.append(view, rows, name)

    def extend(self, view: str, rows: pa.Table, name: str) -> None:
        """See FeatureStore."""
        self._folder.extend(view, rows, name)

    def write_online(self, view: str, rows: pa.Table) -> None:
        """See FeatureStore."""
        with redis_errors(self._settings):
            self.opened.write_to_online_store(view, df=rows.to_pandas())

    def materialize(self, views: Sequence[str], until: datetime) -> None:
        """See FeatureStore; this is `feast materialize-incremental`."""
        with redis_errors(self._settings), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of dask, about pandas' future
            self.opened.materialize_incremental(end_date=until, feature_views=list(views))

    def rows_as_of(
        self, view: str, features: Sequence[str], keys: Sequence[str], at_ms: Sequence[int]
    ) -> "pd.DataFrame":
        """See FeatureStore."""
        return rows_as_of(self.opened, view, features, keys, at_ms)

    @property
    def opened(self) -> "FeatureStore":
        """Feast's own store, imported and opened on first use."""
        if self._opened is None:
            if not self.applied():
                raise ConfigurationError("no feature view is registered: run `ringside features apply` first")
            self._opened = open_store(self._settings)
        return self._opened
