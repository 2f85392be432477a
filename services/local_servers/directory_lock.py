"""A folder for one server at a time: two that write one log, or one append-only file, destroy it."""

import fcntl
import os
import time
from pathlib import Path

from services.errors import ConfigurationError

LOCK = "in-use"
PATIENCE_S = 7.0  # a server whose owner was killed a moment ago takes some seconds to end (see leash)
LOOK_S = 0.05


class DirectoryLock:
    """`directory` is ours until `release`, and while a process lives that inherited `file`. Raises
    ConfigurationError if it is still another `what`'s after `PATIENCE_S`."""

    def __init__(self, directory: Path, what: str):
        directory.mkdir(parents=True, exist_ok=True)
        self.file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + PATIENCE_S
        while not self._locked():
            if time.monotonic() > end:
                self.release()
                raise ConfigurationError(
                    f"{directory}: another {what} keeps its data there; use that one, stop it, or name "
                    "another RINGSIDE_HOME"
                )
            time.sleep(LOOK_S)

    def release(self) -> None:
        """Let go of it; idempotent."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def _locked(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
