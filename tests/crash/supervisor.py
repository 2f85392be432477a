"""Kills, stops and restarts the processes of one scenario by its schedule."""

import signal
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import redis

from services.local_servers.kafka import LocalKafka
from tests.crash.children import Child
from tests.crash.installation import CrashInstallation
from tests.crash.instants import DISARMED, HANGING, INSTANTS, hanging
from tests.crash.schedule import KINDS, Blow, Fault, blows, schedule

LOOK_S = 0.02
PATIENCE_S = 12.0  # for an instant to come; then the kill is from outside
SETTLED_S = 0.3  # a process that serves this long may let another one die


@dataclass(slots=True)
class Told:
    """What was done. `kills`: by kind; `instants`: by (kind, what), part of the kills; `shocks`: to Redis and
    the broker; `own`: processes that ended although nobody killed them."""

    kills: Counter[str] = field(default_factory=Counter)
    shocks: Counter[str] = field(default_factory=Counter)
    instants: Counter[tuple[str, str]] = field(default_factory=Counter)
    hangs: Counter[str] = field(default_factory=Counter)
    own: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Due:
    """A child that is armed, hangs, or is dead: what shall happen to it, and when at the latest."""

    child: Child
    fault: Fault
    at_s: float
    what: str  # "dies", "hangs", "starts", "wakes"
    instant: int = DISARMED


