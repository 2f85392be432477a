"""Reading what people have: a path or URL to CSV, Parquet, xlsx or a zip of one of them.

Every reader answers one Arrow table with the wanted columns, typed, plus `sheet` (text, empty without
sheets) and `row` (as the file counts it). Values that are not of their column's type become findings, not
exceptions.
"""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from services.data_import.download import fetched, is_url, too_large
from services.data_import.validation_error import SHOWN, Finding, RefusedFileError
from services.errors import BadInputError

KINDS = (".csv", ".parquet", ".xlsx")
LONGEST_LINE = 1 << 20  # bytes read at once
_NAMES = {"DOUBLE": "a number", "TIMESTAMPTZ": "a time", "BOOLEAN": "true or false"}
_OURS = {"sheet", "row"}
_ALWAYS_TEXT = ("VARCHAR", "TEXT")
_TYPED = {
    # Spreadsheets and pandas write 85048 as 85048.0; codes and customers are text here.
    "VARCHAR": "nullif(regexp_replace(trim({}::VARCHAR), '^(-?[0-9]+)\\.0$', '\\1'), '')",
    "TEXT": "{}::VARCHAR",  # as it is, blanks included
    "DOUBLE": "TRY_CAST({} AS DOUBLE)",
    "BOOLEAN": "TRY_CAST({} AS BOOLEAN)",
}
# A time is ISO 8601 (without a zone: UTC), or seconds or milliseconds since the epoch. DuckDB takes any two
# digits as hours of an offset; nobody lives further than 14 hours from UTC.
_NO_OFFSET = r":[0-9.]+\s*[+-](1[5-9]|[2-9][0-9]|[0-9]{{2}}:?[6-9])"
_TIME_TEXT = (
    f"CASE WHEN regexp_matches({{0}}, '{_NO_OFFSET}') THEN NULL ELSE "
    "coalesce(TRY_CAST({0} AS TIMESTAMPTZ), CASE WHEN abs(TRY_CAST({0} AS DOUBLE)) BETWEEN 1e8 AND 1e11 THEN "
    "to_timestamp(TRY_CAST({0} AS DOUBLE)) WHEN abs(TRY_CAST({0} AS DOUBLE)) BETWEEN 1e11 AND 1e14 THEN "
    "to_timestamp(TRY_CAST({0} AS DOUBLE) / 1000) END) END"
)


@contextmanager
def local_file(source: str, most_bytes: int) -> Iterator[Path]:
    """The file that `source` (path or http(s) URL) names, unpacked if it is a zip. Removed afterwards if it
    was fetched. Neither what is fetched nor what is unpacked may be larger than `most_bytes`.

    Raises BadInputError naming `source` when there is no such file or nothing readable in it.
    """
    with tempfile.TemporaryDirectory(prefix="ringside-import-") as folder:
        path = fetched(source, Path(folder), most_bytes) if is_url(source) else Path(source)
        if not path.is_file():
            raise BadInputError("source", f"{source}: there is no such file")
        packed = zipfile.is_zipfile(path) and path.suffix != ".xlsx"
        if not packed:
            _refuse_inflated(path, most_bytes)
        yield _unpack(path, Path(folder), most_bytes) if packed else path


def _refuse_inflated(path: Path, most_bytes: int) -> None:
    """A workbook is a zip that its reader unpacks in memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as workbook:
            if sum(member.file_size for member in workbook.infolist()) > most_bytes:
                raise BadInputError("source", f"{path.name}: {too_large(most_bytes, 'unpacked')}")


def written(path: Path) -> datetime:
    """When the file was last written."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _unpack(archive: Path, folder: Path, most_bytes: int) -> Path:
    with zipfile.ZipFile(archive) as packed:
        members = [member for member in packed.infolist() if Path(member.filename).suffix.lower() in KINDS]
        if len(members) != 1:
            raise BadInputError(
                "source", f"{archive.name}: holds {len(members)} files of {', '.join(KINDS)}, not one"
            )
        if members[0].file_size > most_bytes:
            raise BadInputError("source", f"{archive.name}: {too_large(most_bytes, 'unpacked')}")
        try:
            path = Path(packed.extract(members[0], folder))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
            raise BadInputError("source", f"{archive.name}: is damaged: {error}") from error
    os.utime(path, (archive.stat().st_mtime,) * 2)  # what the catalogue says is as old as the archive
    return path


