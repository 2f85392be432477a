"""Redis: sums and positions of the bandit workers; the cached experiment state, heartbeats and leases.

Everything a partition owns lies under one hash tag, `{bandit:<p>}`, so that one Lua script changes all of it
at once. Scripts work from Redis 6.2 on.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from experiments.lifecycle.fold import Experiment
from services.adapters.redis.pin_keys import complete_key
from services.errors import StalePositionError, UnavailableError
from services.ports.state import Heartbeat, Positions, Sums
from services.settings import Settings

logger = logging.getLogger(__name__)

_READ_ATTEMPTS = 5
_POSITIONS = ("log_id", "exposures", "events", "rebuild")


def connect(settings: Settings) -> redis.Redis:
    """A client whose deadline holds: no retries, because redis-py's default turns 50 ms into 7 s."""
    deadline_s = settings.state_deadline_ms / 1_000
    with reaching(settings.redis_url):
        return redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=deadline_s,
            socket_connect_timeout=deadline_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Whatever Redis can't do becomes one UnavailableError (credentials of the URL left out)."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise UnavailableError(
            f"Redis at {url.rsplit('@', 1)[-1]}", str(error) or type(error).__name__
        ) from error


@cache
def source(name: str) -> str:
    """A script of the folder `lua`."""
    return (files("services.adapters.redis") / "lua" / f"{name}.lua").read_text("utf-8")


_COUNT = re.compile(r"-?[0-9]{1,18}")  # the rule of apply_batch.lua: whatever is added, it stays in 64 bits


def _key(partition: int, name: str) -> str:
    return f"{{bandit:{partition}}}:{name}"


def _encode(positions: Positions | None) -> str:
    """Canonical text of positions, compared byte by byte in the script; '' for a partition never counted."""
    if positions is None:
        return ""
    said = {name: getattr(positions, name) for name in _POSITIONS}
    if positions.counts:  # left out where there was no recount: what an older version stored stays the same
        said["counts"] = positions.counts
    return msgspec.json.encode(said).decode()


def _decode(text: str | None) -> Positions | None:
    """Raises UnavailableError for what is no positions: without them nobody knows what the sums stand for."""
    try:
        return msgspec.json.decode(text, type=Positions) if text else None
    except msgspec.MsgspecError as error:
        raise UnavailableError(
            "Redis", f"{text[:200]!r} are no positions; delete that key, and its partition is counted again"
        ) from error


def _sums(key: str, kind: str, flat: Sequence[str]) -> Sums:
    """Raises ValueError for what is no sums, naming the field."""
    if kind not in ("hash", "none"):
        raise ValueError(f"{key} is a {kind}")
    sums: Sums = {}
    for name, count in zip(flat[::2], flat[1::2], strict=True):
        if not _COUNT.fullmatch(count):
            raise ValueError(f"{key}: '{name}' holds '{count[:40]}'")
        sums[name] = int(count)
    return sums


def _cached(experiment: str) -> str:
    return f"experiment:{experiment}"


def _state(experiment: str, revision: str | None, body: str | None) -> Experiment:
    """Raises MsgspecError or ValueError if this is no state of `experiment` as `put` stores it."""
    state = msgspec.json.decode(body or "", type=Experiment)
    if (state.name, str(state.revision)) != (experiment, revision):
        raise ValueError(f"it says {state.name}, revision {state.revision}, and is kept as {revision}")
    return state


