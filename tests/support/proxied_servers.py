"""Redis and a broker behind proxies, and a storefront's client in front: what fails, and what is seen."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from services import bootstrap
from services.client.client import Client
from services.messages.events import EVENTS, EXPOSURES
from services.settings import Settings
from support.faulty_proxy import FaultyProxy
from support.http_shoppers import ShopperGroup, ShopperLog
from support.real_installation import STOREFRONT, RecommendService, settings_of
from support.waiting import wait_until

SLOW_S = {"redis": 0.1, "broker": 0.2}  # each way: beyond the deadline of a slate, within that of events
DEADLINES = {"redis_deadline_ms": 40, "rank_deadline_ms": 500, "broker_ack_deadline_ms": 800}
SLACK_S = 2.0  # another process may take the machine
CONNECTIONS = 4
BOTH = ("redis", "broker")
# slow: within the deadline of an acknowledgement, if nothing else comes in between
EVENTS_STATUS = {"refused": {503}, "hung": {503}, "slow": {202, 503}}


@dataclass
class ProxiedServers:
    """`dependencies`: what has `.server` (freeze, thaw); a proxy of each stands in between."""

    redis: Any
    broker: Any
    proxies: dict[str, FaultyProxy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kafka_port = int(self.broker.bootstrap.rsplit(":", 1)[1])
        self.proxies = {"redis": FaultyProxy(self.redis.port), "broker": FaultyProxy(kafka_port)}

    def settings(self, home: Any, **changes: Any) -> Settings:
        """Of a service behind the proxies."""
        mode = "kafka" if type(self.broker).__name__ == "LocalKafka" else "embedded"
        return settings_of(
            home,
            redis_url=f"redis://127.0.0.1:{self.proxies['redis'].port}/0",
            kafka_bootstrap=f"127.0.0.1:{self.proxies['broker'].port}",
            kafka_mode=mode,
            kafka_partitions=self.broker.partitions,
            **{**DEADLINES, **changes},
        )

    def fault(self, names: Sequence[str], how: str) -> None:
        """refused: connections break and are refused; hung: SIGSTOP; slow: latency."""
        for name in names:
            if how == "refused":
                self.proxies[name].refuse()
            elif how == "hung":
                getattr(self, name).server.freeze()
            else:
                self.proxies[name].slow(SLOW_S[name])

    def heal(self) -> None:
        """End every fault."""
        for name, proxy in self.proxies.items():
            getattr(self, name).server.thaw()
            proxy.pass_on()

    def log(self, topic: str) -> list[dict[str, Any]]:
        """Everything in a topic, read past the proxies."""
        direct = Settings(
            kafka_bootstrap=self.broker.bootstrap,
            kafka_mode=self.settings(".").kafka_mode,
            kafka_partitions=self.broker.partitions,
        )
        consumer = bootstrap.consumer(direct)
        pairs = [(topic, index) for index in range(self.broker.partitions)]
        consumer.assign({pair: consumer.bounds(*pair)[0] for pair in pairs})
        ends, found = consumer.end_offsets(pairs), []
        while any(consumer.positions()[pair] < ends[pair] for pair in pairs):
            found += [json.loads(record.value) for record in consumer.poll(0.2)]
        consumer.close()
        return found

    def close(self) -> None:
        """End the proxies."""
        self.heal()
        for proxy in self.proxies.values():
            proxy.close()


def run_shoppers(service: RecommendService, answers: int) -> ShopperLog:
    """Let shoppers request slates until `answers` answers have arrived; return what they observed."""

    async def story() -> ShopperLog:
        async with ShopperGroup(service.port, STOREFRONT, size=CONNECTIONS, repeats=0) as seen:
            while sum(seen.statuses.values()) + len(seen.failed) < answers:
                await asyncio.sleep(0.05)
        return seen

    return asyncio.run(story())


def post_event(service: RecommendService) -> httpx.Response:
    """The answer to one POST /events that a client makes by hand."""
    row = {"event_id": f"probe-{time.monotonic_ns()}", "type": "view", "item_id": "x"}
    return service.client.post("/events", json=[row])


def time_to_delivery(shop: Client) -> float:
    """Seconds until the client's outbox is empty, and the service answers in full again."""
    began = time.monotonic()
    while pause_s := shop.deliver():
        time.sleep(min(pause_s, 0.2))
    return time.monotonic() - began


def time_to_recovery(service: RecommendService) -> float:
    """Seconds until nothing is missing in an answer."""
    began = time.monotonic()
    wait_until(lambda: service.slate()["degraded"] is None)
    return time.monotonic() - began


def missing_events(site: ProxiedServers, event_ids: set[str]) -> set[str]:
    """Events that aren't in the log."""
    return event_ids - {row["event_id"] for row in site.log(EVENTS)}


def exposed_users(site: ProxiedServers) -> set[str]:
    """Users whose slates are in the log."""
    return {row["user_id"] for row in site.log(EXPOSURES)}


def measure_fault(
    site: ProxiedServers, service: RecommendService, names: Sequence[str], how: str, answers: int = 200
) -> Mapping[str, Any]:
    """One fault while shoppers shop and a storefront reports, and what was seen. No event may be lost."""
    shop = Client(f"http://127.0.0.1:{service.port}", STOREFRONT)
    ids = {shop.record("view", "x", session_id=f"s{at}") for at in range(50)}
    site.fault(names, how)
    seen = run_shoppers(service, answers)
    by_hand, pause_s = post_event(service), shop.deliver()
    if how == "slow":
        time_to_delivery(shop)  # slow servers delay events, but lose none
    site.heal()
    recovery_s, delivery_s = time_to_recovery(service), time_to_delivery(shop)
    shop.close()
    assert not seen.failed
    assert missing_events(site, ids) == set()
    after = {"recovery_s": round(recovery_s, 2), "delivery_s": round(delivery_s, 2)}
    return summary_row(seen, by_hand, fault=f"{'+'.join(names)} {how}", client_waits_s=pause_s, **after)


def check_promises(row: Mapping[str, Any], names: Sequence[str], how: str) -> None:
    """What is promised, whatever the speed of the machine."""
    assert set(row["statuses"]) == {200}
    if "redis" in names:
        assert "None" not in row["degraded"]  # something was missing in every answer
    codes = {code for codes in row["degraded"] for code in codes.split(",")}
    assert codes <= {"None", "no_fresh_features", "cut_off"}
    deadlines_s = (DEADLINES["redis_deadline_ms"] + DEADLINES["rank_deadline_ms"]) / 1e3
    assert row["p99_ms"] / 1e3 < deadlines_s + SLACK_S
    assert row["events"] in (EVENTS_STATUS[how] if "broker" in names else {202})
    assert row["retry_after"] == ("1" if row["events"] == 503 else None)
    if how != "slow":
        assert row["client_waits_s"] == (1.0 if "broker" in names else 0.0)


def summary_row(seen: ShopperLog, events: httpx.Response, **more: Any) -> Mapping[str, Any]:
    """One row of the table of faults."""
    ms = np.array(seen.seconds) * 1e3
    return {
        **more,
        "answers": len(ms),
        "statuses": dict(seen.statuses),
        "p50_ms": round(float(np.percentile(ms, 50)), 1),
        "p99_ms": round(float(np.percentile(ms, 99)), 1),
        "max_ms": round(float(ms.max()), 1),
        "degraded": dict(seen.degraded),
        "events": events.status_code,
        "retry_after": events.headers.get("retry-after"),
    }
