"""Reading CSV with DuckDB: encodings, mixed line endings, and quotes that DuckDB's detection gets wrong."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import duckdb

from services.data_import.validation_error import check_values

LONGEST_LINE = 1 << 20  # bytes read at once


def csv_query(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, list[str]]:
    """Return a query for the file's columns as text, with `sheet` and `row`, and the names in its header.

    Raises FileValidationError if a quote is never closed.
    """
    encoding = "utf-8" if _is_utf8(path) else "latin-1"
    # Several threads can't pad short lines and read line ends within quotes at the same time.
    options = (
        f"{quoted_path(path)}, all_varchar = true, encoding = '{encoding}', null_padding = true, "
        "parallel = false"
    )
    undetected = _detected_quote(connection, options) != '"' and _contains_quotes(path)
    if undetected:
        options += ", sample_size = -1"  # DuckDB samples the first rows, which may have no quotes
    query = f"SELECT *, '' AS sheet, row_number() OVER () + 1 AS row FROM read_csv({options}, header = true)"
    if undetected and _detected_quote(connection, options) != '"':
        _check_quotes_are_closed(connection, path.name, query)
    first = connection.sql(f"SELECT * FROM read_csv({options}, header = false) LIMIT 1").fetchall()
    return query, list(first[0]) if first else []


@contextmanager
def unified_line_endings(path: Path) -> Iterator[Path]:
    """Provide the file while the block runs, or a copy with LF for each CRLF if it mixes both.

    DuckDB can't read mixed line endings. Those within quoted fields change too, which changes no word.
    """
    if not _is_mixed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ringside-import-") as folder:
        unified = Path(folder) / path.name
        with path.open("rb") as source, unified.open("wb") as copy:
            copy.writelines(line.replace(b"\r\n", b"\n") for line in _lines(source))
        yield unified


def quoted_path(path: Path) -> str:
    """Return the path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def _is_mixed(path: Path) -> bool:
    with path.open("rb") as file:
        endings = {line.endswith(b"\r\n") for line in _lines(file) if line.endswith(b"\n")}
    return len(endings) == 2


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; a long line comes in pieces, none of which separates a CRLF."""
    while line := file.readline(LONGEST_LINE):
        yield line + file.read(1) if line.endswith(b"\r") else line


def _is_utf8(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            for chunk in iter(lambda: file.readline(LONGEST_LINE), b""):
                chunk.decode()
        except UnicodeDecodeError:
            return False
    return True


def _contains_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b'"' in chunk for chunk in iter(lambda: file.read(LONGEST_LINE), b""))


def _detected_quote(connection: duckdb.DuckDBPyConnection, options: str) -> str:
    """Return the character that DuckDB takes for the quote around fields."""
    rows = connection.sql(f"SELECT Quote FROM sniff_csv({options}, header = true)").fetchall()
    return str(rows[0][0])


def _check_quotes_are_closed(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """Check that every quote is closed: if one is not, DuckDB takes all quotes of the file for text."""
    described = connection.sql(f"DESCRIBE {query}").fetchall()
    columns = {
        column: '"' + column.replace('"', '""') + '"'
        for column, *_ in described
        if column not in ("sheet", "row")
    }
    odd = {
        column: f"""{text} LIKE '"%' AND (length({text}) - length(replace({text}, '"', ''))) % 2 = 1"""
        for column, text in columns.items()
    }
    check_values(connection, name, f"({query})", odd, dict.fromkeys(odd, "closes its quotes"))