def read(
    path: Path, columns: Mapping[str, str], optional: frozenset[str] = frozenset(), hint: str = ""
) -> pa.Table:
    """Columns of `path` as the DuckDB types given; an optional column that is missing comes as nulls.

    hint: what the message begins with when a column is missing. Raises BadInputError (unknown kind, empty
    file, missing column) or RefusedFileError (values of the wrong type).
    """
    if not path.stat().st_size:
        raise BadInputError(path.name, "is empty")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        header = _register(connection, path)
        if again := [name for name in columns if header.count(name) > 1]:
            raise BadInputError(path.name, f"has the column {again[0]!r} more than once")
        present = {row[0]: row[1] for row in connection.sql("DESCRIBE raw").fetchall()}
        missing = [name for name in columns if name not in present and name not in optional]
        if missing:
            there = ", ".join(sorted(present.keys() - _OURS))
            raise BadInputError(path.name, f"{hint}has no column {missing[0]!r}; it has {there}")
        cast = {name: _cast(name, kind, present.get(name)) for name, kind in columns.items()}
        chosen = ", ".join(f'{expression} AS "{name}"' for name, expression in cast.items())
        connection.execute(f"CREATE TEMP TABLE typed AS SELECT {chosen}, sheet, row FROM raw")
        _refuse_wrong_types(
            connection, path.name, {name: cast[name] for name in columns if name in present}, columns
        )
        return connection.sql("SELECT * FROM typed ORDER BY sheet, row").to_arrow_table()


