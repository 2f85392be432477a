"""Why a file was refused: every finding names column, row and rule, so that it can be mended at its
source."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.errors import BadInputError

SHOWN = 20


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One value that breaks a rule. `row` as the file counts it: with its header line, or from 1 without
    one."""

    sheet: str
    row: int
    column: str
    rule: str
    value: str

    def __str__(self) -> str:
        where = f"{self.sheet}, row {self.row}" if self.sheet else f"row {self.row}"
        return f'column {self.column!r}, {where}: {self.value!r} breaks the rule "{self.rule}"'


class RefusedFileError(BadInputError):
    """A file does not hold what it must; nothing of it was imported. `findings` are in file order."""

    def __init__(self, name: str, findings: Sequence[Finding], total: int | None = None):
        self.findings = tuple(sorted(findings))
        total = len(self.findings) if total is None else total
        lines = [f"refused, nothing was imported: {total} value{'s' * (total != 1)} against a rule"]
        lines += [f"  {finding}" for finding in self.findings[:SHOWN]]
        if total > SHOWN:
            lines.append(f"  … and {total - SHOWN} more")
        super().__init__(name, "\n".join(lines))
