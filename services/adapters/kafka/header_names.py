"""A patch that lets kafka-python read header names that are not UTF-8.

Brokers accept any bytes. kafka-python decodes names as UTF-8, rejects the record, and its next `poll` never
returns. So one record would stop every reader of its partition for good.
"""

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


class LenientHeaderBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A record batch (message format 2). In names that are not UTF-8 each byte outside ASCII is read as
    `?`."""

    _buffer: bytes | bytearray

    def _read_msg(self, **options: Any) -> Any:
        try:
            return super()._read_msg(**options)
        except UnicodeDecodeError:
            self._buffer = _LenientBytes(self._buffer)
            return super()._read_msg(**options)


class _LenientBytes(bytes):
    """Bytes whose parts can all be decoded. Only names are: keys and values are copied to plain bytes."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _LenientBytes(part) if isinstance(part, bytes) else part

    def decode(self, *options: Any) -> str:
        try:
            return super().decode(*options)
        except UnicodeDecodeError:
            return "".join(chr(byte) if byte < 0x80 else "?" for byte in self)


def patch_kafka_python() -> None:
    """Make the consumers of kafka-python read batches as LenientHeaderBatch; idempotent."""
    memory_records.DefaultRecordBatch = LenientHeaderBatch
