"""One scenario from the first process to the last proof."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import httpx
import redis

from experiments.lifecycle.state import Experiment
from services import bootstrap
from services.adapters.redis import keys
from services.messages import events
from tests.crash.children import call
from tests.crash.commander import Operator
from tests.crash.dump import dump
from tests.crash.installation import CrashInstallation, opened, servers
from tests.crash.proofs import Finding, Found, online_rows, prove
from tests.crash.schedule import Scenario
from tests.crash.shoppers import Crowd, Seen
from tests.crash.supervisor import Supervisor, Told

Pair = tuple[str, int]

LOGS = (events.EXPOSURES, events.EVENTS)
TOPICS = (*LOGS, events.DECISIONS)
UNTIL_S = 240.0  # longest wait for anything: a busy machine may be slow, never wrong
LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one scenario."""

    scenario: Scenario
    told: Told
    seen: Seen
    findings: list[Finding]
    seconds: float
    units: int
    commands: int

    @property
    def wrong(self) -> list[str]:
        """Everything that is not as it must be."""
        return [f"{f.what}: {text}" for f in self.findings for text in f.wrong] + self.told.own


def play(scenario: Scenario, folder: Path, kafka: str | None = None, redis_url: str | None = None) -> Outcome:
    """Run it in `folder` (removed if nothing was wrong), on these servers or on its own."""
    began_s = time.monotonic()

    def tell(what: str) -> None:
        print(f"{scenario.name} {time.monotonic() - began_s:6.1f} s  {what}", flush=True)

    home = folder / scenario.name
    with servers(scenario, home, kafka, redis_url) as on:
        site = opened(scenario, home, on)
        tell(f"installed; seed {scenario.seed}")
        supervisor = Supervisor(site, on.broker)
        operator = Operator(site)
        try:
            seen = under_fire(site, supervisor, operator)
            tell(f"{supervisor.told.kills.total()} kills; waiting until everything has matured")
            found = left(site, seen, supervisor)
        finally:
            supervisor.stop()
        tell("ended; recounting")
        findings = prove(found)
    [units] = [f.compared for f in findings if f.what == "every unit kept one arm"]
    spent_s = time.monotonic() - began_s
    outcome = Outcome(scenario, supervisor.told, seen, findings, spent_s, units, operator.commands)
    if not outcome.wrong:
        shutil.rmtree(home, ignore_errors=True)
    return outcome


def under_fire(site: CrashInstallation, supervisor: Supervisor, operator: Operator) -> Seen:
    """Traffic, commands and faults until every fault of the schedule has happened, and all is quiet again."""
    supervisor.start()
    wait_for(lambda: answering(site), UNTIL_S)
    operator.start()
    wait_for(lambda: served(site), UNTIL_S)
    crowd = Crowd(site.url, site.keys["storefront"], site.scenario)
    threads = [threading.Thread(target=target, daemon=True) for target in (supervisor.run, operator.run)]

    async def shopping() -> None:
        shoppers = asyncio.create_task(crowd.run())
        await asyncio.sleep(2.0)
        for thread in threads:
            thread.start()
        while not supervisor.done.is_set():
            await asyncio.sleep(LOOK_S)
        end = time.monotonic() + UNTIL_S
        while time.monotonic() < end and await asyncio.to_thread(
            short_lived, operator, crowd.seen, site.scenario.versions
        ):
            await asyncio.sleep(1.0)
        operator.stop.set()
        await asyncio.sleep(2.0)
        crowd.stopping.set()
        await shoppers

    asyncio.run(shopping())
    for thread, error in zip(threads, (supervisor.error, operator.error), strict=True):
        thread.join(60)
        if error is not None:
            raise error
    return crowd.seen


def left(site: CrashInstallation, seen: Seen, supervisor: Supervisor) -> Found:
    """Wait until everything has matured and has reached lake and online rows, let nobody decide any more,
    then look."""
    for behind in (uncounted, unwritten, unpushed):
        wait_for(lambda behind=behind: behind(site, ends_of(site)), UNTIL_S)
    wait_for(lambda: unvouched(site), UNTIL_S)
    wait_for(lambda: "a retraining request is open" * state_of(site).retrain_pending, UNTIL_S)
    supervisor.stop("decider", "trainer")
    wait_for(lambda: lagging(site), UNTIL_S)
    raw, rows = site.settings.home / "raw", site.settings.home / "rows.json"
    dump(site.settings.kafka_bootstrap, TOPICS, raw)
    call(online_rows, site.logs / "rows.log", site.settings, shoppers_in(raw), rows)
    beats = bootstrap.state_cache(site.settings).heartbeats()
    return Found(site, seen, raw, state_of(site), json.loads(rows.read_text()), beats)


# ---- waiting -----------------------------------------------------------------------------------------------


