"""Sums and positions of the attribution workers in Redis.

All keys of a partition have one hash tag, so that one Lua script changes all of them at once.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from services.adapters.redis import keys
from services.adapters.redis.client import RedisStore, script_source, text_of
from services.errors import StalePositionError, UnavailableError
from services.ports.state import Positions, Sums

_READ_ATTEMPTS = 5
_POSITIONS = ("log_id", "exposures", "events", "rebuild")
_COUNT = re.compile(r"-?[0-9]{1,18}")  # as in apply_batch.lua: a sum of two of them fits in 64 bits


def _encode(positions: Positions | None) -> str:
    """Canonical text of positions, which scripts compare byte by byte; "" for a partition never counted."""
    if positions is None:
        return ""
    fields = {name: getattr(positions, name) for name in _POSITIONS}
    if positions.counts:  # left out if there was no recount, as older versions stored it
        fields["counts"] = positions.counts
    return msgspec.json.encode(fields).decode()


def _decode(stored: str | None) -> Positions | None:
    """Raises UnavailableError if these are no positions, because then the sums mean nothing."""
    try:
        return msgspec.json.decode(stored, type=Positions) if stored else None
    except msgspec.MsgspecError as error:
        raise UnavailableError(
            "Redis",
            f"{str(stored)[:200]!r} are no positions; delete that key, and its partition is counted again",
        ) from error


def _decode_sums(key: str, kind: str, flat: Sequence[str]) -> Sums:
    """Raises ValueError, naming key and field, if a stored value is no count."""
    if kind not in ("hash", "none"):
        raise ValueError(f"{key} is a {kind}")
    sums: Sums = {}
    for name, count in zip(flat[::2], flat[1::2], strict=True):
        if not _COUNT.fullmatch(count):
            raise ValueError(f"{key}: '{name}' holds '{count[:40]}'")
        sums[name] = int(count)
    return sums


class RedisSumStore(RedisStore):
    """ports.SumStore on Redis."""

    def load(self, partition: int) -> tuple[Positions | None, dict[str, Sums]]:
        """See SumStore. It reads again if a batch was applied in between."""
        for _ in range(_READ_ATTEMPTS):
            with self._errors():
                before = text_of(self._redis.get(keys.positions(partition)))
                names = sorted(map(text_of, self._redis.smembers(keys.experiments(partition))))
                rows = self._read([(partition, name) for name in names])
            if all((row[0] or "") == before for row in rows):
                try:
                    return _decode(before), {
                        name: _decode_sums(keys.sums(partition, name), *row[2:])
                        for name, row in zip(names, rows, strict=True)
                    }
                except ValueError as error:
                    raise UnavailableError("Redis", str(error)) from error
        raise UnavailableError(
            "Redis", f"the sums of partition {partition} changed during each of {_READ_ATTEMPTS} reads"
        )

    def positions(self, partitions: Iterable[int]) -> dict[int, Positions]:
        """See SumStore; one pipeline."""
        requested = list(partitions)
        with self._errors():
            pipeline = self._redis.pipeline(transaction=False)
            for partition in requested:
                pipeline.get(keys.positions(partition))
            stored = zip(requested, map(_decode, pipeline.execute()), strict=True)
        return {partition: at for partition, at in stored if at is not None}

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        drop: Iterable[str] = (),
    ) -> None:
        """See SumStore. After an UnavailableError the batch may be applied or not, so load again."""
        if fetched_from == moved_to and deltas:
            raise ValueError(
                f"partition {partition}: a batch that moves no position would count twice on a retry"
            )
        dropped = [keys.sums(partition, experiment) for experiment in drop]
        names = [keys.positions(partition), keys.experiments(partition), *dropped]
        arguments: list[str | int] = [_encode(fetched_from), _encode(moved_to), len(dropped)]
        for experiment, sums in deltas.items():
            names.append(keys.sums(partition, experiment))
            arguments += [experiment, len(sums), *(part for pair in sums.items() for part in pair)]
        if not self._run_script("apply_batch", names, arguments):
            raise StalePositionError(f"partition {partition} is no longer at positions {fetched_from}")

    def set_watermark(self, partition: int, watermark_ms: int, lag: int) -> None:
        """See SumStore."""
        with self._errors():
            self._redis.set(keys.watermark(partition), f"{watermark_ms}|{lag}")

    def load_all(
        self, experiment: str, partitions: int, generation: int = 0
    ) -> tuple[Sums, dict[str, int], int | None]:
        """See SumStore. Each partition takes one round trip. If one request read all of them, Redis would
        answer nothing else meanwhile, and slates would be late at every look."""
        total: Sums = {}
        positions: dict[str, int] = {}
        marks: list[int] = []
        for partition in range(partitions):
            with self._errors():
                [(stored, mark, kind, flat)] = self._read([(partition, experiment)])
            at = _decode(stored)
            if (at.generation(experiment) if at else 0) != generation:
                continue
            sums = _decode_sums(keys.sums(partition, experiment), kind, flat)
            for field, count in sums.items():
                total[field] = total.get(field, 0) + count
            if at is not None:
                positions |= {f"exposures/{partition}": at.exposures, f"events/{partition}": at.events}
            marks += [int(ms) for ms in (mark or "").split("|")[:1] if ms.isdigit()]
        return total, positions, min(marks) if len(marks) == partitions else None

    def report_loss(self, partition: int, message: str) -> None:
        """See SumStore."""
        with self._errors():
            self._redis.set(keys.loss(partition), message)

    def losses(self) -> dict[int, str]:
        """See SumStore."""
        with self._errors():
            pipeline = self._redis.pipeline(transaction=False)
            for partition in range(self._settings.kafka_partitions):
                pipeline.get(keys.loss(partition))
            return {partition: text for partition, text in enumerate(pipeline.execute()) if text}

    def acknowledge_loss(self, partition: int, message: str) -> bool:
        """See SumStore; one script stores the positions and deletes the report."""
        names = [keys.loss(partition), keys.positions(partition), keys.accepted_loss(partition)]
        return bool(self._run_script("settle_loss", names, [message]))

    def withdraw_loss(self, partition: int, message: str) -> None:
        """See SumStore; the same script, which stores no positions."""
        self._run_script("settle_loss", [keys.loss(partition)], [message])

    def loss_acknowledged(self, partition: int, positions: Positions | None) -> bool:
        """See SumStore. Positions that moved on no longer match the accepted ones."""
        with self._errors():
            return self._redis.get(keys.accepted_loss(partition)) == _encode(positions)

    def _read(self, pairs: Sequence[tuple[int, str]]) -> list[Any]:
        # EVAL, not EVALSHA, because a pipeline cannot load a missing script and go on; the source is short.
        pipeline = self._redis.pipeline(transaction=False)
        for partition, experiment in pairs:
            names = (keys.positions(partition), keys.watermark(partition), keys.sums(partition, experiment))
            pipeline.eval(script_source("read_sums"), len(names), *names)
        return pipeline.execute()
