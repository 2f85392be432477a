"""The decider on in-memory ports: when it looks, what it confirms, and that nothing depends on its memory."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from support.traffic import EXPERIMENT, RULES, Clock

from experiments.allocation.thompson import new_units
from experiments.counting.sums import Tally
from experiments.lifecycle import commands
from experiments.lifecycle.decisions import LATEST_MS, ConfirmDetail, ResumeDetail
from experiments.lifecycle.fold import Decision, Experiment, apply
from services.adapters.memory.decision_log import MemoryDecisionLog
from services.adapters.memory.sum_store import MemoryStateCache, MemorySumStore
from services.bandit.decider.decider import (
    Decider,
    Deps,
    Identity,
    LooksFailedError,
    decided_at,
    last_look_ms,
    loaded_everywhere,
    serves_everywhere,
)
from services.errors import UnavailableError
from services.ports.state import Heartbeat, Positions

LOOK_MS = 60_000
PARTITIONS = 2


class Company:
    """One experiment with its log, sums and cache, and deciders that can be made at will."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cache = MemoryStateCache(self.clock)
        self.log = MemoryDecisionLog(apply, self.cache)
        self.store = MemorySumStore()
        for partition in range(PARTITIONS):
            self.store.apply(partition, None, Positions("log-1", 0, 0, 0), {})
        self.start(EXPERIMENT)

    def start(self, name: str) -> None:
        rules = replace(RULES, look_every_s=LOOK_MS / 1_000, min_new_units=100)
        champion = commands.Deployed("pop", "pop-1")
        self.log.append(commands.start(name, champion, rules, "salt", self.origin()))

    @property
    def state(self) -> Experiment:
        return self.log.catch_up()[EXPERIMENT]

    def origin(self) -> commands.Provenance:
        return commands.Provenance("anna", self.clock.now_ms)

    def decider(
        self, holder: str = "one", log: MemoryDecisionLog | None = None, cache: MemoryStateCache | None = None
    ):
        deps = Deps(log or self.log, self.store, cache or self.cache)
        return Decider(deps, Identity(holder, "test"), PARTITIONS, self.clock)

    def enter(self, arm: str = "als") -> None:
        self.log.append(commands.enter(self.state, arm, f"{arm}-1", self.origin()))

    def beat(
        self, replica: str, revision: int | None = None, loaded: tuple[str, ...] = ("pop-1", "als-1")
    ) -> None:
        revision = self.state.revision if revision is None else revision
        self.cache.put_heartbeat(
            Heartbeat(replica, revision, self.state.champion, loaded, self.clock.now_ms), ttl_s=5
        )

    def count(self, version: int, **arms: tuple[int, int]) -> None:
        """Add (units, successes) of arms; every partition has been read up to now."""
        hour = self.clock.now_ms // 3_600_000
        deltas = {
            f"{version}|{arm}|{hour}|{what}": n
            for arm, pair in arms.items()
            for what, n in zip("ns", pair, strict=True)
        }
        at, _ = self.store.load(0)
        self.store.apply(0, at, replace(at, exposures=at.exposures + 1), {EXPERIMENT: deltas})
        self.read_up()

    def read_up(self) -> None:
        for partition in range(PARTITIONS):
            self.store.set_watermark(partition, self.clock.now_ms, 0)

    def pass_time(self, ms: int) -> None:
        self.clock.now_ms += ms
        self.read_up()


@pytest.fixture
def company() -> Company:
    return Company()


def kinds(decisions: list[Decision]) -> list[str]:
    return [decision.kind for decision in decisions]


