"""What a check found: one line, and what to do about it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names what was looked at, `said` what was seen, `todo` what to do (empty when ok)."""

    level: Level
    check: str
    said: str
    todo: str = ""

    def line(self) -> str:
        """For a terminal.

        >>> Finding("warn", "disk", "1.2 GB free", "make room").line()
        'warn  disk         1.2 GB free; make room'
        >>> Finding("fail", "keys", "RINGSIDE_KEYS is empty; run `x`.", "run `x`").line()
        'fail  keys         RINGSIDE_KEYS is empty; run `x`'
        """
        said = self.said.rstrip(".")  # messages of others may be sentences
        todo = f"; {self.todo}" if self.todo and self.todo not in said else ""
        return f"{self.level:<5} {self.check:<12} {said}{todo}"


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding("ok", check, said)


def warn(check: str, said: str, todo: str) -> Finding:
    """It works, and will hurt."""
    return Finding("warn", check, said, todo)


def fail(check: str, said: str, todo: str) -> Finding:
    """It does not work."""
    return Finding("fail", check, said, todo)


def plain(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For machines."""
    return [asdict(finding) for finding in findings]
