"""The decider on in-memory ports: when it looks, what it confirms, and that nothing depends on its memory."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from support.breakable import BreakableDecisionLog, BreakableStateCache, BreakableSumStore
from support.memory_installation import MemoryInstallation
from support.traffic import EXPERIMENT, RULES

from experiments.allocation.thompson import new_units
from experiments.counting.sums import ExperimentSums
from experiments.lifecycle import commands
from experiments.lifecycle.decisions import LATEST_MS, ConfirmDetail, Decision, ResumeDetail
from experiments.lifecycle.state import Experiment
from services.bandit.decider.decider import (
    Decider,
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


class DecidedInstallation(MemoryInstallation):
    """One experiment of which every partition has been read, and deciders that can be made at will."""

    def __init__(self) -> None:
        super().__init__(PARTITIONS)
        for partition in range(PARTITIONS):
            self.store.apply(partition, None, Positions("log-1", 0, 0, 0), {})
        self.start_experiment(EXPERIMENT)

    def start_experiment(self, name: str) -> None:
        self.start("pop", replace(RULES, look_every_s=LOOK_MS / 1_000, min_new_units=100), name)

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
def site() -> DecidedInstallation:
    return DecidedInstallation()


def kinds(decisions: list[Decision]) -> list[str]:
    return [decision.kind for decision in decisions]


def test_each_look_is_a_record_and_looks_keep_their_distance(site):
    decider = site.new_decider()
    decided = []
    for _ in range(3 * LOOK_MS // 1_000):
        site.pass_time(1_000)
        decided += decider.tick()
    assert kinds(decided) == ["allocate"] * 3
    assert [d.evidence.watermark_ms for d in decided] == [d.received_at for d in decided]
    assert kinds(site.log.history(EXPERIMENT)) == ["start", *kinds(decided)]


def test_a_restart_looks_no_sooner_and_no_later(site):
    site.pass_time(LOOK_MS)
    assert kinds(site.new_decider().tick()) == ["allocate"]
    site.pass_time(LOOK_MS - 1)
    assert site.new_decider("reborn").tick() == []
    site.pass_time(10_000)
    assert kinds(site.new_decider("reborn").tick()) == ["allocate"]


def test_the_record_says_from_what_it_was_made(site):
    site.count(1, pop=(500, 100))
    site.pass_time(LOOK_MS)
    [decision] = site.new_decider().tick()
    assert decision.positions == {"exposures/0": 1, "events/0": 0, "exposures/1": 0, "events/1": 0}
    assert decision.evidence.arms["pop"].n == 500
    assert decision.evidence.arms["pop"].s == 100
    assert (decision.author, decision.code_version, len(decision.sums_digest)) == ("decider", "test", 64)


def test_a_challenger_gets_weight_once_every_live_replica_has_it(site):
    decider = site.new_decider()
    site.enter()
    site.beat("a")
    site.beat("b", loaded=("pop-1",))
    site.pass_time(LOOK_MS)
    decider.tick()
    assert site.state.weights.shares["als"] == 0.0
    site.pass_time(LOOK_MS)  # both have expired …
    site.beat("a")  # … and only the one that has it is back
    decider.tick()
    assert site.state.weights.shares["als"] == RULES.ramp[0]


def test_without_replicas_nothing_is_loaded_or_served():
    assert loaded_everywhere([]) == frozenset()
    assert not serves_everywhere([], 1)


def rolled_back(site: DecidedInstallation, decider: Decider) -> int:
    """Let a clearly worse challenger be taken out; the revision of the rollback."""
    site.enter()
    site.beat("a")
    site.beat("b")
    site.pass_time(4_000)
    site.pass_time(LOOK_MS - 4_000)
    site.beat("a")
    site.beat("b")
    decider.tick()
    assert site.state.weights.shares["als"] > 0
    site.count(site.state.weights.version, pop=(9_000, 1_800), als=(1_000, 60))
    site.pass_time(LOOK_MS)
    decided = decider.tick()
    assert kinds(decided) == ["rollback"]
    assert decided[0].rule == "click-race"
    return decided[0].revision


def test_a_rollback_is_confirmed_by_the_last_live_replica(site):
    decider = site.new_decider()
    revision = rolled_back(site, decider)
    assert site.state.unconfirmed == (revision,)
    assert site.state.arms["als"].role == "retired"
    assert decider.tick() == []  # no replica lives: nobody serves anything
    site.beat("a")
    site.beat("b", revision=revision - 1)
    site.pass_time(1_000)
    assert decider.tick() == []
    site.pass_time(1_500)
    site.beat("a")
    site.beat("b")
    [confirmed] = decider.tick()
    assert confirmed.kind == "confirm"
    assert confirmed.detail == ConfirmDetail(confirms=revision, replicas=["a", "b"], seconds=2.5)
    assert site.state.unconfirmed == ()


def test_a_replica_that_died_is_not_waited_for(site):
    decider = site.new_decider()
    revision = rolled_back(site, decider)
    site.beat("a")
    site.beat("b", revision=revision - 1)
    site.pass_time(6_000)
    site.beat("a")
    assert [d.detail.replicas for d in decider.tick()] == [["a"]]


def test_promotion_and_undo_by_command_are_confirmed_too(site):
    decider = site.new_decider()
    site.enter()
    for build in (
        lambda s: commands.promote(s, "als", site.provenance()),
        lambda s: commands.undo(s, s.revision - 1, site.provenance()),
    ):
        state = site.log.append(build(site.state))
        site.beat("a")
        assert [d.detail.confirms for d in decider.tick()] == [state.revision]


# ---- a look that did not get through --------------------------------------------------------------------


def looks_again_at_once(site: DecidedInstallation, decider: Decider) -> bool:
    """Whether the next tick looks, although no look interval has passed."""
    site.pass_time(1_000)
    return "allocate" in kinds(decider.tick())


@pytest.mark.parametrize("call", ["load_all", "losses"])
def test_a_blip_of_the_sums_costs_no_look_interval(site, call, monkeypatch):
    decider = site.new_decider()
    site.pass_time(LOOK_MS)
    with monkeypatch.context() as blip:
        blip.setattr(site.store, call, unavailable)
        with pytest.raises(UnavailableError):
            decider.tick()
    assert looks_again_at_once(site, decider)
    assert not looks_again_at_once(site, decider)


def test_a_blip_of_the_log_costs_no_look_interval(site):
    decider = site.new_decider(log=Interrupted(site.log))
    site.pass_time(LOOK_MS)
    with pytest.raises(UnavailableError):
        decider.tick()
    assert looks_again_at_once(site, decider)


def test_a_look_that_met_somebody_elses_record_is_taken_again(site):
    first = [site.enter]
    decider = site.new_decider(log=Overtaken(site.log, lambda: first.pop()() if first else None))
    site.pass_time(LOOK_MS)
    assert decider.tick() == []
    assert looks_again_at_once(site, decider)
    assert not looks_again_at_once(site, decider)


@pytest.mark.parametrize("blip", [False, True])
def test_a_half_appended_look_is_finished_at_the_next_tick(site, blip):
    """Two arms have lost. After the first rollback the log can't be reached, or an analyst decides."""
    losers = ("als", "text")
    for arm in losers:
        site.enter(arm)
    shares = {"pop": 0.5, "als": 0.25, "text": 0.25}
    site.log.append(commands.allocate(site.state, shares, {}, 0, site.provenance()))
    site.count(site.state.weights.version, pop=(5_000, 500), als=(2_500, 30), text=(2_500, 30))
    site.pass_time(LOOK_MS)
    between = [lambda: None, lambda: site.enter("late")]
    overtaken = Overtaken(site.log, lambda: between.pop(0)() if between else None)
    decider = site.new_decider(log=Interrupted(site.log, at=2) if blip else overtaken)
    with suppress(UnavailableError):
        decider.tick()
    assert [site.state.arms[arm].role for arm in losers] == ["retired", "challenger"]
    site.pass_time(1_000)
    assert kinds(decider.tick()) == ["rollback"]
    assert not looks_again_at_once(site, decider)


