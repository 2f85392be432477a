"""Pandera schemas of the tables that are read from files."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pandera.pandas import Check, Column

from models.recommender import KINDS
from services.data_import.validation_error import MAX_SHOWN, FileValidationError, InvalidValue

MAX_STOCK = 2**31 - 1  # the limit of /items
_EARLIEST, _LATEST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
_finite = Check(lambda values: np.isfinite(values), name="is finite")
_whole = Check(lambda values: values == np.floor(values), name="is a whole number")
_not_negative = Check.ge(0, error="is not negative")
_plausible_time = Check.in_range(_EARLIEST, _LATEST, error="lies between 1990 and 2100")
_short = Check(lambda values: values.str.len() <= 200, name="has at most 200 characters")
# the limits of /items: in an array every row is as wide as the longest
_title = Check(lambda values: values.str.len() <= 500, name="has at most 500 characters")
_long = Check(lambda values: values.str.len() <= 10_000, name="has at most 10,000 characters")
_plain = Check(  # numpy drops a NUL at the end, which would make two ids equal
    lambda values: ~values.str.match(r".*[\x00-\x1f\x7f]"), name="has no control characters"
)

_printed = Check(
    lambda values: ~values.str.contains(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    name="has no control characters except tabs and line ends",
)


def _text(*checks: Check, nullable: bool = False, unique: bool = False) -> Column:
    return Column(None, list(checks), nullable=nullable, unique=unique)


def _number(*checks: Check, nullable: bool = False) -> Column:
    return Column(None, [_finite, *checks], nullable=nullable)


def _time(*, nullable: bool = False) -> Column:
    return Column(None, _plausible_time, nullable=nullable)


# Online Retail II as published. Dirty rows are valid here; the cleaning rules count and drop them.
RETAIL_LINES = pandera.DataFrameSchema(
    {
        "Invoice": _text(_short, _plain),
        "StockCode": _text(_short, _plain),
        "Description": _text(nullable=True),
        "Quantity": _number(_whole),
        "InvoiceDate": _time(),
        "Price": _number(),
        "Customer ID": _text(_short, _plain, nullable=True),
    }
)

# A storefront's own files.
CATALOGUE = pandera.DataFrameSchema(
    {
        "item_id": _text(_short, _plain, unique=True),
        "title": _text(_title, _printed),
        "category": _text(_short, _printed, nullable=True),
        "price": _number(_not_negative, nullable=True),
        "description": _text(_long, _printed, nullable=True),
        "stock": _number(
            _whole,
            Check.ge(-1, error="is -1 (not tracked) or more"),
            Check.le(MAX_STOCK, error=f"is at most {MAX_STOCK}"),
            nullable=True,
        ),
        "hidden": Column(None, nullable=True),
        "first_seen": _time(nullable=True),
    }
)
INTERACTIONS = pandera.DataFrameSchema(
    {
        "user_id": _text(_short, _plain),
        "item_id": _text(_short, _plain),
        "at": _time(),
        "kind": _text(Check.isin(KINDS, error=f"is one of {', '.join(KINDS)}"), nullable=True),
        "quantity": _number(Check.gt(0, error="is positive"), nullable=True),
        "price": _number(_not_negative, nullable=True),
        "order_id": _text(_short, _plain, nullable=True),
    }
)


def check(table: pa.Table, schema: pandera.DataFrameSchema, name: str) -> None:
    """Check a table. Raises FileValidationError with the values that break `schema`.

    `name`: of the file, for the message, which also gives the columns `sheet` and `row` if there are any.
    """
    frame = pd.DataFrame({column: _frame_column(table[column]) for column in schema.columns})
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        raise _validation_error(error.failure_cases, table, name) from error


def _frame_column(column: pa.ChunkedArray) -> pd.Series:
    if any(is_kind(column.type) for is_kind in (pt.is_floating, pt.is_integer, pt.is_timestamp)):
        return column.to_pandas()
    return pd.Series(column, dtype=pd.ArrowDtype(column.type))


_RULES = {"not_nullable": "is present", "field_uniqueness": "is unique"}  # pandera's names of them


def _validation_error(cases: pd.DataFrame, table: pa.Table, name: str) -> FileValidationError:
    cases = cases.drop_duplicates(["column", "check", "index"])
    shown = cases.dropna(subset=["index"]).sort_values("index").head(MAX_SHOWN)
    invalid = [
        _invalid_value(table, int(index), str(column), str(rule))
        for index, column, rule in zip(shown["index"], shown["column"], shown["check"], strict=True)
    ]
    return FileValidationError(name, invalid, len(cases))


def _invalid_value(table: pa.Table, index: int, column: str, rule: str) -> InvalidValue:
    sheet = table["sheet"][index].as_py() if "sheet" in table.column_names else ""
    row = table["row"][index].as_py() if "row" in table.column_names else index + 1
    return InvalidValue(sheet, row, column, _RULES.get(rule, rule), _text_of(table[column][index]))


def _text_of(value: pa.Scalar) -> str:
    """Format a value, also a time that is out of the range of Python's datetime."""
    try:
        return str(value.as_py())
    except OverflowError:
        return str(pc.cast(value, pa.string()).as_py())
