"""Checks of Redis and the broker, and of their clocks."""

from collections.abc import Iterator, Mapping

import msgspec

from services.doctor.check_result import CheckResult, fail, ok, warn
from services.doctor.installation import Installation
from services.errors import UnavailableError
from services.messages.events import DECISIONS, EVENTS, EXPOSURES, ITEMS
from services.messages.topics import topic_partitions
from services.settings import Settings

OLDEST_REDIS = (6, 2)
KEPT_FOREVER = (DECISIONS, ITEMS)  # their readers start at the first record
DAY_MS = 86_400_000
SKEW_S = 0.5  # difference of two clocks that is worth a warning


class _Stamped(msgspec.Struct):
    received_at: int


def redis(installation: Installation) -> Iterator[CheckResult]:
    """Check that Redis answers in time, is new enough, evicts nothing, persists, and has the right time."""
    settings = installation.settings
    try:
        facts = installation.diagnostics.redis()
    except UnavailableError as error:
        yield fail("redis", str(error), "start it (`ringside redis`), or correct RINGSIDE_REDIS_URL")
        return
    version = tuple(int(part) for part in facts.version.split(".")[:2])
    if version < OLDEST_REDIS:
        yield fail("redis", f"version {facts.version}", "upgrade it: the scripts need 6.2 or later")
    else:
        yield ok("redis", f"version {facts.version}")
    yield _latency(facts.ping_ms, settings.redis_deadline_ms)
    if facts.eviction_policy == "noeviction":
        yield ok("redis", "evicts nothing")
    else:
        message = f"maxmemory-policy is {facts.eviction_policy}"
        action = "set it to noeviction: sums must not be evicted"
        yield fail("redis", message, action) if facts.max_bytes else warn("redis", message, action)
    if facts.persistent:
        yield ok("redis", "keeps its data over a restart")
    else:
        action = "set appendonly yes; otherwise a restart makes the workers rebuild all data from the log"
        yield warn("redis", "loses all data at a restart", action)
    yield _clock("clock", "Redis", facts.clock_ahead_s, settings)


def _latency(ping_ms: float, deadline_ms: int) -> CheckResult:
    if ping_ms * 4 > deadline_ms:
        action = "move it closer, or raise RINGSIDE_REDIS_DEADLINE_MS"
        return warn("redis", f"{ping_ms:.1f} ms to answer; slates wait {deadline_ms} ms", action)
    return ok("redis", f"answers in {ping_ms:.1f} ms")


def _clock(check: str, server: str, ahead_s: float, settings: Settings) -> CheckResult:
    message = f"{server} is {abs(ahead_s):.2f} s {'ahead of' if ahead_s > 0 else 'behind'} this host"
    if abs(ahead_s) > settings.watermark_safety_s:
        action = "run NTP on both: counting relies on clocks within RINGSIDE_WATERMARK_SAFETY_S"
        return fail(check, message, action)
    if abs(ahead_s) > SKEW_S:
        return warn(check, message, "run NTP on both")
    return ok(check, message)


def broker(installation: Installation) -> Iterator[CheckResult]:
    """Check that the broker answers and has every topic with the right partitions, stamps and retention."""
    settings = installation.settings
    try:
        facts = installation.diagnostics.topics()
    except UnavailableError as error:
        yield fail("broker", str(error), "start it (`ringside kafka`), or correct RINGSIDE_KAFKA_BOOTSTRAP")
        return
    missing = [topic for topic, of_topic in facts.items() if not of_topic.partitions]
    if missing:
        yield fail("topics", f"these topics do not exist: {', '.join(missing)}", "run `ringside topics`")
    for topic, of_topic in facts.items():
        wanted = topic_partitions(topic, settings.kafka_partitions)
        if of_topic.partitions and of_topic.partitions != wanted:
            action = "set RINGSIDE_KAFKA_PARTITIONS to the number of partitions of exposures and events"
            yield fail("topics", f"{topic} has {of_topic.partitions} partitions, not {wanted}", action)
        yield from _configs(settings, topic, of_topic.configs)
    if not missing:
        yield ok("topics", f"{len(facts)} on {settings.kafka_bootstrap}")
    if EXPOSURES not in missing:
        yield _append_clock(installation)


def _configs(settings: Settings, topic: str, configs: Mapping[str, str]) -> Iterator[CheckResult]:
    """Check the configuration of one topic; empty where the broker reports none (the embedded one)."""
    if not configs:
        return
    alter = f"kafka-configs.sh --alter --topic {topic} --add-config"
    if configs["message.timestamp.type"] != "LogAppendTime":
        message = f"{topic}: records carry their sender's time"
        yield fail("topics", message, f"{alter} message.timestamp.type=LogAppendTime")
    policy = "compact" if topic == ITEMS else "delete"
    if configs["cleanup.policy"] != policy:
        message = f"{topic}: cleanup.policy is {configs['cleanup.policy']}"
        yield fail("topics", message, f"{alter} cleanup.policy={policy}")
    retention_ms, least_ms = int(configs["retention.ms"]), least_retention_ms(settings)
    if topic in KEPT_FOREVER and (retention_ms != -1 or int(configs["retention.bytes"]) != -1):
        message = f"{topic} forgets old records"
        yield fail("topics", message, f"{alter} retention.ms=-1,retention.bytes=-1")
    elif topic in (EXPOSURES, EVENTS) and 0 <= retention_ms < least_ms:
        message = f"{topic} is kept {retention_ms / 1_000:.0f} s, counting needs {least_ms / 1_000:.0f} s"
        yield fail("topics", message, f"{alter} retention.ms={7 * DAY_MS}")
    elif topic in (EXPOSURES, EVENTS) and 0 <= retention_ms < DAY_MS:
        message = f"{topic} is kept {retention_ms / 3.6e6:.1f} h"
        action = f"longer outages of workers lose data; {alter} retention.ms={7 * DAY_MS}"
        yield warn("topics", message, action)


def least_retention_ms(settings: Settings) -> int:
    """Return how far back an attribution worker must be able to read after a restart, ms."""
    return round(1_000 * (settings.window_s + 2 * settings.lateness_s + settings.stall_s))


def _append_clock(installation: Installation) -> CheckResult:
    """Check the broker's clock by its newest exposures: they are appended soon after they were received."""
    settings = installation.settings
    try:
        newest = installation.diagnostics.newest_records(EXPOSURES)
    except UnavailableError as error:
        return warn("clock", f"no record can be read: {error}", "see the broker's log")
    delays_ms = [append_ms - at for append_ms, value in newest if (at := _received_at(value)) is not None]
    if not delays_ms:
        return ok("clock", "the broker's clock can't be compared yet: there are no exposures")
    delay_ms = min(delays_ms, key=abs)
    earliest_ms = -1_000 * settings.watermark_safety_s
    latest_ms = 1_000 * (settings.lateness_s + settings.watermark_safety_s)
    if earliest_ms <= delay_ms <= latest_ms:
        return ok("clock", f"the broker appends {delay_ms / 1e3:.2f} s after exposures were received")
    return _clock("clock", "the broker", delay_ms / 1_000, settings)


def _received_at(value: bytes) -> int | None:
    try:
        return msgspec.json.decode(value, type=_Stamped).received_at
    except msgspec.MsgspecError:
        return None
