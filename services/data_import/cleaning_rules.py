"""Cleaning: a table of rules, each with a reason, that drops rows and counts them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from services.ports.training import RuleFacts
from services.runtime.arrow_sql import query


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
    cases = " ".join(f"WHEN {rule.drop} THEN {index}" for index, rule in enumerate(rules))
    matched = query(f"SELECT *, CASE {cases} END AS rule FROM lines", {"lines": table})
    dropped = {row["values"]: row["counts"] for row in matched["rule"].value_counts().to_pylist()}
    left = table.num_rows
    results: list[RuleFacts] = []
    for index, rule in enumerate(rules):
        left -= dropped.get(index, 0)
        results.append(RuleFacts(name=rule.name, why=rule.why, dropped=dropped.get(index, 0), left=left))
    return matched.filter(pc.is_null(matched["rule"])).drop_columns("rule"), results