def test_sums_that_cannot_be_loaded_keep_no_other_experiment_waiting(site, monkeypatch):
    site.start_experiment("another")
    decider, load_all = site.new_decider(), site.store.load_all

    def slow(experiment: str, *given):
        return unavailable() if experiment == EXPERIMENT else load_all(experiment, *given)

    monkeypatch.setattr(site.store, "load_all", slow)
    for _ in range(3):
        site.pass_time(LOOK_MS)
        with pytest.raises(UnavailableError):
            decider.tick()
    assert kinds(site.log.history("another")) == ["start"] + ["allocate"] * 3


def failing(site: DecidedInstallation, monkeypatch, error: Exception) -> None:
    """Sums of one experiment that no look can be made of."""
    load_all = site.store.load_all

    def broken(experiment: str, *given):
        if experiment == EXPERIMENT:
            raise error
        return load_all(experiment, *given)

    monkeypatch.setattr(site.store, "load_all", broken)


@pytest.mark.parametrize(
    "error", [TypeError("a text"), KeyError("als"), OverflowError("much"), OSError("full")]
)
def test_a_look_that_fails_keeps_no_other_experiment_waiting(site, error, monkeypatch, caplog):
    site.start_experiment("another")
    decider = site.new_decider()
    with monkeypatch.context() as broken:
        failing(site, broken, error)
        for _ in range(3):
            site.pass_time(LOOK_MS)
            for _ in range(2):  # also between two looks
                with pytest.raises(LooksFailedError, match=f"{EXPERIMENT}: {type(error).__name__}"):
                    decider.tick()
        assert kinds(site.log.history("another")) == ["start"] + ["allocate"] * 3
        assert len([record for record in caplog.records if record.exc_info]) == 1
        failing(site, broken, ZeroDivisionError())
        site.pass_time(LOOK_MS)
        with pytest.raises(LooksFailedError, match="ZeroDivisionError"):
            decider.tick()
    assert len([record for record in caplog.records if record.exc_info]) == 2
    with pytest.raises(LooksFailedError):
        decider.tick()
    site.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"] * 2
    assert decider.tick() == []


