"""SQL over Arrow tables, and the latest rows of a history."""

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def query(sql: str, tables: Mapping[str, pa.Table], **parameters: object) -> pa.Table:
    """Return the result of a DuckDB query over `tables` (by name). Times are read and returned in UTC."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql, params=parameters or None).to_arrow_table()


def latest_rows(history: pa.Table, key: str) -> pa.Table:
    """Return the latest row of each key by event timestamp; of equal ones the last in the table."""
    if not history.num_rows:
        return history
    codes = pc.dictionary_encode(history[key].combine_chunks()).indices.to_numpy()
    order = np.lexsort((pc.cast(history["event_timestamp"], pa.int64()).to_numpy(), codes))
    last = np.append(np.diff(codes[order]) != 0, True)
    return history.take(order[last])
