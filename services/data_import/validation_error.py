"""The error for a file with invalid values, which names each by column, row and rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from services.errors import BadInputError

MAX_SHOWN = 20


@dataclass(frozen=True, slots=True, order=True)
class InvalidValue:
    """One value that breaks a rule. `row`: line of the file, where the header is line 1 (in Parquet files,
    which have no header line, the first row is 1); `sheet`: empty for files without sheets."""

    sheet: str
    row: int
    column: str
    rule: str
    value: str

    def __str__(self) -> str:
        where = f"{self.sheet}, row {self.row}" if self.sheet else f"row {self.row}"
        return f'column {self.column!r}, {where}: {self.value!r} breaks the rule "{self.rule}"'


class FileValidationError(BadInputError):
    """A file has invalid values; nothing of it was imported. `invalid`: the first of them, in file order;
    `total`: number of all."""

    def __init__(self, name: str, invalid: Sequence[InvalidValue], total: int):
        self.invalid = tuple(sorted(invalid))
        lines = [f"{total} invalid value{'s' * (total != 1)}; correct them and import the file again"]
        lines += [f"  {value}" for value in self.invalid[:MAX_SHOWN]]
        if total > MAX_SHOWN:
            lines.append(f"  … and {total - MAX_SHOWN} more")
        super().__init__(name, "\n".join(lines))


def check_values(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    relation: str,
    wrong: Mapping[str, str],
    rules: Mapping[str, str],
) -> None:
    """Raise FileValidationError if any value of `relation` is wrong.

    name: of the file; wrong: SQL condition of a wrong value, by column; rules: what it breaks, by column.
    """
    if not wrong:
        return
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in wrong.values())
    total = sum(connection.sql(f"SELECT {counts} FROM {relation}").fetchall()[0])
    if not total:
        return
    invalid: list[InvalidValue] = []
    for column, condition in wrong.items():
        quoted = '"' + column.replace('"', '""') + '"'
        where = f"FROM {relation} WHERE {condition} ORDER BY sheet, row LIMIT {MAX_SHOWN}"
        rows = connection.sql(f"SELECT sheet, row, {quoted}::VARCHAR {where}").fetchall()
        invalid += [InvalidValue(sheet, row, column, rules[column], value) for sheet, row, value in rows]
    raise FileValidationError(name, invalid, total)
