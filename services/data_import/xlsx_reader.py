"""Reading workbooks: all sheets as one Arrow table of text."""

from pathlib import Path

import pyarrow as pa
from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook

from services.errors import BadInputError


def read_workbook(path: Path) -> tuple[pa.Table, list[str]]:
    """Read every sheet that has rows, with the columns `sheet` and `row`.

    Returns the table and the column names that are repeated within a sheet. Raises BadInputError.
    """
    try:
        workbook = CalamineWorkbook.from_path(str(path))
    except CalamineError as error:
        raise BadInputError("source", f"{path.name} is not a workbook: {error}") from error
    sheets = [_read_sheet(workbook.get_sheet_by_name(name), name) for name in workbook.sheet_names]
    filled = [sheet for sheet in sheets if sheet is not None]
    if not filled:
        raise BadInputError("source", f"{path.name} has no rows")
    table = pa.concat_tables([table for table, _ in filled], promote_options="default")
    return table, [name for _, header in filled for name in header if header.count(name) > 1]


def _read_sheet(sheet: CalamineSheet, name: str) -> tuple[pa.Table, list[str]] | None:
    rows = sheet.to_python(skip_empty_area=False)
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
