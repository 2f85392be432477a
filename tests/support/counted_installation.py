"""An experiment in memory with two arms, a worker that counts it and a decider that looks."""

from dataclasses import replace

import msgspec

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import Decision
from services.adapters.memory.event_log import MemoryEventConsumer
from services.bandit.attribution.worker import Pace, Worker
from services.control.recount import RecountService
from services.messages import events
from services.ports.state import SumStore
from support.breakable import BreakableSumStore
from support.memory_installation import MemoryInstallation
from support.traffic import EXPERIMENT, RULES, TimedRecord, play, traffic

PARTITIONS = 2
CORRUPT_SUMS = {
    "more successes than units": {"1|als|472222|s": 10_000},
    "a version that never was": {"77|als|472222|n": 3},
    "an unknown key": {"what|is|this": 1},
    "events that were never acknowledged": {"acct|als|counted": 3},
    "less than nothing": {"1|als|472222|s": -10_000},
}
LOOK_MS = round(RULES.look_every_s * 1_000)


class CountedInstallation(MemoryInstallation):
    """Two arms, each with half of the traffic. `trade`: shoppers come; `look`: the decider looks later."""

    def __init__(self, store: SumStore | None = None) -> None:
        super().__init__(PARTITIONS, store=store)
        self.start("popularity")
        state = self.enter("als")
        ramp = replace(self.provenance(), rule="ramp")
        shares = {"popularity": 0.5, "als": 0.5}
        self.log.append(commands.allocate(state, shares, {"als": 3}, 0, ramp))
        self.worker = self.new_worker()
        self.decider = self.new_decider()

    @property
    def recounting(self) -> RecountService:
        return RecountService(self.store, lambda: MemoryEventConsumer(self.broker), PARTITIONS)

    def corrupt_sums(self, sums: dict[str, int]) -> None:
        """Add wrong counts to the stored sums, as a bug or a manual edit of Redis would. In memory only."""
        assert isinstance(self.store, BreakableSumStore)
        mine = self.store._sums[0].setdefault(EXPERIMENT, {})
        mine.update({key: mine.get(key, 0) + count for key, count in sums.items()})

    def new_worker(self) -> Worker:
        """Another worker of all partitions."""
        return self.attribution_worker(Pace(commit_ms=200))

    def simulate_traffic(self, seed: int = 3, units: int = 300, *workers: Worker) -> None:
        """Append seeded traffic from now on, and let the workers count it."""
        sent = traffic(seed, units)
        later = self.clock.now_ms + 1_000 - sent[0].at_ms
        shifted = [_later(record, later) for record in sent]
        for _ in play(self.broker, self.clock, shifted, step_ms=300):
            for worker in workers or (self.worker,):
                worker.step(0)

    def pass_time(self, ms: int) -> None:
        """Time passes; the worker reads to the end of the log, then the clock moves the watermark."""
        self.clock.now_ms += ms
        for _ in range(4):
            self.clock.now_ms += 1_000
            self.worker.step(0)

    def look(self, after_ms: int = LOOK_MS) -> Decision | None:
        """What the decider does once `after_ms` have passed."""
        self.pass_time(after_ms)
        decided = self.decider.tick()
        return decided[0] if decided else None


def _later(sent: TimedRecord, ms: int) -> TimedRecord:
    """The same record, everything in it `ms` later."""
    kind = events.Exposure if sent.topic == events.EXPOSURES else events.Event
    return replace(sent, at_ms=sent.at_ms + ms, value=_shifted(kind, sent.value, ms))


def _shifted(kind: type, value: bytes, ms: int) -> bytes:
    try:
        message = events.decode(kind, value)
    except events.BadMessageError:
        return value
    if kind is events.Exposure:
        later = msgspec.structs.replace(
            message, received_at=message.received_at + ms, unit_at=message.unit_at + ms
        )
        return events.encode(later)
    to = message.attribution
    if to is not None:
        to = msgspec.structs.replace(to, unit_at=to.unit_at + ms, exposed_at=to.exposed_at + ms)
    return events.encode(
        msgspec.structs.replace(message, received_at=message.received_at + ms, attribution=to)
    )