class Supervisor:
    """Two threads' meeting point: `run` works in its own thread until every fault has happened."""

    def __init__(self, site: CrashInstallation, broker: LocalKafka | None = None):
        self.site = site
        self._broker = broker
        self.told = Told()
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.children = cast_of(site)
        self._left: dict[str, deque[Fault]] = {kind: deque() for kind in KINDS}
        for fault in schedule(site.scenario):
            self._left[fault.kind].append(fault)
        self._blows = deque(blows(site.scenario))
        self._open: list[_Due] = []
        self._now_s = 0.0
        self._redis = redis.Redis.from_url(site.settings.redis_url, decode_responses=True)
        self._ready_since: dict[str, float] = {}

    def start(self) -> None:
        """Everybody."""
        for child in self.children:
            child.start()

    def run(self) -> None:
        """The schedule to its end; then everybody runs."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 (told by whoever waits for us)
            self.error = error
        finally:
            self.done.set()

    def stop(self, *kinds: str) -> None:
        """End everybody of these kinds (none named: of every kind) in order."""
        for child in self.children:
            if (kinds and child.kind not in kinds) or not child.alive:
                continue
            code = child.stop()
            if code not in (0, -signal.SIGTERM):
                self.told.own.append(f"{child.name}: {code} when told to end")

    def _run(self) -> None:
        began_s = time.monotonic()
        while any(self._left.values()) or self._open or self._blows:
            self._now_s = time.monotonic()
            self._look()
            if self._blows and self._now_s - began_s >= self._blows[0].at_s:
                self._fall(self._blows.popleft())
            for due in list(self._open):
                self._pursue(due)
            for kind, left in self._left.items():
                if left and self._now_s - began_s >= left[0].at_s and (victim := self._victim(kind, left[0])):
                    self._strike(victim, left.popleft())
            time.sleep(LOOK_S)

    def _look(self) -> None:
        """Notice who is ready, and who died of itself."""
        busy = {due.child.name for due in self._open}
        for child in self.children:
            if child.ready:
                self._ready_since.setdefault(child.name, self._now_s)
            else:
                self._ready_since.pop(child.name, None)
            if not child.alive and child.name not in busy:
                code = child.process.exitcode if child.process is not None else None
                self.told.own.append(
                    f"{child.name}.{child.lives} ended by itself with {code}; see {child.log}"
                )
                child.start()

    def _blame(self, child: Child) -> None:
        name = f"{child.name}.{child.lives}"
        self.told.own.append(f"{name} ended by itself with {child.exit_code}; see {child.log}")

    def _victim(self, kind: str, fault: Fault) -> Child | None:
        """One that runs untouched; of recommend only while another one serves: two are promised to be there,
        and none of them is taken before the other is back."""
        busy = {due.child.name for due in self._open}
        there = [
            child for child in self.children if child.kind == kind and child.alive and child.name not in busy
        ]
        if kind == "recommend":
            there = [child for child in there if self._serves(child)]
            if len(there) < 2:
                return None
        if kind == "decider" and fault.instant is not None:  # only the one that decides meets an instant
            there = [child for child in there if self._leads(child)]
        return there[int(fault.victim * len(there))] if there else None

    def _leads(self, child: Child) -> bool:
        return self._redis.get("lease:decider") == f"{child.name}.{child.lives}"

    def _serves(self, child: Child) -> bool:
        since = self._ready_since.get(child.name)
        return since is not None and self._now_s - since >= SETTLED_S

    def _strike(self, child: Child, fault: Fault) -> None:
        if fault.what == "hang" and fault.instant is None:
            self._hang(child, fault)
        elif fault.what == "hang":
            child.armed.value = hanging(child.kind)
            self._open.append(_Due(child, fault, self._now_s + PATIENCE_S, "hangs"))
        elif fault.instant is None:
            self._kill(child, fault)
        else:
            place = int(fault.instant * len(INSTANTS[child.kind]))
            child.armed.value = place
            self._open.append(_Due(child, fault, self._now_s + PATIENCE_S, "dies", place))

    def _fall(self, blow: Blow) -> None:
        """On whatever else is going on; no other fault begins until the broker is back."""
        if blow.what == "redis emptied":
            self._redis.flushall()
        else:
            assert self._broker is not None, "only our own broker may be killed"
            self._broker.server.kill()
            time.sleep(blow.for_s)
            self._broker.restart()
        self.told.shocks[blow.what] += 1

    def _hang(self, child: Child, fault: Fault) -> None:
        child.signal(signal.SIGSTOP)
        self.told.hangs[child.kind] += 1
        self._open.append(_Due(child, fault, self._now_s + fault.for_s, "wakes"))

    def _kill(self, child: Child, fault: Fault) -> None:
        child.signal(signal.SIGKILL)
        assert child.process is not None
        child.process.join()
        self.told.kills[child.kind] += 1
        self._open.append(_Due(child, fault, self._now_s + fault.for_s, "starts"))

    def _pursue(self, due: _Due) -> None:
        if due.what == "dies":
            self._await_death(due)
        elif due.what == "hangs":
            self._await_hang(due)
        elif self._now_s >= due.at_s:
            self._open.remove(due)
            if due.what == "starts":
                due.child.start()
            else:
                due.child.signal(signal.SIGCONT)

    def _await_hang(self, due: _Due) -> None:
        """It stopped itself at its instant; if that does not come, it is stopped from outside."""
        if not due.child.alive:
            self._open.remove(due)  # noticed, and told, by the next look
        elif due.child.stopped:
            self.told.instants[due.child.kind, f"hung: {HANGING[due.child.kind]}"] += 1
        elif self._now_s < due.at_s:
            return
        if due in self._open:
            self._open.remove(due)
            due.child.armed.value = DISARMED
            self._hang(due.child, due.fault)

    def _await_death(self, due: _Due) -> None:
        child = due.child
        if child.alive and self._now_s < due.at_s:
            return
        self._open.remove(due)
        if child.alive:
            self._kill(child, due.fault)
            return
        if child.exit_code != -signal.SIGKILL:
            self._blame(child)
        self.told.kills[child.kind] += 1
        self.told.instants[child.kind, INSTANTS[child.kind][due.instant].what] += 1
        self._open.append(_Due(child, due.fault, self._now_s + due.fault.for_s, "starts"))


def cast_of(site: CrashInstallation) -> list[Child]:
    """`members` of each kind, one trainer."""
    children = []
    for kind in KINDS:
        for number in range(1 if kind == "trainer" else site.scenario.members):
            name = f"{kind}-{number + 1}"
            listening = site.listening if kind == "recommend" else None
            log = site.logs / f"{name}.log"
            children.append(Child(name, kind, site.settings, site.scenario.session_s, log, listening))
    return children