def test_a_loss_is_accepted_while_looks_fail(site, monkeypatch):
    decider = site.new_decider()
    site.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    site.pass_time(LOOK_MS)
    decider.tick()
    site.log.append(commands.resume(site.state, site.provenance()))
    site.pass_time(LOOK_MS)
    failing(site, monkeypatch, TypeError("a text"))
    with pytest.raises(LooksFailedError):
        decider.tick()
    assert site.store.losses() == {}


@pytest.mark.parametrize("ahead_ms", [1_000, LATEST_MS])
def test_a_record_from_the_future_puts_off_no_look(site, ahead_ms):
    later = commands.Provenance("decider", min(site.clock.now_ms + LOOK_MS + ahead_ms, LATEST_MS))
    site.log.append(commands.allocate(site.state, {"pop": 1.0}, {}, 0, later))
    site.pass_time(LOOK_MS)
    history = site.log.history(EXPERIMENT)
    assert last_look_ms(site.state, history, site.clock.now_ms) == site.state.started_ms
    decider = site.new_decider()
    assert kinds(decider.tick()) == ["allocate"]
    site.pass_time(LOOK_MS - 1)
    assert decider.tick() == []
    assert site.new_decider("reborn").tick() == []


def test_an_experiment_that_starts_in_the_future_is_looked_at(site):
    origin = commands.Provenance("anna", LATEST_MS)
    champion = commands.Deployed("pop", "pop-1")
    site.log.append(commands.start("later", champion, RULES, "salt", origin))
    decided = site.new_decider().tick()
    assert [(d.experiment, d.kind) for d in decided] == [("later", "allocate")]


def test_a_clock_that_goes_back_puts_off_no_look(site):
    decider = site.new_decider()
    site.pass_time(2 * LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]
    site.clock.now_ms -= LOOK_MS
    assert kinds(decider.tick()) == ["allocate"]
    assert decider.tick() == []


def unavailable(*_):
    raise UnavailableError("Redis", "timeout")