def test_each_look_is_a_record_and_looks_keep_their_distance(company):
    decider = company.decider()
    decided = []
    for _ in range(3 * LOOK_MS // 1_000):
        company.pass_time(1_000)
        decided += decider.tick()
    assert kinds(decided) == ["allocate"] * 3
    assert [d.evidence.watermark_ms for d in decided] == [d.received_at for d in decided]
    assert kinds(company.log.history(EXPERIMENT)) == ["start", *kinds(decided)]


def test_a_restart_looks_no_sooner_and_no_later(company):
    company.pass_time(LOOK_MS)
    assert kinds(company.decider().tick()) == ["allocate"]
    company.pass_time(LOOK_MS - 1)
    assert company.decider("reborn").tick() == []
    company.pass_time(10_000)
    assert kinds(company.decider("reborn").tick()) == ["allocate"]


def test_the_record_says_from_what_it_was_made(company):
    company.count(1, pop=(500, 100))
    company.pass_time(LOOK_MS)
    [decision] = company.decider().tick()
    assert decision.positions == {"exposures/0": 1, "events/0": 0, "exposures/1": 0, "events/1": 0}
    assert decision.evidence.arms["pop"].n == 500
    assert decision.evidence.arms["pop"].s == 100
    assert (decision.author, decision.code_version, len(decision.sums_digest)) == ("decider", "test", 64)


def test_a_challenger_gets_weight_once_every_live_replica_has_it(company):
    decider = company.decider()
    company.enter()
    company.beat("a")
    company.beat("b", loaded=("pop-1",))
    company.pass_time(LOOK_MS)
    decider.tick()
    assert company.state.weights.shares["als"] == 0.0
    company.pass_time(LOOK_MS)  # both have expired …
    company.beat("a")  # … and only the one that has it is back
    decider.tick()
    assert company.state.weights.shares["als"] == RULES.ramp[0]


def test_without_replicas_nothing_is_loaded_or_served():
    assert loaded_everywhere([]) == frozenset()
    assert not serves_everywhere([], 1)


def rolled_back(company: Company, decider: Decider) -> int:
    """Let a clearly worse challenger be taken out; the revision of the rollback."""
    company.enter()
    company.beat("a")
    company.beat("b")
    company.pass_time(4_000)
    company.pass_time(LOOK_MS - 4_000)
    company.beat("a")
    company.beat("b")
    decider.tick()
    assert company.state.weights.shares["als"] > 0
    company.count(company.state.weights.version, pop=(9_000, 1_800), als=(1_000, 60))
    company.pass_time(LOOK_MS)
    decided = decider.tick()
    assert kinds(decided) == ["rollback"]
    assert decided[0].rule == "click-race"
    return decided[0].revision


def test_a_rollback_is_confirmed_by_the_last_live_replica(company):
    decider = company.decider()
    revision = rolled_back(company, decider)
    assert company.state.unconfirmed == (revision,)
    assert company.state.arms["als"].role == "retired"
    assert decider.tick() == []  # no replica lives: nobody serves anything
    company.beat("a")
    company.beat("b", revision=revision - 1)
    company.pass_time(1_000)
    assert decider.tick() == []
    company.pass_time(1_500)
    company.beat("a")
    company.beat("b")
    [confirmed] = decider.tick()
    assert confirmed.kind == "confirm"
    assert confirmed.detail == ConfirmDetail(confirms=revision, replicas=["a", "b"], seconds=2.5)
    assert company.state.unconfirmed == ()


def test_a_replica_that_died_is_not_waited_for(company):
    decider = company.decider()
    revision = rolled_back(company, decider)
    company.beat("a")
    company.beat("b", revision=revision - 1)
    company.pass_time(6_000)
    company.beat("a")
    assert [d.detail.replicas for d in decider.tick()] == [["a"]]


def test_promotion_and_undo_by_command_are_confirmed_too(company):
    decider = company.decider()
    company.enter()
    for build in (
        lambda s: commands.promote(s, "als", company.origin()),
        lambda s: commands.undo(s, s.revision - 1, company.origin()),
    ):
        state = company.log.append(build(company.state))
        company.beat("a")
        assert [d.detail.confirms for d in decider.tick()] == [state.revision]


# ---- a look that did not get through --------------------------------------------------------------------


def looks_again_at_once(company: Company, decider: Decider) -> bool:
    """Whether the next tick looks, although no look interval has passed."""
    company.pass_time(1_000)
    return "allocate" in kinds(decider.tick())


@pytest.mark.parametrize("call", ["load_all", "losses"])
def test_a_blip_of_the_sums_costs_no_look_interval(company, call, monkeypatch):
    decider = company.decider()
    company.pass_time(LOOK_MS)
    with monkeypatch.context() as blip:
        blip.setattr(company.store, call, unavailable)
        with pytest.raises(UnavailableError):
            decider.tick()
    assert looks_again_at_once(company, decider)
    assert not looks_again_at_once(company, decider)


def test_a_blip_of_the_log_costs_no_look_interval(company):
    decider = company.decider(log=Interrupted(company.log))
    company.pass_time(LOOK_MS)
    with pytest.raises(UnavailableError):
        decider.tick()
    assert looks_again_at_once(company, decider)


def test_a_look_that_met_somebody_elses_record_is_taken_again(company):
    first = [company.enter]
    decider = company.decider(log=Overtaken(company.log, lambda: first.pop()() if first else None))
    company.pass_time(LOOK_MS)
    assert decider.tick() == []
    assert looks_again_at_once(company, decider)
    assert not looks_again_at_once(company, decider)


@pytest.mark.parametrize("blip", [False, True])
def test_a_half_appended_look_is_finished_at_the_next_tick(company, blip):
    """Two arms have lost. After the first rollback the log can't be reached, or an analyst decides."""
    losers = ("als", "text")
    for arm in losers:
        company.enter(arm)
    shares = {"pop": 0.5, "als": 0.25, "text": 0.25}
    company.log.append(commands.allocate(company.state, shares, {}, 0, company.origin()))
    company.count(company.state.weights.version, pop=(5_000, 500), als=(2_500, 30), text=(2_500, 30))
    company.pass_time(LOOK_MS)
    between = [lambda: None, lambda: company.enter("late")]
    overtaken = Overtaken(company.log, lambda: between.pop(0)() if between else None)
    decider = company.decider(log=Interrupted(company.log, at=2) if blip else overtaken)
    with suppress(UnavailableError):
        decider.tick()
    assert [company.state.arms[arm].role for arm in losers] == ["retired", "challenger"]
    company.pass_time(1_000)
    assert kinds(decider.tick()) == ["rollback"]
    assert not looks_again_at_once(company, decider)


def test_sums_that_cannot_be_loaded_keep_no_other_experiment_waiting(company, monkeypatch):
    company.start("another")
    decider, load_all = company.decider(), company.store.load_all

    def slow(experiment: str, *given):
        return unavailable() if experiment == EXPERIMENT else load_all(experiment, *given)

    monkeypatch.setattr(company.store, "load_all", slow)
    for _ in range(3):
        company.pass_time(LOOK_MS)
        with pytest.raises(UnavailableError):
            decider.tick()
    assert kinds(company.log.history("another")) == ["start"] + ["allocate"] * 3


def failing(company: Company, monkeypatch, error: Exception) -> None:
    """Sums of one experiment that no look can be made of."""
    load_all = company.store.load_all

    def broken(experiment: str, *given):
        if experiment == EXPERIMENT:
            raise error
        return load_all(experiment, *given)

    monkeypatch.setattr(company.store, "load_all", broken)


@pytest.mark.parametrize(
    "error", [TypeError("a text"), KeyError("als"), OverflowError("much"), OSError("full")]
)
def test_a_look_that_fails_keeps_no_other_experiment_waiting(company, error, monkeypatch, caplog):
    company.start("another")
    decider = company.decider()
    with monkeypatch.context() as broken:
        failing(company, broken, error)
        for _ in range(3):
            company.pass_time(LOOK_MS)
            for _ in range(2):  # also between two looks
                with pytest.raises(LooksFailedError, match=f"{EXPERIMENT}: {type(error).__name__}"):
                    decider.tick()
        assert kinds(company.log.history("another")) == ["start"] + ["allocate"] * 3
        assert len([record for record in caplog.records if record.exc_info]) == 1
        failing(company, broken, ZeroDivisionError())
        company.pass_time(LOOK_MS)
        with pytest.raises(LooksFailedError, match="ZeroDivisionError"):
            decider.tick()
    assert len([record for record in caplog.records if record.exc_info]) == 2
    with pytest.raises(LooksFailedError):
        decider.tick()
    company.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"] * 2
    assert decider.tick() == []


def test_a_loss_is_accepted_while_looks_fail(company, monkeypatch):
    decider = company.decider()
    company.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    company.pass_time(LOOK_MS)
    decider.tick()
    company.log.append(commands.resume(company.state, company.origin()))
    company.pass_time(LOOK_MS)
    failing(company, monkeypatch, TypeError("a text"))
    with pytest.raises(LooksFailedError):
        decider.tick()
    assert company.store.losses() == {}


@pytest.mark.parametrize("ahead_ms", [1_000, LATEST_MS])
def test_a_record_from_the_future_puts_off_no_look(company, ahead_ms):
    later = commands.Provenance("decider", min(company.clock.now_ms + LOOK_MS + ahead_ms, LATEST_MS))
    company.log.append(commands.allocate(company.state, {"pop": 1.0}, {}, 0, later))
    company.pass_time(LOOK_MS)
    history = company.log.history(EXPERIMENT)
    assert last_look_ms(company.state, history, company.clock.now_ms) == company.state.started_ms
    decider = company.decider()
    assert kinds(decider.tick()) == ["allocate"]
    company.pass_time(LOOK_MS - 1)
    assert decider.tick() == []
    assert company.decider("reborn").tick() == []


def test_an_experiment_that_starts_in_the_future_is_looked_at(company):
    origin = commands.Provenance("anna", LATEST_MS)
    champion = commands.Deployed("pop", "pop-1")
    company.log.append(commands.start("later", champion, RULES, "salt", origin))
    decided = company.decider().tick()
    assert [(d.experiment, d.kind) for d in decided] == [("later", "allocate")]


def test_a_clock_that_goes_back_puts_off_no_look(company):
    decider = company.decider()
    company.pass_time(2 * LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]
    company.clock.now_ms -= LOOK_MS
    assert kinds(decider.tick()) == ["allocate"]
    assert decider.tick() == []


def unavailable(*_):
    raise UnavailableError("Redis", "timeout")


def fallen_champion(company: Company) -> None:
    """A fresh champion that has clearly lost against its holdback, and a look that is due."""
    company.enter()
    company.log.append(commands.promote(company.state, "als", company.origin()))
    company.count(company.state.weights.version, als=(9_000, 300), pop=(1_000, 200))
    company.pass_time(LOOK_MS)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_rolled_back_champions_request_survives_any_failed_append(company, lost):
    fallen_champion(company)
    decider = company.decider(log=Interrupted(company.log, at=lost))
    for _ in range(3):
        with suppress(UnavailableError):
            decider.tick()
        company.pass_time(LOOK_MS)
    assert company.state.champion == "pop"
    assert company.state.retrain_pending


class Interrupted(MemoryDecisionLog):
    """A log whose `at`-th append does not get through."""

    def __init__(self, log: MemoryDecisionLog, at: int = 1) -> None:
        self.__dict__ = log.__dict__
        self._left = at

    def append(self, decision: Decision) -> Experiment:
        self._left -= 1
        if self._left == 0:
            raise UnavailableError("the decision log", "no acknowledgement")
        return super().append(decision)


class Overtaken(MemoryDecisionLog):
    """A log in which somebody else always decides between our look and our append."""

    def __init__(self, log: MemoryDecisionLog, first) -> None:
        self.__dict__ = log.__dict__
        self._first = first

    def append(self, decision: Decision) -> Experiment:
        self._first()
        return super().append(decision)


class NoLease(MemoryStateCache):
    """A cache in which everybody holds every lease."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        return True


def test_a_second_decider_at_once_does_no_harm(company):
    cache = NoLease(company.clock)
    other = company.decider("two", cache=cache)
    decider = company.decider("one", log=Overtaken(company.log, other.tick), cache=cache)
    for _ in range(3):
        company.pass_time(LOOK_MS)
        decider.tick()
    history = company.log.history(EXPERIMENT)
    assert kinds(history) == ["start"] + ["allocate"] * 3
    assert [d.revision for d in history] == [1, 2, 3, 4]


def test_the_lease_keeps_a_second_decider_idle(company):
    company.pass_time(LOOK_MS)
    assert kinds(company.decider("one").tick()) == ["allocate"]
    company.pass_time(LOOK_MS)
    company.cache.acquire_lease("decider", "one", 5)
    assert company.decider("two").tick() == []
    company.pass_time(5_001)
    assert kinds(company.decider("two").tick()) == ["allocate"]


def test_an_emptied_cache_is_filled_again(company):
    company.cache.forget()
    company.decider().tick()
    assert company.cache.get(EXPERIMENT) == company.state


def test_what_is_unavailable_raises_and_the_next_tick_goes_on(company):
    decider = company.decider()
    company.pass_time(LOOK_MS)
    for part in (company.log, company.store, company.cache):
        part.down = True
        with pytest.raises(UnavailableError):
            decider.tick()
        part.down = False
    company.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]


def test_data_loss_holds_until_a_person_accepts_it(company):
    decider = company.decider()
    company.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    company.pass_time(LOOK_MS)
    [held] = decider.tick()
    assert (held.kind, held.rule) == ("hold", "data-loss")
    assert "offsets 7 to 9 of exposures/1 are gone" in held.reason
    company.pass_time(LOOK_MS)
    assert decider.tick() == []
    assert company.store.losses() != {}
    company.log.append(commands.resume(company.state, company.origin()))
    decider.tick()
    assert company.store.losses() == {}
    assert company.store.loss_acknowledged(1, company.store.load(1)[0])
    company.pass_time(LOOK_MS)
    [waits] = decider.tick()  # the worker has not begun anew: these positions belong to the past
    assert (waits.kind, waits.rule) == ("hold", "sums-behind")
    assert "partitions [1]" in waits.reason
    company.store.apply(1, company.store.load(1)[0], Positions("log-1", 10, 0, 10), {})
    company.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]


def test_a_look_right_after_an_accepted_loss_decides_nothing(company):
    """Its positions would be those of the log that was lost: a new one may not reach them for weeks."""
    decider = company.decider()
    company.store.report_loss(1, "the broker holds another log")
    company.pass_time(LOOK_MS)
    assert [d.rule for d in decider.tick()] == ["data-loss"]
    company.pass_time(LOOK_MS)
    company.log.append(commands.resume(company.state, company.origin()))
    assert [d.rule for d in decider.tick()] == ["sums-behind"]


class SeenBefore(MemorySumStore):
    """A decider that was slow: it has read the losses, and meanwhile somebody else accepted them."""

    def __init__(self, inner: MemorySumStore, meanwhile: Callable[[], object]):
        self.__dict__ = inner.__dict__
        self._meanwhile = meanwhile

    def losses(self) -> dict[int, str]:
        read = super().losses()
        self._meanwhile()
        return read


def test_an_accepted_loss_is_not_accepted_after_a_recount(company):
    """Else the next worker would believe that what follows there was lost, and skip it."""
    company.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    company.pass_time(LOOK_MS)
    company.decider().tick()
    company.log.append(commands.resume(company.state, company.origin()))
    begun = Positions("log-1", 10, 0, 10)

    def meanwhile() -> None:
        if company.store.load(1)[0] != begun:
            company.decider(cache=NoLease(company.clock)).tick()
            assert company.store.losses() == {}
            company.store.apply(1, company.store.load(1)[0], begun, {})

    slow = company.decider("slow", cache=NoLease(company.clock))
    slow.deps = replace(slow.deps, store=SeenBefore(company.store, meanwhile))
    slow.tick()
    assert company.store.load(1)[0] == begun
    assert not company.store.loss_acknowledged(1, begun)


def test_resuming_from_the_hold_accepts_a_paused_loss(company):
    decider = company.decider()
    company.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    company.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["hold"]
    company.log.append(commands.pause(company.state, company.origin()))
    company.log.append(commands.resume(company.state, company.origin()))
    decider.tick()
    assert (company.state.status, company.state.held_by) == ("held", "data-loss")
    assert set(company.store.losses()) == {1}
    company.log.append(commands.resume(company.state, company.origin()))
    decider.tick()
    assert (company.state.status, company.store.losses()) == ("running", {})


def test_a_stalled_watermark_holds_and_a_good_look_lifts_it(company):
    decider = company.decider()
    company.pass_time(LOOK_MS)
    decider.tick()
    company.clock.now_ms += int(RULES.stall_s * 1_000) + LOOK_MS
    assert [(d.kind, d.rule) for d in decider.tick()] == [("hold", "stalled-watermark")]
    company.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]


def test_nothing_is_decided_from_sums_that_are_being_counted_again(company):
    decider = company.decider()
    company.count(1, pop=(500, 100))
    company.pass_time(LOOK_MS)
    [before] = decider.tick()
    company.store.forget()
    for partition in range(PARTITIONS):  # workers that have just begun anew, and say that they are up to date
        company.store.apply(partition, None, Positions("log-1", 0, 0, 0), {})
    company.pass_time(LOOK_MS)
    [held] = decider.tick()
    assert (held.kind, held.rule, company.state.status) == ("hold", "sums-behind", "held")
    assert "exposures/0 stands at 0, an earlier decision was made at 1" in held.reason
    company.pass_time(LOOK_MS)
    assert company.decider("reborn").tick() == []  # said once
    company.count(1, pop=(500, 100))
    company.pass_time(LOOK_MS)
    [after] = decider.tick()
    assert (after.kind, company.state.status) == ("allocate", "running")
    assert after.sums_digest == before.sums_digest


def test_after_an_accepted_loss_all_units_are_new():
    state = replace(Company().state, units_at_update=5_000)
    counted = Tally.parse({"1|pop|1|n": 300})
    assert new_units(state, counted) == 300
    assert new_units(replace(state, units_at_update=200), counted) == 100
    assert decided_at([Decided("allocate", {"exposures/0": 3}), Decided("hold", {"exposures/0": 1})]) == {
        "exposures/0": 3
    }
    assert (
        decided_at(
            [Decided("allocate", {"exposures/0": 3}), Decided("resume", {}, ResumeDetail(accepts=None))]
        )
        == {}
    )
    after_a_pause = Decided("resume", {}, ResumeDetail(accepts=[]))
    assert decided_at([Decided("allocate", {"exposures/0": 3}), after_a_pause]) == {"exposures/0": 3}
    accepted = Decided("resume", {}, ResumeDetail(accepts=["partition 0: gone"]))
    assert decided_at([Decided("allocate", {"exposures/0": 3}), accepted]) == {}


@dataclass
class Decided:
    kind: str
    positions: dict[str, int]
    detail: ResumeDetail | None = None
