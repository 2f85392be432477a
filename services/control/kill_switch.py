"""The kill switch: a file. While it exists every replica serves the champion only, with or without Redis
and Kafka."""

import getpass
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

from services.errors import ConfigurationError
from services.settings import Settings

audit = logging.getLogger("ringside.audit")


def set_kill_switch(path: Path, *, on: bool, author: str, now_ms: int, reason: str) -> dict[str, object]:
    """Write or delete the file. Returns the audit record, which the file holds too."""
    at = datetime.fromtimestamp(now_ms / 1_000, UTC).isoformat()
    record: dict[str, object] = {"on": on, "author": author, "at": at, "reason": reason}
    if on:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record) + "\n", "utf-8")
    else:
        path.unlink(missing_ok=True)
    audit.warning("champion only: %s", json.dumps(record))
    return record


def run_command(settings: Settings, what: str, reason: str) -> str:
    """Run `ringside champion-only on|off|show`. Returns a sentence for the operator; raises
    ConfigurationError."""
    path = settings.kill_switch_path
    if what not in ("on", "off", "show"):
        raise ConfigurationError(f"champion-only: {what!r} is not one of on, off, show")
    if what != "show":
        now_ms = round(datetime.now(UTC).timestamp() * 1_000)
        set_kill_switch(
            path, on=what == "on", author=f"shell:{getpass.getuser()}", now_ms=now_ms, reason=reason
        )
    return f"champion only: on ({path.read_text('utf-8').strip()})" if path.exists() else "champion only: off"