def fallen_champion(site: DecidedInstallation) -> None:
    """A fresh champion that has clearly lost against its holdback, and a look that is due."""
    site.enter()
    site.log.append(commands.promote(site.state, "als", site.provenance()))
    site.count(site.state.weights.version, als=(9_000, 300), pop=(1_000, 200))
    site.pass_time(LOOK_MS)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_rolled_back_champions_request_survives_any_failed_append(site, lost):
    fallen_champion(site)
    decider = site.new_decider(log=Interrupted(site.log, at=lost))
    for _ in range(3):
        with suppress(UnavailableError):
            decider.tick()
        site.pass_time(LOOK_MS)
    assert site.state.champion == "pop"
    assert site.state.retrain_pending


class Interrupted(BreakableDecisionLog):
    """A log whose `at`-th append does not get through."""

    def __init__(self, log: BreakableDecisionLog, at: int = 1) -> None:
        self.__dict__ = log.__dict__
        self._left = at

    def append(self, decision: Decision) -> Experiment:
        self._left -= 1
        if self._left == 0:
            raise UnavailableError("the decision log", "no acknowledgement")
        return super().append(decision)


class Overtaken(BreakableDecisionLog):
    """A log in which somebody else always decides between our look and our append."""

    def __init__(self, log: BreakableDecisionLog, first) -> None:
        self.__dict__ = log.__dict__
        self._first = first

    def append(self, decision: Decision) -> Experiment:
        self._first()
        return super().append(decision)


