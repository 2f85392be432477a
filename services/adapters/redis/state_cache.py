"""Cached experiment state, heartbeats of the replicas and leases in Redis."""

import logging
from collections.abc import Sequence

import msgspec

from experiments.lifecycle.state import Experiment
from services.adapters.redis import keys
from services.adapters.redis.client import RedisStore, text_of
from services.ports.state import Heartbeat
from services.settings import Settings

logger = logging.getLogger(__name__)


class RedisStateCache(RedisStore):
    """ports.StateCache on Redis."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self._unreadable_heartbeat = ""  # the one that was logged last

    def put(self, state: Experiment) -> bool:
        """See StateCache; a script compares the revisions."""
        body = msgspec.json.encode(state).decode()
        return bool(
            self._run_script("put_newer", [keys.experiment_state(state.name)], [state.revision, body])
        )

    def get(self, experiment: str) -> Experiment | None:
        """See StateCache. A state that cannot be decoded, perhaps of another version of Ringside, is
        deleted."""
        key = keys.experiment_state(experiment)
        with self._errors():
            body = text_of(self._redis.hget(key, "body"))
            try:
                return msgspec.json.decode(body, type=Experiment) if body else None
            except msgspec.MsgspecError as error:
                logger.error("%s holds no state and is deleted: %s", key, error)
                self._redis.delete(key)
                return None

    def put_heartbeat(self, heartbeat: Heartbeat, ttl_s: float) -> None:
        """See StateCache; it expires by the clock of the server."""
        body = msgspec.json.encode(heartbeat).decode()
        self._heartbeats([heartbeat.replica, body, int(ttl_s * 1_000)])

    def heartbeats(self) -> list[Heartbeat]:
        """See StateCache; sorted by the name of the replica."""
        live = filter(None, map(self._decode_heartbeat, self._heartbeats([])))
        return sorted(live, key=lambda heartbeat: heartbeat.replica)

    def mark_complete(self, experiment: str) -> None:
        """See StateCache."""
        with self._errors():
            self._redis.set(keys.pins_complete(experiment), 1)

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """See StateCache; one script acquires or renews."""
        return bool(self._run_script("lease", [keys.lease(name)], [holder, int(ttl_s * 1_000)]))

    def _heartbeats(self, arguments: Sequence[str | int]) -> Sequence[str]:
        bodies: Sequence[str] = self._run_script(
            "heartbeats", [keys.HEARTBEAT_BODIES, keys.HEARTBEAT_EXPIRY], arguments
        )
        return bodies

    def _decode_heartbeat(self, body: str) -> Heartbeat | None:
        """None for one of another version of Ringside; it is logged once."""
        try:
            return msgspec.json.decode(body, type=Heartbeat)
        except msgspec.MsgspecError as error:
            if body != self._unreadable_heartbeat:
                logger.error("a heartbeat is ignored because it cannot be decoded: %s", error)
                self._unreadable_heartbeat = body
            return None
