"""Run a server that ends with its owner.

`python -m services.local_servers.parent_guard [--log FILE] -- COMMAND …` starts COMMAND. Its own stdin is a
pipe from the owner; when the owner ends, however it dies, the pipe closes and the guard terminates the
server. The first line of its stdout is the server's pid. Only the standard library is imported, because a
guard runs for every embedded server.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the command until it ends, a signal arrives, or stdin closes; return its exit code."""
    arguments = _parse()
    stdout = os.dup(1)

    def before_exec() -> None:
        _die_with_parent()
        os.write(stdout, f"{os.getpid()}\n".encode())  # before the server itself can write

    with contextlib.ExitStack() as stack:
        log = stack.enter_context(arguments.log.open("ab")) if arguments.log else None
        child = subprocess.Popen(
            arguments.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            preexec_fn=before_exec,
            start_new_session=True,  # Ctrl-C must reach the owner, which stops its servers in order
        )
    os.close(stdout)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: child.terminate())
    threading.Thread(target=_wait_for_owner, args=(child,), daemon=True).start()
    return child.wait()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path)
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _die_with_parent() -> None:
    if sys.platform == "linux":  # in case the guard itself is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_owner(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1):
        pass
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(signal.SIGCONT)
        child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