class _OnRedis:
    """Connects at first use, so that a process starts without Redis; runs the scripts beside this file."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._scripts: dict[str, Any] = {}

    @cached_property
    def _redis(self) -> redis.Redis:
        return connect(self._settings)

    def _reaching(self) -> AbstractContextManager[None]:
        return reaching(self._settings.redis_url)

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        with self._reaching():
            if script not in self._scripts:
                self._scripts[script] = self._redis.register_script(source(script))
            return self._scripts[script](keys=keys, args=arguments)


class RedisSumStore(_OnRedis):
    """ports.SumStore on Redis."""

    def load(self, partition: int) -> tuple[Positions | None, dict[str, Sums]]:
        """Positions and sums as of one moment: read again while a batch lands in between."""
        for _ in range(_READ_ATTEMPTS):
            with self._reaching():
                before = self._redis.get(_key(partition, "positions"))
                names = sorted(self._redis.smembers(_key(partition, "experiments")))
                rows = self._read([(partition, name) for name in names])
            if all(row[0] == before for row in rows):
                try:
                    return _decode(before), {
                        name: _sums(_key(partition, f"sums:{name}"), *row[2:])
                        for name, row in zip(names, rows, strict=True)
                    }
                except ValueError as error:
                    raise UnavailableError("Redis", str(error)) from error
        raise UnavailableError(
            "Redis", f"the sums of partition {partition} moved during {_READ_ATTEMPTS} reads"
        )

    def positions(self, partitions: Iterable[int]) -> dict[int, Positions]:
        """One pipeline."""
        asked = list(partitions)
        with self._reaching():
            pipeline = self._redis.pipeline(transaction=False)
            for partition in asked:
                pipeline.get(_key(partition, "positions"))
            found = zip(asked, map(_decode, pipeline.execute()), strict=True)
        return {partition: at for partition, at in found if at is not None}

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        forget: Iterable[str] = (),
    ) -> None:
        """One script: all of the batch, or StalePositionError. After an UnavailableError either may have
        happened: load again."""
        if fetched_from == moved_to and deltas:
            raise ValueError(
                f"partition {partition}: a batch that moves no position would count twice on a retry"
            )
        forgotten = [_key(partition, f"sums:{experiment}") for experiment in forget]
        keys = [_key(partition, "positions"), _key(partition, "experiments"), *forgotten]
        arguments: list[str | int] = [_encode(fetched_from), _encode(moved_to), len(forgotten)]
        for experiment, sums in deltas.items():
            keys.append(_key(partition, f"sums:{experiment}"))
            arguments += [experiment, len(sums), *(part for pair in sums.items() for part in pair)]
        if not self._run("apply_batch", keys, arguments):
            raise StalePositionError(f"partition {partition} no longer stands at {fetched_from}")

    def set_watermark(self, partition: int, watermark_ms: int, lag: int) -> None:
        """Stored as "<watermark>|<records behind>"."""
        with self._reaching():
            self._redis.set(_key(partition, "watermark"), f"{watermark_ms}|{lag}")

    def load_all(
        self, experiment: str, partitions: int, generation: int = 0
    ) -> tuple[Sums, dict[str, int], int | None]:
        """Each partition as of one moment, in a round trip of its own: asked for all at once, Redis answers
        nobody else until it has read them, and slates would be late at every look."""
        total: Sums = {}
        positions: dict[str, int] = {}
        marks: list[int] = []
        for partition in range(partitions):
            with self._reaching():
                [(stored, mark, kind, flat)] = self._read([(partition, experiment)])
            at = _decode(stored)
            if (at.generation(experiment) if at else 0) != generation:
                continue
            sums = _sums(_key(partition, f"sums:{experiment}"), kind, flat)
            for field, count in sums.items():
                total[field] = total.get(field, 0) + count
            if at is not None:
                positions |= {f"exposures/{partition}": at.exposures, f"events/{partition}": at.events}
            marks += [int(ms) for ms in (mark or "").split("|")[:1] if ms.isdigit()]
        return total, positions, min(marks) if len(marks) == partitions else None

    def report_loss(self, partition: int, message: str) -> None:
        """Kept until acknowledged."""
        with self._reaching():
            self._redis.set(_key(partition, "loss"), message)

    def losses(self) -> dict[int, str]:
        """Of all partitions that the settings name."""
        with self._reaching():
            pipeline = self._redis.pipeline(transaction=False)
            for partition in range(self._settings.kafka_partitions):
                pipeline.get(_key(partition, "loss"))
            return {partition: text for partition, text in enumerate(pipeline.execute()) if text}

    def acknowledge_loss(self, partition: int, message: str) -> bool:
        """One script: the stored positions are remembered and the report is dropped, or nothing happens."""
        keys = [_key(partition, name) for name in ("loss", "positions", "accepted")]
        return bool(self._run("settle_loss", keys, [message]))

    def withdraw_loss(self, partition: int, message: str) -> None:
        """The same script, which remembers no positions."""
        self._run("settle_loss", [_key(partition, "loss")], [message])

    def loss_acknowledged(self, partition: int, positions: Positions | None) -> bool:
        """Whether the loss at exactly these positions was accepted; moving on uses the acceptance up."""
        with self._reaching():
            return self._redis.get(_key(partition, "accepted")) == _encode(positions)

    def _read(self, pairs: Sequence[tuple[int, str]]) -> list[Any]:
        # EVAL, not EVALSHA: in a pipeline nobody could answer NOSCRIPT, and the source is short.
        pipeline = self._redis.pipeline(transaction=False)
        for partition, experiment in pairs:
            keys = [_key(partition, name) for name in ("positions", "watermark", f"sums:{experiment}")]
            pipeline.execute_command("EVAL", source("read_sums"), len(keys), *keys)
        return pipeline.execute()


class RedisStateCache(_OnRedis):
    """ports.StateCache on Redis."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._refused: set[str] = set()  # the last body that was no heartbeat: said once

    def put(self, state: Experiment) -> bool:
        """Compared by revision on the server."""
        body = msgspec.json.encode(state).decode()
        return bool(self._run("put_newer", [_cached(state.name)], [state.revision, body]))

    def get(self, experiment: str) -> Experiment | None:
        """None if nothing is cached. What is no state of this experiment is said, removed, and nothing."""
        raw = self._run("get_state", [_cached(experiment)], [])
        if raw is None:
            return None
        try:
            return _state(experiment, *raw)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.error("%s holds no state and is removed: %s", _cached(experiment), error)
        self._run("drop_rubbish", [_cached(experiment)], raw)
        return None

    def put_heartbeat(self, heartbeat: Heartbeat, ttl_s: float) -> None:
        """The server's clock decides when it expires."""
        body = msgspec.json.encode(heartbeat).decode()
        self._beats([heartbeat.replica, body, int(ttl_s * 1_000)])

    def heartbeats(self) -> list[Heartbeat]:
        """By name of the replica."""
        live = filter(None, map(self._heartbeat, self._beats([])))
        return sorted(live, key=lambda heartbeat: heartbeat.replica)

    def _heartbeat(self, body: str) -> Heartbeat | None:
        try:
            return msgspec.json.decode(body, type=Heartbeat)
        except msgspec.MsgspecError as error:
            if body not in self._refused:
                logger.error("not a heartbeat, passed over: %s", error)
                self._refused = {body}
            return None

    def mark_complete(self, experiment: str) -> None:
        """One SET."""
        with self._reaching():
            self._redis.set(complete_key(experiment), 1)

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """One script takes or renews."""
        return bool(self._run("lease", [f"lease:{name}"], [holder, int(ttl_s * 1_000)]))

    def _beats(self, arguments: Sequence[str | int]) -> list[str]:
        return self._run("beat", ["{heartbeats}:bodies", "{heartbeats}:expiry"], arguments)
