"""The result of one check: its level, one line of text, and what to do."""

from typing import Literal

import msgspec

Level = Literal["ok", "warn", "fail"]


class CheckResult(msgspec.Struct, frozen=True, rename={"message": "said", "action": "todo"}):
    """`check`: name of the check; `message`: what it observed; `action`: what to do about it, empty if ok.

    As JSON it is a result in the output of `ringside doctor --json`.
    """

    level: Level
    check: str
    message: str
    action: str = ""

    def line(self) -> str:
        """Format the result for a terminal.

        >>> CheckResult("warn", "disk", "1.2 GB free", "free some space").line()
        'warn  disk         1.2 GB free; free some space'
        >>> CheckResult("fail", "keys", "RINGSIDE_KEYS is empty; run `x`.", "run `x`").line()
        'fail  keys         RINGSIDE_KEYS is empty; run `x`'
        """
        message = self.message.rstrip(".")  # error messages of libraries may end with a full stop
        action = f"; {self.action}" if self.action and self.action not in message else ""
        return f"{self.level:<5} {self.check:<12} {message}{action}"


def ok(check: str, message: str) -> CheckResult:
    """Report that nothing is wrong."""
    return CheckResult("ok", check, message)


def warn(check: str, message: str, action: str) -> CheckResult:
    """Report something that works now and will cause problems later."""
    return CheckResult("warn", check, message, action)


def fail(check: str, message: str, action: str) -> CheckResult:
    """Report something that does not work."""
    return CheckResult("fail", check, message, action)
