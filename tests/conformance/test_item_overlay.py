"""ports.ItemOverlay: one suite, in memory and on Redis."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.adapters.item_overlay import RedisItemOverlay
from services.adapters.memory import MemoryItemOverlay
from services.errors import UnavailableError
from services.events import ItemChanged
from services.ports import ItemOverlay
from services.settings import Settings


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def overlay(request: pytest.FixtureRequest, settings_for: Callable[..., Settings]) -> Iterator[ItemOverlay]:
    if request.param == "memory":
        yield MemoryItemOverlay()
    else:
        yield RedisItemOverlay(settings_for(redis=request.getfixturevalue("redis_server")))


def change(item: str, **said: Any) -> ItemChanged:
    return ItemChanged(received_at=1, item_id=item, **said)


def test_nothing_has_changed_at_first(overlay: ItemOverlay) -> None:
    assert (overlay.revision(), overlay.changes()) == (0, {})


def test_later_fields_win_and_unsaid_ones_stay(overlay: ItemOverlay) -> None:
    overlay.apply([change("a", price=2.0, title="A"), change("b", stock=0)])
    overlay.apply([change("a", price=3.0)])
    found = overlay.changes()
    assert (found["a"].price, found["a"].title, found["b"].stock) == (3.0, "A", 0)


def test_one_batch_may_change_an_item_twice(overlay: ItemOverlay) -> None:
    overlay.apply([change("a", price=2.0, hidden=True), change("a", price=3.0)])
    found = overlay.changes()["a"]
    assert (found.price, found.hidden) == (3.0, True)


def test_a_deletion_forgets_all_and_can_be_taken_back(overlay: ItemOverlay) -> None:
    overlay.apply([change("a", price=2.0)])
    overlay.apply([change("a", deleted=True)])
    assert (overlay.changes()["a"].deleted, overlay.changes()["a"].price) == (True, None)
    overlay.apply([change("a", title="back")])
    assert (overlay.changes()["a"].deleted, overlay.changes()["a"].title) == (False, "back")


def test_the_revision_grows_with_every_change(overlay: ItemOverlay) -> None:
    seen = [overlay.apply([change("a", stock=step)]) for step in range(3)]
    assert seen == sorted(set(seen))
    assert overlay.revision() == seen[-1]
    assert overlay.apply([]) == seen[-1]


def test_concurrent_changes_are_all_kept(overlay: ItemOverlay) -> None:
    def stock(step: int) -> None:
        while True:
            try:
                overlay.apply(
                    [change(f"i{step % 4}", **{("price", "stock", "title")[step % 3]: _value(step)})]
                )
                return
            except UnavailableError:  # too many others were faster: the caller tries again
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(stock, range(12)))
    found = overlay.changes()
    assert set(found) == {"i0", "i1", "i2", "i3"}
    assert all(None not in (said.price, said.stock, said.title) for said in found.values())


def _value(step: int) -> Any:
    return (1.0, 1, "t")[step % 3]


def test_a_dead_redis_is_unavailable(redis_server: Any, settings_for: Callable[..., Settings]) -> None:
    overlay = RedisItemOverlay(settings_for(redis=redis_server, state_deadline_ms=100))
    overlay.apply([change("a", stock=1)])
    redis_server.server.freeze()
    for ask in (overlay.revision, overlay.changes, lambda: overlay.apply([change("a")])):
        with pytest.raises(UnavailableError):
            ask()
