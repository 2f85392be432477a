"""A server that can't outlive us: `python -m services.local_servers.parent_guard [--log FILE] -- COMMAND …`.

The leash starts COMMAND and holds its own stdin, a pipe from the process that wants the server. When that
process goes away, however it dies, the pipe closes and the leash takes the server down. It prints the
server's pid first. Only the standard library is imported here: it runs beside every embedded server.
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
    """Run the command until it ends, we are told to end it, or nobody holds the other end of stdin."""
    arguments = _parse()
    told = os.dup(1)

    def before_exec() -> None:
        _die_with_parent()
        os.write(told, f"{os.getpid()}\n".encode())  # from the server itself: it can't say anything before

    with contextlib.ExitStack() as stack:
        log = stack.enter_context(arguments.log.open("ab")) if arguments.log else None
        child = subprocess.Popen(
            arguments.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            preexec_fn=before_exec,
            start_new_session=True,  # Ctrl-C must reach whoever decides the order of stopping, not the server
        )
    os.close(told)
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
    if sys.platform == "linux":  # the leash itself may be killed
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
