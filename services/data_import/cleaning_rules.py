"""Cleaning: a table of rules, each with a reason, that drops rows and counts them."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from services.ports.training import RuleFacts


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that drops the rows for which the SQL condition `drop` holds. `why`: the reason."""

    name: str
    why: str
    drop: str


def clean(table: pa.Table, rules: Sequence[Rule]) -> tuple[pa.Table, list[RuleFacts]]:
    """Drop rows by `rules`, whose conditions refer to the columns of `table`.

    A row is counted for the first rule that drops it. Returns the rows that are left, in file order, and the
    result of each rule.
    """
    with duckdb.connect() as connection:
        connection.register("matched", _match(table, rules))
        by_rule = connection.sql("SELECT rule, count(*) FROM matched GROUP BY rule").fetchall()
        kept = connection.sql("SELECT * EXCLUDE (rule) FROM matched WHERE rule IS NULL").to_arrow_table()
    dropped, left = dict(by_rule), table.num_rows
    results: list[RuleFacts] = []
    for index, rule in enumerate(rules):
        left -= dropped.get(index, 0)
        results.append(RuleFacts(name=rule.name, why=rule.why, dropped=dropped.get(index, 0), left=left))
    return kept, results


def _match(table: pa.Table, rules: Sequence[Rule]) -> pa.Table:
    """Add the column `rule`: index of the first rule that drops the row, null if none does."""
    cases = " ".join(f"WHEN {rule.drop} THEN {index}" for index, rule in enumerate(rules))
    first = f"CASE {cases} END" if cases else "NULL"
    with duckdb.connect() as connection:
        connection.register("lines", table)
        return connection.sql(f"SELECT *, {first} AS rule FROM lines").to_arrow_table()
