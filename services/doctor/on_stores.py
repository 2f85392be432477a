"""Redis, the broker and the clocks, judged."""

from collections.abc import Iterator, Mapping

import msgspec

from services import bootstrap
from services.doctor.findings import Finding, fail, ok, warn
from services.errors import UnavailableError
from services.messages.events import DECISIONS, EVENTS, EXPOSURES, ITEMS
from services.messages.topics import topic_partitions
from services.settings import Settings

OLDEST_REDIS = (6, 2)
KEPT_FOREVER = (DECISIONS, ITEMS)  # folded from their first record on
DAY_MS = 86_400_000
AHEAD_S = 0.5  # of a clock; more is told


class _Stamped(msgspec.Struct):
    received_at: int


def redis(settings: Settings) -> Iterator[Finding]:
    """Reachable, new enough, forgets nothing, fast enough, and of our time."""
    try:
        facts = bootstrap.diagnostics(settings).redis()
    except UnavailableError as error:
        yield fail("redis", str(error), "start it (`ringside redis`), or mend RINGSIDE_REDIS_URL")
        return
    numbers = tuple(int(part) for part in facts.version.split(".")[:2])
    if numbers < OLDEST_REDIS:
        yield fail("redis", f"version {facts.version}", "6.2 is the oldest whose scripts do")
    else:
        yield ok("redis", f"version {facts.version}")
    yield _latency(facts.ping_ms, settings.redis_deadline_ms)
    if facts.policy != "noeviction":
        said, todo = (
            f"maxmemory-policy is {facts.policy}",
            "set it to noeviction: sums must not be thrown away",
        )
        yield fail("redis", said, todo) if facts.max_bytes else warn("redis", said, todo)
    else:
        yield ok("redis", "throws nothing away")
    if facts.saves:
        yield ok("redis", "keeps its data over a restart")
    else:
        yield warn(
            "redis", "forgets everything at a restart", "set appendonly yes; else all is rebuilt from the log"
        )
    yield _clock("clock", "Redis", facts.ahead_s, settings)


def _latency(ping_ms: float, deadline_ms: int) -> Finding:
    if ping_ms * 4 > deadline_ms:
        todo = "bring it nearer, or raise RINGSIDE_REDIS_DEADLINE_MS"
        return warn("redis", f"{ping_ms:.1f} ms to answer; slates wait {deadline_ms} ms", todo)
    return ok("redis", f"answers in {ping_ms:.1f} ms")


def _clock(check: str, whose: str, ahead_s: float, settings: Settings) -> Finding:
    said = f"{whose} is {abs(ahead_s):.2f} s {'ahead of' if ahead_s > 0 else 'behind'} us"
    if abs(ahead_s) > settings.watermark_safety_s:
        return fail(check, said, "run NTP on both: counting trusts clocks within RINGSIDE_WATERMARK_SAFETY_S")
    if abs(ahead_s) > AHEAD_S:
        return warn(check, said, "run NTP on both")
    return ok(check, said)


def broker(settings: Settings) -> Iterator[Finding]:
    """Reachable; topics there, with their partitions, stamped by the broker, kept long enough."""
    try:
        facts = bootstrap.diagnostics(settings).topics()
    except UnavailableError as error:
        yield fail("broker", str(error), "start it (`ringside kafka`), or mend RINGSIDE_KAFKA_BOOTSTRAP")
        return
    missing = [topic for topic, found in facts.items() if not found.partitions]
    if missing:
        yield fail("topics", f"{', '.join(missing)}: there is none", "run `ringside topics`")
    for topic, found in facts.items():
        wanted = topic_partitions(topic, settings.kafka_partitions)
        if found.partitions and found.partitions != wanted:
            todo = "set RINGSIDE_KAFKA_PARTITIONS to what exposures and events have; it is fixed at creation"
            yield fail("topics", f"{topic} has {found.partitions} partitions, not {wanted}", todo)
        yield from _configs(settings, topic, found.configs)
    if not missing:
        yield ok("topics", f"{len(facts)} on {settings.kafka_bootstrap}")
    yield from _stamps(settings, missing)


def _configs(settings: Settings, topic: str, configs: Mapping[str, str]) -> Iterator[Finding]:
    if not configs:
        return
    alter = f"kafka-configs.sh --alter --topic {topic} --add-config"
    if configs["message.timestamp.type"] != "LogAppendTime":
        said = f"{topic}: records carry their sender's time"
        yield fail("topics", said, f"{alter} message.timestamp.type=LogAppendTime")
    policy = "compact" if topic == ITEMS else "delete"
    if configs["cleanup.policy"] != policy:
        said = f"{topic}: cleanup.policy is {configs['cleanup.policy']}"
        yield fail("topics", said, f"{alter} cleanup.policy={policy}")
    retention_ms, least_ms = int(configs["retention.ms"]), least_retention_ms(settings)
    if topic in KEPT_FOREVER and (retention_ms != -1 or int(configs["retention.bytes"]) != -1):
        yield fail("topics", f"{topic} forgets after a while", f"{alter} retention.ms=-1,retention.bytes=-1")
    elif topic in (EXPOSURES, EVENTS) and 0 <= retention_ms < least_ms:
        said = f"{topic} is kept {retention_ms / 1_000:.0f} s, counting needs {least_ms / 1_000:.0f} s"
        yield fail("topics", said, f"{alter} retention.ms={7 * DAY_MS}")
    elif topic in (EXPOSURES, EVENTS) and 0 <= retention_ms < DAY_MS:
        said = f"{topic} is kept {retention_ms / 3.6e6:.1f} h"
        yield warn("topics", said, f"an outage of workers must be shorter; {alter} retention.ms={7 * DAY_MS}")


def least_retention_ms(settings: Settings) -> int:
    """What a bandit worker must be able to read again after a restart, ms."""
    return round(1_000 * (settings.window_s + 2 * settings.lateness_s + settings.stall_s))


def _stamps(settings: Settings, missing: list[str]) -> Iterator[Finding]:
    """The broker's clock by the newest records: appended after we received them, and soon."""
    if EXPOSURES in missing:
        return
    try:
        newest = bootstrap.diagnostics(settings).newest_records(EXPOSURES)
    except UnavailableError as error:
        yield warn("clock", f"no record can be read: {error}", "see the broker's log")
        return
    apart = [append_ms - at for append_ms, value in newest if (at := _received_at(value)) is not None]
    if not apart:
        yield ok("clock", "the broker's can't be compared yet: there are no exposures")
        return
    ahead_ms = min(apart, key=abs)
    if (
        -1_000 * settings.watermark_safety_s
        <= ahead_ms
        <= 1_000 * (settings.lateness_s + settings.watermark_safety_s)
    ):
        yield ok("clock", f"the broker's stamps are {ahead_ms / 1e3:.2f} s after ours")
    else:
        yield _clock("clock", "the broker", ahead_ms / 1_000, settings)


def _received_at(value: bytes) -> int | None:
    try:
        return msgspec.json.decode(value, type=_Stamped).received_at
    except msgspec.MsgspecError:
        return None