def wait_for(complaint: Callable[[], str], until_s: float) -> None:
    """Poll until there is no complaint. Raises AssertionError with the last one."""
    end = time.monotonic() + until_s
    while found := complaint():
        assert time.monotonic() < end, f"after {until_s:g} s: {found}"
        time.sleep(LOOK_S)


def ends_of(site: CrashInstallation) -> dict[Pair, int]:
    """Offset after the last record of both logs, by (topic, partition)."""
    logs = bootstrap.consumer(site.settings)
    try:
        return logs.end_offsets((topic, p) for topic in LOGS for p in range(site.scenario.partitions))
    finally:
        logs.close()


def uncounted(site: CrashInstallation, ends: Mapping[Pair, int]) -> str:
    """Partitions of which the stored positions have not reached the end."""
    with connected(site) as client:
        at = {p: client.get(f"{{bandit:{p}}}:positions") for p in range(site.scenario.partitions)}
    positions = {
        (topic, p): json.loads(text)[topic] for p, text in at.items() if text is not None for topic in LOGS
    }
    return behind("not counted", positions, ends)


def unwritten(site: CrashInstallation, ends: Mapping[Pair, int]) -> str:
    """Partitions of which no file reaches the end."""
    positions: dict[Pair, int] = {}
    for topic in LOGS:
        for file in (site.settings.lake_path / topic).glob("date=*/hour=*/*.parquet"):
            _, p, _, after = file.stem.split("-")
            positions[topic, int(p)] = max(positions.get((topic, int(p)), 0), int(after))
    return behind("not in the lake", positions, ends)


def unpushed(site: CrashInstallation, ends: Mapping[Pair, int]) -> str:
    """Partitions of events that the activity worker has not read to the end."""
    with connected(site) as client:
        saved: dict[str, str] = {}
        for key in client.keys("activity:positions:*"):
            saved |= client.hgetall(key)
    positions = {(events.EVENTS, int(name.rsplit("/", 1)[1])): int(at) for name, at in saved.items()}
    wanted = {pair: end for pair, end in ends.items() if pair[0] == events.EVENTS}
    return behind("not online", positions, wanted)


def behind(what: str, positions: Mapping[Pair, int], ends: Mapping[Pair, int]) -> str:
    """Pairs with records beyond their position."""
    open_ = {
        pair: (positions.get(pair, 0), end) for pair, end in ends.items() if positions.get(pair, 0) < end
    }
    return f"{what}: {open_}" if open_ else ""


def unvouched(site: CrashInstallation) -> str:
    """Whether pins that Redis forgot are still being put back, so that nobody counts."""
    with connected(site) as client:
        there = client.exists(keys.pins_complete(site.settings.experiment))
    return "" if there else "pins are missing"


def lagging(site: CrashInstallation) -> str:
    """Replicas that don't serve the newest revision yet."""
    newest = state_of(site).revision
    beats = bootstrap.state_cache(site.settings).heartbeats()
    slow = {beat.replica: beat.revision for beat in beats if beat.revision != newest}
    return f"{slow} of revision {newest}" if slow or len(beats) != site.scenario.members else ""


def served(site: CrashInstallation) -> str:
    """Whether all replicas report the champion's model."""
    beats = bootstrap.state_cache(site.settings).heartbeats()
    return "" if len([b for b in beats if b.loaded]) >= site.scenario.members else f"replicas: {beats}"


def answering(site: CrashInstallation) -> str:
    """Whether the recommend service is ready."""
    try:
        status = httpx.get(f"{site.url}/health/ready", timeout=5).status_code
    except httpx.TransportError as error:
        return str(error) or type(error).__name__
    return "" if status == 200 else f"/health/ready: {status}"


def state_of(site: CrashInstallation) -> Experiment:
    """As cached."""
    state = bootstrap.state_cache(site.settings).get(site.settings.experiment)
    assert state is not None, "no state is cached"
    return state


def short_lived(operator: Operator, seen: Seen, versions: int) -> bool:
    """Whether no unit has lived through enough weights versions yet: all faults may be over
    before that on a busy machine. With requests as units there is nothing to wait for."""
    if not seen.lives:
        return False
    since: dict[int, int] = {}
    for decision in operator.history():
        since.setdefault(decision.weights_version, decision.received_at)
    lived = (sum(born < at < last for at in since.values()) for born, last in list(seen.lives.values()))
    return max(lived) <= versions


def connected(site: CrashInstallation) -> redis.Redis:
    """A plain client."""
    return redis.Redis.from_url(site.settings.redis_url, decode_responses=True)


def shoppers_in(raw: Path) -> list[str]:
    """Everybody who did something, by the dumped events."""
    query = """select distinct coalesce(value::json->>'user_id', value::json->>'session_id')
        from read_parquet(?) order by 1"""
    with duckdb.connect() as base:
        return [who for (who,) in base.execute(query, [str(raw / f"{events.EVENTS}.parquet")]).fetchall()]
