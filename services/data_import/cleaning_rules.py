"""Cleaning rules as a table: each says what it drops and why, and counts it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import duckdb
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows for which the SQL condition `drop` holds are left out; the first rule that holds takes the row."""

    name: str
    why: str
    drop: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What a rule did to one file."""

    name: str
    why: str
    dropped: int
    left: int

    def to_json(self) -> dict[str, object]:
        """For the manifest."""
        return asdict(self)


def clean(table: pa.Table, rules: Sequence[Rule]) -> tuple[pa.Table, list[Applied]]:
    """Rows that no rule drops, in file order, and the count of each rule. Conditions see the columns of
    `table`."""
    judged = _judge(table, rules)
    connection = duckdb.connect()
    connection.register("judged", judged)
    counted = dict(connection.sql("SELECT rule, count(*) FROM judged GROUP BY rule").fetchall())
    applied, left = [], table.num_rows
    for index, rule in enumerate(rules):
        left -= counted.get(index, 0)
        applied.append(Applied(rule.name, rule.why, counted.get(index, 0), left))
    kept = connection.sql("SELECT * EXCLUDE (rule) FROM judged WHERE rule IS NULL").to_arrow_table()
    return kept, applied


def _judge(table: pa.Table, rules: Sequence[Rule]) -> pa.Table:
    """`table` with the column `rule`: index of the first rule that drops the row, null if none does."""
    cases = " ".join(f"WHEN {rule.drop} THEN {index}" for index, rule in enumerate(rules))
    judgement = f"CASE {cases} END" if cases else "NULL"
    connection = duckdb.connect()
    connection.register("lines", table)
    return connection.sql(f"SELECT *, {judgement} AS rule FROM lines").to_arrow_table()
