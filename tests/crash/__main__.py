"""`python -m tests.crash`: kill everything again and again, then count by hand. Exit status 1 if a proof
fails."""

import argparse
import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.crash.schedule import FULL, SHORT


def main() -> int:
    """Play the scenarios, print the table."""
    from tests.crash.children import preload
    from tests.crash.play import play
    from tests.crash.table import show

    arguments = parsed()
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # our own clients outlive their broker, and say so
    preload()
    chosen = (
        [SHORT] if arguments.short else [s for s in FULL if not arguments.only or s.name in arguments.only]
    )
    chosen = [replace(s, seed=s.seed + arguments.seed) for s in chosen]
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="ringside-crash-"))
    outcomes = []
    for scenario in chosen:
        outcomes.append(play(scenario, folder, arguments.kafka, arguments.redis))
        show(outcomes[-1:])
    if len(outcomes) > 1:
        show(outcomes)
    return int(any(outcome.wrong for outcome in outcomes))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--short", action="store_true", help="one small scenario, six kills")
    parser.add_argument("--only", nargs="*", help=f"of {', '.join(s.name for s in FULL)}")
    parser.add_argument("--seed", type=int, default=0, help="added to each scenario's own")
    parser.add_argument("--kafka", help="address of a broker with fresh topics (--short)")
    parser.add_argument("--redis", help="URL of an empty Redis (--short)")
    parser.add_argument("--folder", type=Path, help="where homes and logs go; kept if a proof fails")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