def _register(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Make the table `raw`: the file's columns as they are, with `sheet` and `row`. Returns the names in its
    header: DuckDB renames a column that comes twice."""
    reader = {".csv": _csv, ".parquet": _parquet, ".xlsx": _xlsx}.get(path.suffix.lower())
    if reader is None:
        raise BadInputError("source", f"{path.name}: kind {path.suffix!r} is not one of {', '.join(KINDS)}")
    try:
        with evenly_ended(path) if reader is _csv else nullcontext(path) as even:
            query, header = reader(connection, even)
            connection.execute(f"CREATE TEMP TABLE raw AS {query}")
    except duckdb.Error as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise BadInputError("source", f"{path.name} can't be read: {said}") from error
    return header


@contextmanager
def evenly_ended(path: Path) -> Iterator[Path]:
    """The file, or while in the block a copy with every CRLF as LF if some of its lines end with one and
    some with the other: DuckDB can't read such a file. In quoted fields, too, which changes no words."""
    if not _is_mixed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ringside-import-") as folder:
        even = Path(folder) / path.name
        with path.open("rb") as source, even.open("wb") as copy:
            copy.writelines(line.replace(b"\r\n", b"\n") for line in _lines(source))
        yield even


def _is_mixed(path: Path) -> bool:
    with path.open("rb") as file:
        endings = {line.endswith(b"\r\n") for line in _lines(file) if line.endswith(b"\n")}
    return len(endings) == 2


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, a long one in pieces that part no CRLF."""
    while line := file.readline(LONGEST_LINE):
        yield line + file.read(1) if line.endswith(b"\r") else line


def _csv(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, list[str]]:
    """Several threads could not pad lines and take quoted line ends."""
    encoding = "utf-8" if _is_utf8(path) else "latin-1"
    told = (
        f"{_quoted(path)}, all_varchar = true, encoding = '{encoding}', null_padding = true, parallel = false"
    )
    unsure = _quote(connection, told) != '"' and _holds_quotes(path)
    if unsure:
        told += ", sample_size = -1"  # DuckDB guesses by the first rows, which may need no quotes
    query = f"SELECT *, '' AS sheet, row_number() OVER () + 1 AS row FROM read_csv({told}, header = true)"
    if unsure and _quote(connection, told) != '"':
        _refuse_unclosed(connection, path.name, query)
    first = connection.sql(f"SELECT * FROM read_csv({told}, header = false) LIMIT 1").fetchall()
    return query, list(first[0]) if first else []


def _quote(connection: duckdb.DuckDBPyConnection, told: str) -> str:
    """What DuckDB takes for the sign around fields."""
    return connection.sql(f"SELECT Quote FROM sniff_csv({told}, header = true)").fetchall()[0][0]


def _holds_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b'"' in chunk for chunk in iter(lambda: file.read(LONGEST_LINE), b""))


def _refuse_unclosed(connection: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    """A quote that is opened and never closed lets DuckDB take every quote of the file for text."""
    described = connection.sql(f"DESCRIBE {query}").fetchall()
    quoted = {
        column: '"' + column.replace('"', '""') + '"' for column, *_ in described if column not in _OURS
    }
    odd = {
        column: f"""{text} LIKE '"%' AND (length({text}) - length(replace({text}, '"', ''))) % 2 = 1"""
        for column, text in quoted.items()
    }
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in odd.values())
    found = dict(zip(odd, connection.sql(f"SELECT {counts} FROM ({query})").fetchall()[0], strict=True))
    findings = []
    for column in filter(found.get, odd):
        where = f"FROM ({query}) WHERE {odd[column]} ORDER BY row LIMIT {SHOWN}"
        rows = connection.sql(f"SELECT row, {quoted[column]} {where}").fetchall()
        findings += [Finding("", row, column, "closes its quotes", value) for row, value in rows]
    if findings:
        raise RefusedFileError(name, findings, sum(found.values()))


def _parquet(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, list[str]]:
    query = f"SELECT *, '' AS sheet, row_number() OVER () AS row FROM read_parquet({_quoted(path)})"
    schema = connection.sql(f"SELECT name FROM parquet_schema({_quoted(path)})").fetchall()
    return query, [name for (name,) in schema]


def _xlsx(connection: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, list[str]]:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        workbook = CalamineWorkbook.from_path(str(path))
    except CalamineError as error:
        raise BadInputError("source", f"{path.name} is not a workbook: {error}") from error
    sheets = [_sheet(workbook, name) for name in workbook.sheet_names]
    sheets = [sheet for sheet in sheets if sheet is not None]
    if not sheets:
        raise BadInputError("source", f"{path.name} has no rows")
    connection.register("sheets", pa.concat_tables([table for table, _ in sheets], promote_options="default"))
    again = [name for _, header in sheets for name in header if header.count(name) > 1]
    return "SELECT * FROM sheets", again


def _sheet(workbook: object, name: str) -> tuple[pa.Table, list[str]] | None:
    rows = workbook.get_sheet_by_name(name).to_python(skip_empty_area=False)
    if len(rows) < 2:
        return None
    header = [str(cell).strip() for cell in rows[0]]
    texts = [[None if cell == "" else str(cell) for cell in column] for column in zip(*rows[1:], strict=True)]
    table = pa.table(
        {title: pa.array(column, pa.string()) for title, column in zip(header, texts, strict=True) if title}
    )
    numbers = pa.array(range(2, len(rows) + 1), pa.int64())
    table = table.append_column("sheet", pa.array([name] * len(numbers))).append_column("row", numbers)
    return table, header


def _is_utf8(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            for chunk in iter(lambda: file.readline(LONGEST_LINE), b""):
                chunk.decode()
        except UnicodeDecodeError:
            return False
    return True


def _cast(name: str, kind: str, present: str | None) -> str:
    if present is None:
        return f"NULL::{kind}"
    column = f'"{name}"'
    if kind != "TIMESTAMPTZ":
        return _TYPED[kind].format(column)
    return (
        f"{column}::TIMESTAMPTZ" if present.startswith(("TIMESTAMP", "DATE")) else _TIME_TEXT.format(column)
    )


def _refuse_wrong_types(
    connection: duckdb.DuckDBPyConnection, name: str, cast: Mapping[str, str], kinds: Mapping[str, str]
) -> None:
    doubtful = {column: cast[column] for column in cast if kinds[column] not in _ALWAYS_TEXT}
    wrong = {column: _is_wrong(column, expression) for column, expression in doubtful.items()}
    if not wrong:
        return
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in wrong.values())
    total = sum(connection.sql(f"SELECT {counts} FROM raw").fetchall()[0])
    if total:
        findings = [finding for column in wrong for finding in _findings(connection, column, wrong, kinds)]
        raise RefusedFileError(name, findings, total)


def _is_wrong(column: str, expression: str) -> str:
    return f"""nullif(trim("{column}"::VARCHAR), '') IS NOT NULL AND ({expression}) IS NULL"""


def _findings(
    connection: duckdb.DuckDBPyConnection, column: str, wrong: Mapping[str, str], kinds: Mapping[str, str]
) -> list[Finding]:
    where = f"FROM raw WHERE {wrong[column]} ORDER BY sheet, row LIMIT {SHOWN}"
    query = f'SELECT sheet, row, "{column}"::VARCHAR {where}'
    rule = f"is {_NAMES[kinds[column]]}"
    return [
        Finding(sheet, row, column, rule, value) for sheet, row, value in connection.sql(query).fetchall()
    ]


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
