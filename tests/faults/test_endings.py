"""A service that ends: in order it loses no exposure of an answered slate; killed, only the newest."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http_shoppers import ShopperGroup, ShopperLog, wait_for_responses
from support.proxied_servers import ProxiedServers, exposed_users
from support.real_installation import STOREFRONT, RecommendService, serving

from services.adapters.kafka.producer import LINGER_S

SLACK_S = 1.0  # the producer's thread and the broker, on a machine with other work


pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def site() -> Iterator[ProxiedServers]:
    from services.local_servers.embedded_kafka import EmbeddedBroker
    from services.local_servers.redis import EmbeddedRedis

    with EmbeddedRedis() as redis, EmbeddedBroker(partitions=4) as broker:
        site = ProxiedServers(redis, broker)
        yield site
        site.close()


def ended(service: RecommendService, how: str) -> tuple[ShopperLog, float]:
    """What shoppers saw of a service that ends while they shop, and when it was told to."""

    async def story() -> tuple[ShopperLog, float]:
        async with ShopperGroup(service.port, STOREFRONT, size=8, repeats=0) as seen:
            await wait_for_responses(seen, 300)
            told_s = time.monotonic()
            getattr(service.process, how)()
            await asyncio.to_thread(service.process.wait, 30)
        return seen, told_s

    return asyncio.run(story())


def test_sigterm_loses_no_exposure_of_an_answered_slate(
    installation: tuple[Path, str], site: ProxiedServers
) -> None:
    with serving(site.settings(installation[0])) as service:
        site.fault(["broker"], "slow")  # what is answered last is not in the log when the signal comes
        seen, told_s = ended(service, "terminate")
    site.heal()
    assert seen.closed_politely > 0
    assert max(seen.users.values()) > told_s  # kept connections were answered once more
    assert set(seen.users) - exposed_users(site) == set()


def test_sigkill_loses_at_most_what_was_answered_within_the_linger(
    installation: tuple[Path, str], site: ProxiedServers
) -> None:
    with serving(site.settings(installation[0])) as service:
        seen, told_s = ended(service, "kill")
    missing = set(seen.users) - exposed_users(site)
    assert {user for user in missing if seen.users[user] < told_s - LINGER_S - SLACK_S} == set()
