"""Records as kafka-python reads them, with any bytes as the name of a header.

Brokers take any bytes. kafka-python decodes them as UTF-8, refuses the record, and its next `poll` never
returns: one record would stop every reader of its partition for good.
"""

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint


class LenientHeaderBatch(DefaultRecordBatch):
    """A batch (message format 2) in which names that are no UTF-8 have `?` for each byte that is no ASCII."""

    __slots__ = ()

    def _read_msg(self, **options: Any) -> Any:
        try:
            return super()._read_msg(**options)
        except UnicodeDecodeError:
            self._buffer = _readable(self._buffer, self._pos)
            return super()._read_msg(**options)


def patch_kafka_python() -> None:
    """From now on kafka-python's consumers read batches as ours; idempotent."""
    memory_records.DefaultRecordBatch = LenientHeaderBatch


def _readable(buffer: bytes | bytearray, start: int) -> bytearray:
    """`buffer` with readable names in the record that begins at `start`. Layout: Kafka's message format 2."""
    changed = bytearray(buffer)
    _, pos = decode_varint(changed, start)  # length
    pos += 1  # attributes
    for _ in ("timestamp", "offset"):
        _, pos = decode_varint(changed, pos)
    for _ in ("key", "value"):
        pos = _after(changed, pos)
    headers, pos = decode_varint(changed, pos)
    for _ in range(headers):
        length, first = decode_varint(changed, pos)
        name = changed[first : first + length]
        try:
            name.decode()
        except UnicodeDecodeError:
            changed[first : first + length] = bytes(byte if byte < 0x80 else ord("?") for byte in name)
        pos = _after(changed, first + length)
    return changed


def _after(buffer: bytearray, pos: int) -> int:
    """Where a value with its length before it (-1: null) ends."""
    length, pos = decode_varint(buffer, pos)
    return pos + max(0, length)
