"""A lock on a data folder, because two servers that write one log or append-only file destroy it."""

import fcntl
import os
import time
from pathlib import Path

from services.errors import ConfigurationError

LOCK = "in-use"
PATIENCE_S = 7.0  # a server whose owner was just killed takes some seconds to end (see parent_guard)
POLL_S = 0.05


class DirectoryLock:
    """Locks `directory` until `release`, and for as long as a process lives that inherited `file`.

    Raises ConfigurationError if another server still has it after `PATIENCE_S`. `what` names the server in
    that message.
    """

    def __init__(self, directory: Path, what: str):
        directory.mkdir(parents=True, exist_ok=True)
        self.file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + PATIENCE_S
        while not self._locked():
            if time.monotonic() > end:
                self.release()
                raise ConfigurationError(
                    f"{directory}: another {what} keeps its data there; use that one, stop it, or set "
                    "another RINGSIDE_HOME"
                )
            time.sleep(POLL_S)

    def release(self) -> None:
        """Unlock it; idempotent."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def _locked(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
