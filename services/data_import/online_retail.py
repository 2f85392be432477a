"""Online Retail II as a source: the invoice lines of a UK gift shop from 2009-12 to 2011-12.

Chen, D. (2012), doi 10.24432/C5CG6D, CC BY 4.0, in the form that the UCI repository publishes. The workbook
has two sheets, which both contain 1-9 December 2010. Times have no zone and are read as UTC.
"""

from pathlib import Path

import pyarrow as pa

from services.data_import import schemas
from services.data_import.cleaning_rules import Rule, clean
from services.data_import.dataset_draft import INTERACTIONS, ITEMS, DatasetDraft
from services.data_import.readers import read
from services.data_import.source_file import modified_at
from services.data_import.title_categories import categories, title
from services.runtime.arrow_sql import query

COLUMNS = {
    "Invoice": "VARCHAR",
    "StockCode": "VARCHAR",
    "Description": "TEXT",
    "Quantity": "DOUBLE",
    "InvoiceDate": "TIMESTAMPTZ",
    "Price": "DOUBLE",
    "Customer ID": "VARCHAR",
    "Country": "VARCHAR",
}
FIELDS = frozenset({"title", "category", "price", "description"})  # invoices do not contain stock
LICENCE = "CC BY 4.0"
CITATION = "Chen, D. (2012), Online Retail II, UCI Machine Learning Repository, doi 10.24432/C5CG6D"
_SAME_LINE = ", ".join(f'"{name}"' for name in COLUMNS)
_SAME_BUT_BLANKS = _SAME_LINE.replace('"Description"', 'trim("Description")')
_HINT = (
    "give the interactions of your own shop by --interactions; "
    "a single file is read as Online Retail II, and "
)
_REPEATED = "row_number() OVER (PARTITION BY {} ORDER BY sheet, row) > 1"

RULES = (
    Rule("no_customer", "there is no user to recommend to", '"Customer ID" IS NULL'),
    Rule("cancelled", "a cancellation is not a purchase", "Invoice ILIKE 'C%'"),
    Rule("not_positive", "a return or a correction of stock", "Quantity <= 0"),
    Rule(
        "duplicate",
        "a repeated line: both sheets contain 1-9 December 2010, some invoices repeat a line",
        _REPEATED.format(_SAME_LINE),
    ),
    Rule(
        "duplicate_but_blanks",
        "a repeated line except for blanks around its description",
        _REPEATED.format(_SAME_BUT_BLANKS),
    ),
    Rule(
        "not_a_product",
        "postage, a fee or a test: codes of products begin with five digits, except PADS and SP1002",
        "NOT regexp_matches(StockCode, '^[0-9]{5}') AND StockCode NOT IN ('PADS', 'SP1002')",
    ),
)

_LINES = """
SELECT "Customer ID" AS user_id, upper(StockCode) AS item_id, InvoiceDate AS "at", 'purchase' AS kind,
       Quantity AS quantity, Price AS price, Invoice AS order_id,
       coalesce(trim(Description), '') AS description
FROM kept ORDER BY "at", order_id, sheet, row
"""
# The current catalogue: of each item the description used most in its last 200 lines (of equals the latest),
# and the median price of those of its last 50 lines that have one.
_LATEST = """
WITH ranked AS (
    SELECT item_id, description, price, "at",
           row_number() OVER (PARTITION BY item_id ORDER BY "at" DESC, description) AS age
    FROM lines
), named AS (
    SELECT item_id, description, count(*) AS uses, max("at") AS last_used
    FROM ranked WHERE age <= 200 GROUP BY ALL
), chosen AS (
    SELECT item_id, description FROM named
    QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY uses DESC, last_used DESC, description) = 1
)
SELECT item_id, any_value(chosen.description) AS description,
       coalesce(median(price) FILTER (price > 0 AND age <= 50), median(price) FILTER (price > 0), 0) AS price,
       min("at") AS first_seen
FROM ranked JOIN chosen USING (item_id) GROUP BY item_id ORDER BY item_id
"""


def draft(path: Path, source: str) -> DatasetDraft:
    """Read and clean the purchases in a file. Raises BadInputError, FileValidationError."""
    raw = read(path, COLUMNS, hint=_HINT)
    schemas.check(raw, schemas.RETAIL_LINES, path.name)
    kept, rules = clean(raw, RULES)
    schema = INTERACTIONS.append(pa.field("description", pa.string()))
    interactions = query(_LINES, {"kept": kept}).cast(schema)
    return DatasetDraft(
        interactions, None, source, LICENCE, CITATION, tuple(rules), FIELDS, modified_at(path)
    )


def items_of(interactions: pa.Table) -> pa.Table:
    """Derive the items (columns of ITEMS) from interactions with `description`.

    Titles and categories are made from the descriptions.
    """
    items = query(_LATEST, {"lines": interactions})
    descriptions, codes = items["description"].to_pylist(), items["item_id"].to_pylist()
    titles = [title(text) or code for text, code in zip(descriptions, codes, strict=True)]
    n = len(titles)
    columns = {
        "item_id": items["item_id"],
        "title": pa.array(titles, pa.string()),
        "category": pa.array(categories(titles), pa.string()),
        "price": items["price"],
        "description": pa.array(titles, pa.string()),
        "stock": pa.array([-1] * n, pa.int32()),
        "hidden": pa.array([False] * n),
        "first_seen": items["first_seen"],
    }
    return pa.table(columns).cast(ITEMS)
