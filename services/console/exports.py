"""Downloads of an experiment's decisions: JSON lines, and CSV with a row for each decision and a column for
each number."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from experiments.lifecycle.decisions import Decision
from services.console.series import ARM_FIELDS, RACE_FIELDS
from services.messages.events import encode

FIXED = (
    "revision", "received_at", "time_utc", "kind", "rule", "author", "reason", "weights_version",
    "watermark_ms", "new_units", "sums_digest", "code_version",
)  # fmt: skip
ACCOUNT_FIELDS = ("acknowledged", "counted", "late", "duplicate", "unmatched")


def jsonl(history: Iterable[Decision]) -> Iterator[bytes]:
    """One decision a line, as in the log."""
    for decision in history:
        yield encode(decision) + b"\n"


def csv_lines(history: Sequence[Decision]) -> Iterator[str]:
    """Header and rows. Columns: FIXED, then `<arm>.weight`, `<arm>.n` … and `<arm>.race.log_e` … of each
    arm."""
    arms = sorted({arm for d in history for arm in (*d.weights, *d.evidence.arms)})
    columns = [*FIXED, *(f"{arm}.{name}" for arm in arms for name in _arm_columns())]
    yield _line(columns)
    for decision in history:
        cells = _cells(decision)
        yield _line([cells.get(column, "") for column in columns])


def _arm_columns() -> list[str]:
    races = [f"race.{name}" for name in RACE_FIELDS if name != "arm"]
    return ["weight", *ARM_FIELDS, *races, *(f"account.{name}" for name in ACCOUNT_FIELDS)]


def _cells(decision: Decision) -> dict[str, object]:
    cells: dict[str, object] = {name: _plain(getattr(decision, name, "")) for name in FIXED}
    moment = datetime.fromtimestamp(decision.received_at / 1_000, UTC)
    cells["time_utc"] = moment.isoformat(timespec="milliseconds")
    evidence = decision.evidence
    cells |= {"watermark_ms": evidence.watermark_ms, "new_units": evidence.new_units}
    cells |= {f"{arm}.weight": share for arm, share in decision.weights.items()}
    for arm, numbers in evidence.arms.items():
        cells |= {f"{arm}.{name}": getattr(numbers, name) for name in ARM_FIELDS}
    for race in evidence.races:
        cells |= {f"{race.arm}.race.{name}": getattr(race, name) for name in RACE_FIELDS if name != "arm"}
    for arm, account in evidence.accounting.items():
        cells |= {f"{arm}.account.{name}": account.get(name) for name in ACCOUNT_FIELDS}
    return cells


def _plain(value: object) -> object:
    """Put a quote before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _line(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
