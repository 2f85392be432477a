"""`degraded` is null only when nothing was missing, whichever parts are dead; and every answer is a slate."""

from itertools import chain, combinations
from pathlib import Path

import pytest
from support.small_shop import Caller, SmallShop, ids

PARTS = ("reader", "cache", "log", "broker", "overlay", "model")
SUBSETS = list(chain.from_iterable(combinations(PARTS, size) for size in range(len(PARTS) + 1)))


def kill(shop: SmallShop, dead: tuple[str, ...]) -> None:
    for name in set(PARTS) - {"model"}:
        getattr(shop, name).down = name in dead
    shop.good.fails = "model" in dead


def expected(dead: tuple[str, ...], known: bool) -> str | None:
    """What must be said, in the order of the steps."""
    notes = ["no_fresh_features"] if "reader" in dead and known else []
    if "model" in dead:
        notes += ["failed:good", "cached_slate" if known else "popular"]
    return ",".join([*notes, *(["exposure_lost"] if "broker" in dead else [])]) or None


def says(call: Caller, **visitor: str | None) -> tuple[str | None, int]:
    answer = call.slate(n=2, **visitor)
    return answer["degraded"], len(ids(answer))


@pytest.mark.parametrize("dead", SUBSETS, ids=lambda dead: "+".join(dead) or "nothing")
def test_what_is_missing_is_said(tmp_path: Path, dead: tuple[str, ...]) -> None:
    shop = SmallShop(tmp_path, category_share=1.0)
    shop.start()
    with shop.client() as call:
        before = call.slate(n=2)
        kill(shop, dead)
        call.refresh()
        assert says(call) == (expected(dead, known=True), 2)
        assert says(call, user=None, session=None) == (expected(dead, known=False), 2)
        if "model" in dead:
            assert ids(call.slate(n=2)) == ids(before)  # the champion's cached slate
        kill(shop, ())
        call.refresh()
        assert says(call, user="somebody else") == (None, 2)
