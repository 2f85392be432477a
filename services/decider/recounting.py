"""What a recount would drop, and whether the log holds what is to be counted again. Changes nothing."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from experiments.experiment import Experiment
from experiments.tally import Tally
from services.events import EVENTS, EXPOSURES
from services.ports import EventConsumer, TallyStore

FIRST_RECORD_S = 5.0


def what_is_dropped(state: Experiment, store: TallyStore, partitions: int) -> dict[str, Any]:
    """The sums as they are, for the record: digest, positions, counts by arm; or why they can't be read."""
    try:
        sums, positions, _ = store.load_all(state.name, partitions, state.counting.generation)
    except ValueError as error:
        return {"unreadable": str(error)}
    canonical = json.dumps(dict(sorted(sums.items())), separators=(",", ":"))
    said = {"digest": hashlib.sha256(canonical.encode()).hexdigest(), "positions": positions}
    try:
        tally = Tally.parse(sums)
    except ValueError as error:
        return {**said, "unreadable": str(error)}
    return {**said, "units": tally.units, "arms": _arms(tally)}


def _arms(tally: Tally) -> Mapping[str, Any]:
    names = sorted({arm for _, arm, _ in tally.cells} | tally.accounts.keys())
    counts = {name: tally.arm(name) for name in names}
    return {name: {"n": c.n, "s": c.s, **tally.accounts.get(name, {})} for name, c in counts.items()}


def out_of_reach(state: Experiment, consumer: EventConsumer, partitions: int) -> list[str]:
    """Where the log begins after the experiment did: then a recount would not find all of its units."""
    found = []
    for pair in [(topic, index) for topic in (EXPOSURES, EVENTS) for index in range(partitions)]:
        start, _ = consumer.bounds(*pair)
        if not start:
            continue
        consumer.assign({pair: start})
        first = consumer.poll(FIRST_RECORD_S, 1)
        if not first or first[0].append_ms > state.started_ms:
            found.append(f"{pair[0]}/{pair[1]} begins at offset {start}")
    return found