class NoLease(BreakableStateCache):
    """A cache in which everybody holds every lease."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        return True


def test_a_second_decider_at_once_does_no_harm(site):
    cache = NoLease(site.clock)
    other = site.new_decider("two", cache=cache)
    decider = site.new_decider("one", log=Overtaken(site.log, other.tick), cache=cache)
    for _ in range(3):
        site.pass_time(LOOK_MS)
        decider.tick()
    history = site.log.history(EXPERIMENT)
    assert kinds(history) == ["start"] + ["allocate"] * 3
    assert [d.revision for d in history] == [1, 2, 3, 4]


def test_the_lease_keeps_a_second_decider_idle(site):
    site.pass_time(LOOK_MS)
    assert kinds(site.new_decider("one").tick()) == ["allocate"]
    site.pass_time(LOOK_MS)
    site.cache.acquire_lease("decider", "one", 5)
    assert site.new_decider("two").tick() == []
    site.pass_time(5_001)
    assert kinds(site.new_decider("two").tick()) == ["allocate"]


def test_an_emptied_cache_is_filled_again(site):
    site.cache.lose_data()
    site.new_decider().tick()
    assert site.cache.get(EXPERIMENT) == site.state


def test_what_is_unavailable_raises_and_the_next_tick_goes_on(site):
    decider = site.new_decider()
    site.pass_time(LOOK_MS)
    for part in (site.log, site.store, site.cache):
        part.down = True
        with pytest.raises(UnavailableError):
            decider.tick()
        part.down = False
    site.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]


def test_data_loss_holds_until_a_person_accepts_it(site):
    decider = site.new_decider()
    site.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    site.pass_time(LOOK_MS)
    [held] = decider.tick()
    assert (held.kind, held.rule) == ("hold", "data-loss")
    assert "offsets 7 to 9 of exposures/1 are gone" in held.reason
    site.pass_time(LOOK_MS)
    assert decider.tick() == []
    assert site.store.losses() != {}
    site.log.append(commands.resume(site.state, site.provenance()))
    decider.tick()
    assert site.store.losses() == {}
    assert site.store.loss_acknowledged(1, site.store.load(1)[0])
    site.pass_time(LOOK_MS)
    [waits] = decider.tick()  # the worker has not begun anew: these positions belong to the past
    assert (waits.kind, waits.rule) == ("hold", "sums-behind")
    assert "partitions [1]" in waits.reason
    site.store.apply(1, site.store.load(1)[0], Positions("log-1", 10, 0, 10), {})
    site.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]


def test_a_look_right_after_an_accepted_loss_decides_nothing(site):
    """Its positions would be those of the log that was lost: a new one may not reach them for weeks."""
    decider = site.new_decider()
    site.store.report_loss(1, "the broker holds another log")
    site.pass_time(LOOK_MS)
    assert [d.rule for d in decider.tick()] == ["data-loss"]
    site.pass_time(LOOK_MS)
    site.log.append(commands.resume(site.state, site.provenance()))
    assert [d.rule for d in decider.tick()] == ["sums-behind"]


class SeenBefore(BreakableSumStore):
    """A decider that was slow: it has read the losses, and meanwhile somebody else accepted them."""

    def __init__(self, inner: BreakableSumStore, meanwhile: Callable[[], object]):
        self.__dict__ = inner.__dict__
        self._meanwhile = meanwhile

    def losses(self) -> dict[int, str]:
        read = super().losses()
        self._meanwhile()
        return read


def test_an_accepted_loss_is_not_accepted_after_a_recount(site):
    """Else the next worker would believe that what follows there was lost, and skip it."""
    site.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    site.pass_time(LOOK_MS)
    site.new_decider().tick()
    site.log.append(commands.resume(site.state, site.provenance()))
    begun = Positions("log-1", 10, 0, 10)

    def meanwhile() -> None:
        if site.store.load(1)[0] != begun:
            site.new_decider(cache=NoLease(site.clock)).tick()
            assert site.store.losses() == {}
            site.store.apply(1, site.store.load(1)[0], begun, {})

    slow = site.new_decider("slow", cache=NoLease(site.clock))
    slow.deps = replace(slow.deps, store=SeenBefore(site.store, meanwhile))
    slow.tick()
    assert site.store.load(1)[0] == begun
    assert not site.store.loss_acknowledged(1, begun)


def test_resuming_from_the_hold_accepts_a_paused_loss(site):
    decider = site.new_decider()
    site.store.report_loss(1, "offsets 7 to 9 of exposures/1 are gone, the log begins at 10")
    site.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["hold"]
    site.log.append(commands.pause(site.state, site.provenance()))
    site.log.append(commands.resume(site.state, site.provenance()))
    decider.tick()
    assert (site.state.status, site.state.held_by) == ("held", "data-loss")
    assert set(site.store.losses()) == {1}
    site.log.append(commands.resume(site.state, site.provenance()))
    decider.tick()
    assert (site.state.status, site.store.losses()) == ("running", {})


def test_a_stalled_watermark_holds_and_a_good_look_lifts_it(site):
    decider = site.new_decider()
    site.pass_time(LOOK_MS)
    decider.tick()
    site.clock.now_ms += int(RULES.stall_s * 1_000) + LOOK_MS
    assert [(d.kind, d.rule) for d in decider.tick()] == [("hold", "stalled-watermark")]
    site.pass_time(LOOK_MS)
    assert kinds(decider.tick()) == ["allocate"]


def test_nothing_is_decided_from_sums_that_are_being_counted_again(site):
    decider = site.new_decider()
    site.count(1, pop=(500, 100))
    site.pass_time(LOOK_MS)
    [before] = decider.tick()
    site.store.lose_data()
    for partition in range(PARTITIONS):  # workers that have just begun anew, and say that they are up to date
        site.store.apply(partition, None, Positions("log-1", 0, 0, 0), {})
    site.pass_time(LOOK_MS)
    [held] = decider.tick()
    assert (held.kind, held.rule, site.state.status) == ("hold", "sums-behind", "held")
    assert "exposures/0 is at 0, but an earlier decision was made at 1" in held.reason
    site.pass_time(LOOK_MS)
    assert site.new_decider("reborn").tick() == []  # said once
    site.count(1, pop=(500, 100))
    site.pass_time(LOOK_MS)
    [after] = decider.tick()
    assert (after.kind, site.state.status) == ("allocate", "running")
    assert after.sums_digest == before.sums_digest


def test_after_an_accepted_loss_all_units_are_new():
    state = replace(DecidedInstallation().state, units_at_update=5_000)
    counted = ExperimentSums.parse({"1|pop|1|n": 300})
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
