"""A patch that lets kafka-python read header names that are not UTF-8.

Brokers accept any bytes. kafka-python decodes names as UTF-8, rejects the record, and its next `poll` never
returns. So one record would stop every reader of its partition for good.
"""

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint


class LenientHeaderBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A record batch (message format 2). In names that are not UTF-8 each byte outside ASCII is read as
    `?`."""

    _buffer: bytes | bytearray
    _pos: int

    def _read_msg(self, **options: Any) -> Any:
        try:
            return super()._read_msg(**options)
        except UnicodeDecodeError:
            self._buffer = _readable(self._buffer, self._pos)
            return super()._read_msg(**options)


def patch_kafka_python() -> None:
    """Make the consumers of kafka-python read batches as LenientHeaderBatch; idempotent."""
    memory_records.DefaultRecordBatch = LenientHeaderBatch


def _readable(buffer: bytes | bytearray, start: int) -> bytearray:
    """Copy `buffer` with readable names in the record that begins at `start` (layout: message format 2)."""
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
    """Position after a value whose length precedes it (-1: null)."""
    length, pos = decode_varint(buffer, pos)
    return int(pos + max(0, length))
