"""Several processes behind one socket: killed, replaced, reloaded, while shoppers shop."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_shoppers import Connection, ShopperGroup, wait_for_responses
from support.real_installation import (
    ADMIN,
    RINGSIDE,
    STOREFRONT,
    RecommendService,
    environment,
    serving,
    settings_of,
)
from support.waiting import wait_until

WORKERS = 2


pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture
def service(
    installation: tuple[Path, str], redis_server: Any, embedded_broker: Any
) -> Iterator[RecommendService]:
    home, model = installation
    settings = settings_of(
        home,
        recommend_workers=WORKERS,
        redis_url=redis_server.url,
        kafka_bootstrap=embedded_broker.bootstrap,
        drain_s=1.0,
        redis_deadline_ms=2_000,  # what dies here is ours; a busy machine is no fault of Redis
    )
    with serving(settings) as service:
        wait_until(lambda: len(service.workers()) == WORKERS)
        service.start_experiment(model)
        yield service


def test_a_client_that_repeats_once_survives_killed_workers(service: RecommendService) -> None:
    async def story() -> Any:
        async with ShopperGroup(service.port, STOREFRONT, size=12, repeats=1) as seen:
            for _ in range(3):
                await wait_for_responses(seen, 100)
                victim = service.workers()[0]
                await asyncio.to_thread(victim.kill)
                await asyncio.to_thread(wait_until, lambda: len(service.workers()) == WORKERS)
                await wait_for_responses(seen, 100)
        return seen

    seen = asyncio.run(story())
    assert (seen.failed, set(seen.statuses)) == ([], {200})
    assert seen.broken > 0  # the kills were felt; else this test shows nothing


def test_a_reload_under_load_loses_no_request(service: RecommendService) -> None:
    before = {worker.pid for worker in service.workers()}

    async def story() -> Any:
        async with ShopperGroup(service.port, STOREFRONT, size=12, repeats=0) as seen:
            await wait_for_responses(seen, 100)
            done = await asyncio.to_thread(command, service, "--reload")
            await wait_for_responses(seen, 100)
        return seen, done

    seen, done = asyncio.run(story())
    assert (done.returncode, done.stdout) == (0, b"every worker was replaced\n")
    assert (seen.failed, seen.broken, set(seen.statuses)) == ([], 0, {200})
    assert seen.closed_politely > 0
    after = {worker.pid for worker in service.workers()}
    assert len(after) == WORKERS
    assert not before & after


def test_workers_share_new_connections_and_leave_with_their_supervisor(service: RecommendService) -> None:
    wait_until(lambda: len(asyncio.run(replicas(service))) == WORKERS)
    workers = service.workers()
    service.process.kill()
    wait_until(lambda: not any(worker.is_running() for worker in workers))


async def replicas(service: RecommendService) -> set[str]:
    """Who answers connections that are opened at once."""
    connections = [Connection(service.port, ADMIN["X-API-Key"]) for _ in range(40)]
    answers = await asyncio.gather(*(one.ask("/health/ready") for one in connections))
    for one in connections:
        one.close()
    return {json.loads(body)["replica"] for _, body in answers}


def test_nobody_to_reload_is_said(installation: tuple[Path, str]) -> None:
    home, _ = installation
    done = subprocess.run(
        [RINGSIDE, "recommend", "--reload"], env=environment(settings_of(home)), capture_output=True
    )
    assert done.returncode == 2
    assert b"recommend_workers" in done.stderr


def command(service: RecommendService, *options: str) -> subprocess.CompletedProcess[bytes]:
    """`ringside recommend …` beside the service."""
    return subprocess.run(
        [RINGSIDE, "recommend", *options], env=environment(service.settings), capture_output=True
    )
