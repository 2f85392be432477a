"""Reading tables from CSV, Parquet and xlsx files into one form.

Every reader returns an Arrow table with the requested columns, typed, plus `sheet` (text, empty for files
without sheets) and `row` (line of the file, for error messages). Values of a wrong type are collected into
one FileValidationError.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import duckdb
import pyarrow as pa

from services.data_import.csv_reader import csv_query, quoted_path, unified_line_endings
from services.data_import.source_file import FORMATS
from services.data_import.validation_error import check_values
from services.errors import BadInputError

_TYPE_NAMES = {"DOUBLE": "a number", "TIMESTAMPTZ": "a time", "BOOLEAN": "true or false"}
_ADDED = {"sheet", "row"}
_TEXT_TYPES = ("VARCHAR", "TEXT")
_CASTS = {
    # Spreadsheets and pandas write the code 85048 as 85048.0.
    "VARCHAR": "nullif(regexp_replace(trim({}::VARCHAR), '^(-?[0-9]+)\\.0$', '\\1'), '')",
    "TEXT": "{}::VARCHAR",  # unchanged, with its blanks
    "DOUBLE": "TRY_CAST({} AS DOUBLE)",
    "BOOLEAN": "TRY_CAST({} AS BOOLEAN)",
}
# A time is ISO 8601 (without a zone: UTC), or seconds or milliseconds since the epoch. DuckDB accepts any two
# digits as hours of an offset, but no time zone is further than 14 hours from UTC.
_INVALID_OFFSET = r":[0-9.]+\s*[+-](1[5-9]|[2-9][0-9]|[0-9]{{2}}:?[6-9])"
_TIME_FROM_TEXT = (
    f"CASE WHEN regexp_matches({{0}}, '{_INVALID_OFFSET}') THEN NULL ELSE "
    "coalesce(TRY_CAST({0} AS TIMESTAMPTZ), CASE WHEN abs(TRY_CAST({0} AS DOUBLE)) BETWEEN 1e8 AND 1e11 THEN "
    "to_timestamp(TRY_CAST({0} AS DOUBLE)) WHEN abs(TRY_CAST({0} AS DOUBLE)) BETWEEN 1e11 AND 1e14 THEN "
    "to_timestamp(TRY_CAST({0} AS DOUBLE) / 1000) END) END"
)


def read(
    path: Path, columns: Mapping[str, str], optional: frozenset[str] = frozenset(), hint: str = ""
) -> pa.Table:
    """Read the `columns` (name -> DuckDB type) of a file; missing optional columns are read as nulls.

    hint: beginning of the message if a column is missing. Raises BadInputError (unknown format, empty file,
    missing or repeated column) or FileValidationError (values of a wrong type).
    """
    if not path.stat().st_size:
        raise BadInputError(path.name, "is empty")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        header = _load_raw(connection, path)
        if repeated := [name for name in columns if header.count(name) > 1]:
            raise BadInputError(path.name, f"has the column {repeated[0]!r} more than once")
        present = {row[0]: row[1] for row in connection.sql("DESCRIBE raw").fetchall()}
        missing = [name for name in columns if name not in present and name not in optional]
        if missing:
            others = ", ".join(sorted(present.keys() - _ADDED))
            raise BadInputError(path.name, f"{hint}has no column {missing[0]!r}; it has {others}")
        casts = {name: _cast(name, kind, present.get(name)) for name, kind in columns.items()}
        typed = ", ".join(f'{expression} AS "{name}"' for name, expression in casts.items())
        connection.execute(f"CREATE TEMP TABLE typed AS SELECT {typed}, sheet, row FROM raw")
        to_check = {
            name: casts[name] for name in columns if name in present and columns[name] not in _TEXT_TYPES
        }
        _check_types(connection, path.name, to_check, columns)
        return connection.sql("SELECT * FROM typed ORDER BY sheet, row").to_arrow_table()


def _load_raw(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Create the table `raw` with the file's columns as they are, `sheet` and `row`.

    Returns column names such that a repeated one occurs more than once; DuckDB itself renames it.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise BadInputError("source", f"{path.name}: {path.suffix!r} is not one of {', '.join(FORMATS)}")
    try:
        with unified_line_endings(path) if suffix == ".csv" else nullcontext(path) as readable:
            query, header = _query(connection, readable)
            connection.execute(f"CREATE TEMP TABLE raw AS {query}")
    except duckdb.Error as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise BadInputError("source", f"{path.name} can't be read: {reason}") from error
    return header


def _query(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, list[str]]:
    match path.suffix.lower():
        case ".csv":
            return csv_query(connection, path)
        case ".parquet":
            file = quoted_path(path)
            names = connection.sql(f"SELECT name FROM parquet_schema({file})").fetchall()
            query = f"SELECT *, '' AS sheet, row_number() OVER () AS row FROM read_parquet({file})"
            return query, [name for (name,) in names]
        case _:
            from services.data_import.xlsx_reader import read_workbook

            sheets, repeated = read_workbook(path)
            connection.register("sheets", sheets)
            return "SELECT * FROM sheets", repeated


def _cast(name: str, kind: str, present: str | None) -> str:
    """Return an SQL expression of type `kind`; `present`: the column's type in the file, None if missing."""
    if present is None:
        return f"NULL::{kind}"
    column = f'"{name}"'
    if kind != "TIMESTAMPTZ":
        return _CASTS[kind].format(column)
    if present.startswith(("TIMESTAMP", "DATE")):
        return f"{column}::TIMESTAMPTZ"
    return _TIME_FROM_TEXT.format(column)


def _check_types(
    connection: duckdb.DuckDBPyConnection, name: str, casts: Mapping[str, str], kinds: Mapping[str, str]
) -> None:
    """Raise FileValidationError with the values that are not empty and of which the cast is null."""
    wrong = {
        column: f"""nullif(trim("{column}"::VARCHAR), '') IS NOT NULL AND ({expression}) IS NULL"""
        for column, expression in casts.items()
    }
    rules = {column: f"is {_TYPE_NAMES[kinds[column]]}" for column in wrong}
    check_values(connection, name, "raw", wrong, rules)
