"""Deciders that are killed or that stand still at every call they make to the log, the sums or the cache.

Each scenario is deterministic: a decider's ports count their calls, and at the chosen one the decider dies
(kill -9: nothing of it runs afterwards), or stands still while another decider works (a zombie: it goes on
with what it knew before). No lease stops anybody, because nothing may depend on it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.breakable import BreakableBroker, BreakableStateCache, BreakableSumStore
from support.traffic import EXPERIMENT, RULES, START_MS, Clock

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.fold import fold
from experiments.lifecycle.state import Experiment
from services.adapters.kafka.decision_log import KafkaDecisionLog
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer
from services.bandit.decider.decider import Decider, Deps, Identity
from services.messages import events
from services.ports.state import Heartbeat, Positions
from services.settings import Settings

HOUR = START_MS // 3_600_000
LOST = {"n": (5_000, 2_000), "s": (500, 20)}  # of the champion, of a challenger that must go


class KilledError(BaseException):
    """kill -9."""


class Stepping:
    """A port whose calls are counted, before and after, together with those of the decider's other ports."""

    def __init__(self, inner: Any, at: "Hook"):
        self._inner, self._at = inner, at

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*given: Any) -> Any:
            self._at.reached(f"before {name}")
            answer = found(*given)
            self._at.reached(f"after {name}")
            return answer

        return call


class Hook:
    """Does `then` at the n-th step of a decider, once."""

    def __init__(self, step: int, then: Callable[[], None]):
        self.steps: list[str] = []
        self._step, self._then = step, then

    def reached(self, name: str) -> None:
        self.steps.append(name)
        if len(self.steps) - 1 == self._step:
            self._then()


class Unleased(BreakableStateCache):
    """A cache whose lease keeps nobody away."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        return True


class Scene:
    """A challenger that has lost its race, a rollback before it that waits for confirmation, a look that is
    due."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.broker = BreakableBroker(partitions=1, clock=self.clock)
        self.cache = Unleased(self.clock)
        self.store = BreakableSumStore()
        log = self.log()
        origin = commands.Provenance("anna", self.clock.now_ms)
        rules = replace(RULES, look_every_s=60.0)
        champion = commands.Deployed("pop", "pop-1")
        state = log.append(commands.start(EXPERIMENT, champion, rules, "salt", origin))
        for arm in ("early", "als"):
            state = log.append(commands.enter(state, arm, f"{arm}-1", origin))
        state = log.append(commands.rollback(state, "early", origin))
        self._count(log.append(commands.allocate(state, {"pop": 0.5, "als": 0.5}, {"als": 3}, 0, origin)))
        self.clock.now_ms += 60_000
        self.store.set_watermark(0, self.clock.now_ms, 0)
        beat = Heartbeat("r1", 99, "pop", ("pop-1", "als-1"), self.clock.now_ms)
        self.cache.put_heartbeat(beat, ttl_s=3_600)

    def _count(self, state: Experiment) -> None:
        deltas = {
            f"{state.weights.version}|{arm}|{HOUR}|{what}": pair[at]
            for what, pair in LOST.items()
            for at, arm in enumerate(("pop", "als"))
        }
        self.store.apply(0, None, Positions("log", 1, 1, 1), {EXPERIMENT: deltas})

    def log(self, hook: Hook | None = None) -> KafkaDecisionLog:
        consumer, producer = MemoryEventConsumer(self.broker), MemoryEventProducer(self.broker)
        parts = [producer, consumer, self.cache]
        if hook is not None:
            parts = [Stepping(part, hook) for part in parts]
        return KafkaDecisionLog(Settings(experiment=EXPERIMENT), *parts)

    def decider(self, hook: Hook | None = None) -> Decider:
        seen = hook or Hook(-1, lambda: None)
        deps = Deps(self.log(seen), Stepping(self.store, seen), Stepping(self.cache, seen))
        return Decider(deps, Identity("one", "test"), 1, self.clock)

    def records(self) -> list[Decision]:
        return [events.decode(Decision, record.value) for record in self.broker.records(events.DECISIONS)]

    def check(self) -> None:
        """What must hold whoever died or lagged, once one more decider has had two turns."""
        survivor = self.decider()
        survivor.tick()
        survivor.tick()  # what the first one rolled back is confirmed now
        records, reader = self.records(), self.log()
        state = reader.catch_up()[EXPERIMENT]
        history = reader.history(EXPERIMENT)
        assert state == fold(records)
        assert self.cache.get(EXPERIMENT) == state
        assert [d.revision for d in history] == list(range(1, state.revision + 1))
        assert reader.projection.void == len(records) - len(history)
        assert reader.projection.illegal == 0
        decided = [
            (d.kind, getattr(d.detail, "arm", None), getattr(d.detail, "confirms", None)) for d in history[5:]
        ]
        assert set(decided) == {("confirm", None, 4), ("rollback", "als", None), ("confirm", None, 7)}
        assert len(decided) == 3


def steps_of_a_tick() -> list[str]:
    hook = Hook(-1, lambda: None)
    Scene().decider(hook).tick()
    return hook.steps


STEPS = steps_of_a_tick()
WRITES = [at for at, name in enumerate(STEPS) if name.endswith((" send", " put"))]
EVERY_STEP = pytest.mark.parametrize(
    "step", range(len(STEPS)), ids=[f"{n}-{at}" for n, at in enumerate(STEPS)]
)


def kill() -> None:
    raise KilledError


def tick(decider: Decider) -> None:
    """A turn, perhaps the last one."""
    try:
        decider.tick()
    except KilledError:
        return


def test_a_tick_writes_the_log_then_the_cache():
    assert STEPS.count("after send") >= 2
    sent = STEPS.index("after send")
    assert "before put" in STEPS[sent:]
    Scene().check()


@EVERY_STEP
def test_a_decider_killed_at_any_call_leaves_one_history(step):
    scene = Scene()
    tick(scene.decider(Hook(step, kill)))
    scene.check()


def zombie(step: int, other: int, third: bool) -> None:
    """One stands still at `step`; meanwhile another one gets to `other` (len(STEPS): to its end), where it is
    killed, or stands still itself while a third one decides."""
    scene = Scene()
    then = scene.decider().tick if third else kill
    tick(scene.decider(Hook(step, lambda: tick(scene.decider(Hook(other, then))))))
    scene.check()


@EVERY_STEP
def test_a_zombie_that_wakes_after_others_decided_changes_nothing(step):
    zombie(step, len(STEPS), third=False)


@pytest.mark.parametrize("third", [False, True])
@pytest.mark.parametrize("step", WRITES)
def test_zombies_at_their_writes_make_one_decision_a_revision(step, third):
    for other in WRITES:
        zombie(step, other, third)


@pytest.mark.slow
@EVERY_STEP
def test_zombies_anywhere_make_one_decision_a_revision(step):
    for other in range(len(STEPS)):
        zombie(step, other, third=False)
        zombie(step, other, third=True)
