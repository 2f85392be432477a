"""ports.ItemOverlay: one suite, in memory and on Redis."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.breakable import BreakableItemOverlay

from services.adapters.redis.item_overlay import RedisItemOverlay
from services.errors import StalePositionError, UnavailableError
from services.messages.events import ItemChanged
from services.ports.catalogue import ItemOverlay, OverlayPosition
from services.settings import Settings


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def overlay(request: pytest.FixtureRequest, settings_for: Callable[..., Settings]) -> Iterator[ItemOverlay]:
    if request.param == "memory":
        yield BreakableItemOverlay()
    else:
        yield RedisItemOverlay(settings_for(redis=request.getfixturevalue("redis_server")))


def change(item: str, **fields: Any) -> ItemChanged:
    return ItemChanged(received_at=1, item_id=item, **fields)


def at(offset: int, log: str = "log") -> OverlayPosition:
    return OverlayPosition(log, offset)


def test_nothing_is_laid_at_first(overlay: ItemOverlay) -> None:
    assert (overlay.position(), overlay.changes()) == (None, (None, []))


def test_applied_changes_come_back_in_log_order(overlay: ItemOverlay) -> None:
    first = [change("b", stock=0), change("a", price=2.0, title="Käse\n \u2028 |")]
    overlay.apply(None, at(2), first)
    overlay.apply(at(2), at(3), [change("c", deleted=True)])
    assert overlay.changes() == (at(3), [*first, change("c", deleted=True)])


def test_the_newest_change_of_each_key_keeps_its_position(overlay: ItemOverlay) -> None:
    overlay.apply(None, at(3), [change("a", price=2.0), change("a", stock=1), change("a", price=3.0)])
    overlay.apply(at(3), at(4), [change("a", stock=2)])
    assert overlay.changes()[1] == [change("a", price=3.0), change("a", stock=2)]


def test_the_place_moves_without_changes_too(overlay: ItemOverlay) -> None:
    overlay.apply(None, at(5), [])
    assert (overlay.position(), overlay.changes()) == (at(5), (at(5), []))


def test_only_who_stands_at_the_place_may_lay(overlay: ItemOverlay) -> None:
    overlay.apply(None, at(1), [change("a", stock=1)])
    for stale in (None, at(0), at(1, "another log")):
        with pytest.raises(StalePositionError):
            overlay.apply(stale, at(2), [change("a", stock=9)])
    assert overlay.changes() == (at(1), [change("a", stock=1)])


def test_another_log_comes_on_top_of_what_was_laid(overlay: ItemOverlay) -> None:
    overlay.apply(None, at(900), [change("a", stock=1), change("b", stock=1)])
    overlay.apply(at(900), at(1, "new log"), [change("a", stock=2)])
    assert overlay.changes() == (at(1, "new log"), [change("b", stock=1), change("a", stock=2)])


def test_of_many_who_lay_the_same_one_succeeds(overlay: ItemOverlay) -> None:
    def apply(_: int) -> bool:
        try:
            overlay.apply(None, at(2), [change("a", stock=1), change("b", stock=1)])
        except StalePositionError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(apply, range(12))) == 1
    assert len(overlay.changes()[1]) == 2


def test_an_invalid_change_from_an_older_replica_is_skipped(redis_server, settings_for) -> None:
    overlay = RedisItemOverlay(settings_for(redis=redis_server))
    senseless = change("b", stock=3_000_000_000)
    overlay.apply(None, at(3), [change("a", stock=1), senseless, change("c", stock=1)])
    assert overlay.changes() == (at(3), [change("a", stock=1), change("c", stock=1)])


def test_a_dead_redis_is_unavailable(redis_server: Any, settings_for: Callable[..., Settings]) -> None:
    overlay = RedisItemOverlay(settings_for(redis=redis_server, state_deadline_ms=100))
    overlay.apply(None, at(1), [change("a", stock=1)])
    redis_server.server.freeze()
    for ask in (overlay.position, overlay.changes, lambda: overlay.apply(at(1), at(2), [])):
        with pytest.raises(UnavailableError):
            ask()
