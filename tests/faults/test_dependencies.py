"""Redis and the broker refuse, hang or crawl: slates go on and say what is missing, events wait, nothing is
lost, and all is well again without a restart."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.proxied_servers import BOTH, ProxiedServers, check_promises, measure_fault, time_to_recovery
from support.real_installation import RecommendService, serving

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def site() -> Iterator[ProxiedServers]:
    from services.local_servers.embedded_kafka import EmbeddedBroker
    from services.local_servers.redis import EmbeddedRedis

    with EmbeddedRedis() as redis, EmbeddedBroker(partitions=4) as broker:
        site = ProxiedServers(redis, broker)
        yield site
        site.close()


@pytest.fixture(scope="module")
def service(installation: tuple[Path, str], site: ProxiedServers) -> Iterator[RecommendService]:
    home, model = installation
    with serving(site.settings(home, drain_s=0.5)) as service:
        service.start_experiment(model)
        yield service


@pytest.mark.parametrize(
    ("names", "how"),
    [
        (("redis",), "refused"),
        (("redis",), "slow"),
        (("broker",), "hung"),
        (("broker",), "slow"),
        (BOTH, "hung"),
        (BOTH, "refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_a_fault_while_running(
    site: ProxiedServers, service: RecommendService, names: tuple[str, ...], how: str
) -> None:
    row = measure_fault(site, service, names, how)
    check_promises(row, names, how)


def test_the_kill_switch_works_while_both_are_dead(site: ProxiedServers, service: RecommendService) -> None:
    site.fault(BOTH, "refused")
    assert service.client.post("/champion-only", json={"on": True}).status_code == 200
    answer = service.slate()
    while "champion_only" not in answer["degraded"]:
        answer = service.slate()
    assert (answer["arm"], len(answer["items"])) == ("first", 3)
    assert service.client.post("/champion-only", json={"on": False}).status_code == 200
    site.heal()
    time_to_recovery(service)
