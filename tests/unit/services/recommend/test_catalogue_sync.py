"""The log of item changes: its result, compacted or not, and with a newer import."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_shop import START_MS, Caller, SmallShop, ids

from services.adapters.memory.event_log import MemoryEventConsumer, MemoryLogAdmin
from services.errors import UnavailableError
from services.messages.events import ITEM_FIELDS, ITEMS, ItemChanged, encode
from services.ports.catalogue import CatalogueProvenance, OverlayPosition
from services.recommend.catalogue_sync import BATCH, IDLE_S, ItemsFollower
from services.recommend.snapshot.item_changes import exists, in_force

partial = st.fixed_dictionaries(
    {}, optional={"title": st.sampled_from("TU"), "price": st.integers(0, 3), "stock": st.integers(0, 3)}
)
WHOLE = {"title": "W", "category": "c", "price": 1.0, "stock": 1, "hidden": False, "description": "d"}
change = st.one_of(
    st.builds(
        lambda item, stock: {"item_id": item, **WHOLE, "stock": stock},
        st.sampled_from("ab"),
        st.integers(0, 3),
    ),
    st.builds(lambda item, fields: {"item_id": item, **fields}, st.sampled_from("ab"), partial),
    st.builds(lambda item: {"item_id": item, "deleted": True}, st.sampled_from("ab")),
)
ANY = st.lists(change, max_size=12)


def timed(rows: list[dict]) -> list[ItemChanged]:
    return [ItemChanged(received_at=at, **row) for at, row in enumerate(rows)]


def compacted(changes: list[ItemChanged]) -> list[ItemChanged]:
    """As Kafka does: of each key the last record, where it stands."""
    last = {change.key: place for place, change in enumerate(changes)}
    return [change for place, change in enumerate(changes) if last[change.key] == place]


def meaning(held: dict[str, ItemChanged]) -> dict[str, tuple]:
    """Without `received_at`, and without items that no change sets."""
    fields = {item: tuple(getattr(now, name) for name in ITEM_FIELDS) for item, now in held.items()}
    return {
        item: (held[item].deleted, *row)
        for item, row in fields.items()
        if held[item].deleted or any(value is not None for value in row)
    }


@given(ANY, st.integers(0, 12))
def test_a_compacted_log_means_what_the_whole_one_means(rows: list[dict], as_of_ms: int) -> None:
    changes, imported = timed(rows), CatalogueProvenance(as_of_ms, frozenset({"title", "price"}))
    assert meaning(in_force(compacted(changes), imported)) == meaning(in_force(changes, imported))


@given(ANY)
def test_the_last_change_of_each_field_holds_without_import(rows: list[dict]) -> None:
    """Of a deleted item nothing less than a whole one is a word."""
    expected: dict[str, dict] = {}
    for row in rows:
        now = expected.get(row["item_id"], {})
        if row.get("deleted") or (now.get("deleted") and WHOLE.keys() <= row.keys()):
            now = {}
        if not now.get("deleted"):
            expected[row["item_id"]] = {**now, **row}
    held = in_force(timed(rows), CatalogueProvenance())
    assert {item: now.deleted for item, now in held.items()} == {
        item: row.get("deleted", False) for item, row in expected.items()
    }
    assert all(
        getattr(now, name) == expected[item].get(name) for item, now in held.items() for name in ITEM_FIELDS
    )


@given(ANY, ANY, st.integers(0, 12))
def test_what_is_deleted_stays_so_until_it_is_whole_again(
    before: list[dict], after: list[dict], as_of_ms: int
) -> None:
    """For any applied part of the log: a replica that continues, one that starts, a compacted log."""
    partial = [row for row in after if not row.get("deleted") and not WHOLE.keys() <= row.keys()]
    rows = [*before, {"item_id": "a", "deleted": True}, *partial]
    imported = CatalogueProvenance(min(as_of_ms, len(before)), frozenset({"title", "price"}))
    for changes in (timed(rows), compacted(timed(rows))):
        assert in_force(changes, imported)["a"].deleted
    back = timed([*rows, {"item_id": "a", **WHOLE}])
    for changes in (back, compacted(back)):
        held = in_force(changes, imported)["a"]
        assert {name: getattr(held, name) for name in ITEM_FIELDS} == WHOLE


@given(ANY)
def test_an_import_that_knows_all_leaves_nothing_of_older_changes(rows: list[dict]) -> None:
    held = in_force(timed(rows), CatalogueProvenance(len(rows), frozenset(ITEM_FIELDS)))
    assert not any(now.deleted or exists(now) for now in held.values())
    assert all(getattr(now, name) is None for now in held.values() for name in ITEM_FIELDS)


def test_an_older_change_holds_in_fields_the_file_lacks() -> None:
    changes = timed([{"item_id": "a", "price": 2.0, "stock": 0}, {"item_id": "a", "price": 3.0}])
    held = in_force(changes, CatalogueProvenance(1, frozenset({"title", "price"})))["a"]
    assert (held.price, held.stock) == (3.0, 0)


def test_an_older_deletion_ends_and_restores_no_earlier_change() -> None:
    changes = timed([{"item_id": "a", "stock": 0}, {"item_id": "a", "deleted": True}])
    assert in_force(changes, CatalogueProvenance(2, frozenset({"title"}))) == {}
    assert in_force(changes, CatalogueProvenance(1, frozenset({"title"})))["a"].deleted


# ---- following ---------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> SmallShop:
    return SmallShop(tmp_path, category_share=1.0)


@pytest.fixture
def call(shop: SmallShop) -> Iterator[Caller]:
    shop.start()
    with shop.client() as caller:
        yield caller


def follower(shop: SmallShop, now_s: list[float] | None = None) -> ItemsFollower:
    clock = (lambda: now_s[0]) if now_s else (lambda: 0.0)
    broker = shop.broker
    return ItemsFollower(MemoryEventConsumer(broker), MemoryLogAdmin(broker), shop.overlay, clock)


def write(shop: SmallShop, *changes: ItemChanged) -> None:
    for change in changes:
        shop.broker.append(ITEMS, change.key.encode(), encode(change))


def stock(item: str, left: int = 0) -> ItemChanged:
    return ItemChanged(received_at=START_MS, item_id=item, stock=left)


def test_an_emptied_overlay_is_filled_again_and_answers_never_forget(shop: SmallShop, call: Caller) -> None:
    call.send("DELETE", "/items/i0", "admin")
    call.send("PATCH", "/items/i1", "admin", json={"stock": 0})
    call.refresh()
    shop.overlay.lose_data()
    call.refresh()
    assert ids(call.slate(n=1)) == ["i2"]  # not even for a moment
    follower(shop).poll()
    assert shop.overlay.changes()[0] == OverlayPosition(shop.broker.log_id, 2)
    call.refresh()
    assert ids(call.slate(n=1)) == ["i2"]
    with shop.client() as other:  # a replica that knows nothing yet
        other.refresh()
        assert ids(other.slate(n=1)) == ["i2"]


def test_a_replica_keeps_its_catalogue_while_changes_are_reapplied(shop: SmallShop, call: Caller) -> None:
    call.send("DELETE", "/items/i0", "admin")
    call.send("DELETE", "/items/i1", "admin")
    call.refresh()
    shop.overlay.lose_data()
    first = [ItemChanged(received_at=START_MS, item_id="i0", deleted=True)]
    shop.overlay.apply(None, OverlayPosition(shop.broker.log_id, 1), first)
    call.refresh()
    assert ids(call.slate(n=1)) == ["i2"]


def test_a_change_that_failed_is_applied_by_the_next_poll(shop: SmallShop, call: Caller) -> None:
    now_s = [0.0]
    following = follower(shop, now_s)
    following.poll()
    shop.overlay.down = True
    refused = call.send("PATCH", "/items/i0", "admin", json={"stock": 0})
    assert refused.status_code == 503
    following.poll()
    shop.overlay.down = False
    now_s[0] += IDLE_S
    following.poll()
    call.refresh()
    assert ids(call.slate(n=1)) == ["i1"]


def test_many_changes_are_applied_in_batches_and_in_order(shop: SmallShop) -> None:
    write(shop, *(stock(f"i{step % 7}", step) for step in range(2 * BATCH + 5)))
    assert follower(shop).catch_up() == OverlayPosition(shop.broker.log_id, 2 * BATCH + 5)
    left = {change.item_id: change.stock for change in shop.overlay.changes()[1]}
    assert sorted(left.values()) == list(range(2 * BATCH - 2, 2 * BATCH + 5))


def test_gaps_of_compaction_do_not_stop_it(shop: SmallShop) -> None:
    write(shop, stock("i0"))
    shop.broker.skip(ITEMS, 0, 3)
    write(shop, stock("i1"))
    assert follower(shop).catch_up().offset == 5


def test_several_who_lay_at_once_do_no_harm(shop: SmallShop) -> None:
    one, other = follower(shop), follower(shop)
    for step in range(6):
        write(shop, stock("i0", step), stock("i1", step))
        (one if step % 2 else other).catch_up()
        if step == 3:
            shop.overlay.lose_data()
    one.catch_up()
    assert [change.stock for change in shop.overlay.changes()[1]] == [5, 5]


def test_a_bad_record_is_skipped_once_and_others_count(shop: SmallShop) -> None:
    write(shop, stock("i0"))
    shop.broker.append(ITEMS, b"x", b'{"item_id": 7}')
    write(shop, stock("i1"))
    one, other = follower(shop), follower(shop)
    one.catch_up()
    other.catch_up()
    assert one.bad + other.bad == {"schema": 1}
    assert [change.item_id for change in shop.overlay.changes()[1]] == ["i0", "i1"]


@pytest.mark.parametrize(
    "change", [{"stock": 3_000_000_000}, {"stock": -2}, {"price": 1e300}, {"title": "t" * 501}]
)
def test_a_change_the_index_rejects_is_skipped(change: dict, shop: SmallShop, call: Caller) -> None:
    write(shop, ItemChanged(received_at=START_MS, item_id="i0", **change))
    write(shop, ItemChanged(received_at=START_MS, item_id="i0", deleted=True))
    following = follower(shop)
    following.catch_up()
    assert following.bad == {"schema": 1}
    call.refresh()
    assert ids(call.slate(n=1)) == ["i1"]


def test_only_a_post_brings_a_deleted_item_back(shop: SmallShop, call: Caller) -> None:
    """Of the import or added: a stock sync that knows nothing of the deletion is refused by name."""
    call.post("/items", [{"item_id": "new", "title": "New"}], "admin")
    call.refresh()
    for item in ("i0", "new"):
        assert call.send("DELETE", f"/items/{item}", "admin").status_code == 200
    call.refresh()
    for item in ("i0", "new"):
        rows = [{"item_id": "i1"}, {"item_id": item, "stock": 5}]
        refused = call.send("PATCH", "/items", "admin", json=rows)
        assert (refused.status_code, refused.json()["error"]["field"]) == (404, "1.item_id")
        assert call.send("PATCH", f"/items/{item}", "admin", json={"stock": 5}).status_code == 404
    assert call.send("DELETE", "/items/i0", "admin").status_code == 200  # once more does no harm
    call.refresh()
    assert ids(call.slate(n=2)) == ["i1", "i2"]
    call.post("/items", [{"item_id": "i0", "title": "Back", "price": 7}], "admin")
    assert call.send("PATCH", "/items/i0", "admin", json={"price": 8}).status_code == 200  # before the look
    call.refresh()
    assert call.slate(n=1)["items"][0]["metadata"] == {"title": "Back", "category": "", "price": 8.0}
    assert call.send("PATCH", "/items/i0", "admin", json={"price": 9}).status_code == 200


def test_another_replicas_change_restores_no_deleted_item(shop: SmallShop, call: Caller) -> None:
    """It had not seen the deletion, which stands before the change in the log."""
    with shop.client() as other:
        other.send("DELETE", "/items/i0", "admin")
        assert call.send("PATCH", "/items/i0", "admin", json={"stock": 5}).status_code == 200
        for replica in (call, other):
            replica.refresh()
            assert ids(replica.slate(n=1)) == ["i1"]
    shop.overlay.lose_data()
    follower(shop).catch_up()
    with shop.client() as late:
        assert ids(late.slate(n=1)) == ["i1"]


def test_a_log_that_lost_its_data_takes_nothing_away(shop: SmallShop, call: Caller) -> None:
    call.send("DELETE", "/items/i0", "admin")
    shop.broker.lose_everything("another log")
    write(shop, stock("i1"))
    assert follower(shop).catch_up() == OverlayPosition("another log", 1)
    call.refresh()
    assert ids(call.slate(n=1)) == ["i2"]


@pytest.mark.parametrize("busy", [False, True])
def test_a_longer_new_log_is_applied_from_its_start(shop: SmallShop, busy: bool) -> None:
    """The log is asked for its identity every few seconds, also by a replica that takes changes all the
    time."""
    now_s = [0.0]
    following = follower(shop, now_s)
    write(shop, stock("i0"), stock("i1"))
    following.catch_up()
    shop.broker.lose_everything("another log")
    write(shop, stock("i2"), stock("i3"), stock("i4"))
    for _ in range(4):
        now_s[0] += IDLE_S / 3
        (following.catch_up if busy else following.poll)()
    assert shop.overlay.changes()[0] == OverlayPosition("another log", 3)
    assert {change.item_id for change in shop.overlay.changes()[1]} == {f"i{index}" for index in range(5)}


def test_a_truncated_log_is_applied_from_its_first_record(shop: SmallShop) -> None:
    following = follower(shop)
    write(shop, stock("i0"))
    following.catch_up()
    write(shop, stock("i1"), stock("i2"))
    shop.broker.truncate(ITEMS, 0, before=2)
    assert following.catch_up().offset == 3
    assert [change.item_id for change in shop.overlay.changes()[1]] == ["i0", "i2"]


def test_a_poll_without_broker_or_redis_changes_nothing(shop: SmallShop) -> None:
    following = follower(shop)
    for part in (shop.broker, shop.overlay):
        part.down = True
        following.poll()
        with pytest.raises(UnavailableError):
            following.catch_up()
        part.down = False
    write(shop, stock("i0"))
    following.poll()
    assert len(shop.overlay.changes()[1]) == 1


# ---- after an import ---------------------------------------------------------------------------------------


def imports(shop: SmallShop, version: str, as_of_ms: int, fields: frozenset[str]) -> None:
    shop.data.put(replace(shop.data.load("d1"), version=version))
    shop.data.provenance[version] = CatalogueProvenance(as_of_ms, fields)


def test_older_changes_do_not_override_a_newer_import(shop: SmallShop, call: Caller) -> None:
    call.send("PATCH", "/items/i0", "admin", json={"price": 99.0, "stock": 0})
    call.send("DELETE", "/items/i1", "admin")
    call.post("/items", [{"item_id": "new", "title": "New", "category": "novelties"}], "admin")
    shop.now_ms += 1_000
    imports(shop, "d2", shop.now_ms, frozenset({"title", "category", "price", "description"}))
    shop.now_ms += 1_000
    call.send("PATCH", "/items/i2", "admin", json={"price": 77.0})
    call.refresh()
    answer = call.slate(n=2)
    assert ids(answer) == ["i1", "i2"]  # i1 is in the file; of the stock of i0 the file knows nothing
    assert answer["items"][1]["metadata"]["price"] == 77.0
    assert ids(call.slate(n=1, category="novelties")) == []
    assert call.send("PATCH", "/items/new", "admin", json={"price": 1}).status_code == 404
    call.send("PATCH", "/items/i0", "admin", json={"stock": 3})
    call.refresh()
    assert call.slate(n=1)["items"][0]["metadata"]["price"] == 1.0  # what the file says


def test_importing_the_same_data_again_counts_as_newer(shop: SmallShop, call: Caller) -> None:
    call.send("PATCH", "/items/i0", "admin", json={"price": 99.0})
    call.refresh()
    assert call.slate(n=1)["items"][0]["metadata"]["price"] == 99.0
    shop.data.provenance["d1"] = CatalogueProvenance(shop.now_ms + 1, frozenset(ITEM_FIELDS))
    call.refresh()
    assert call.slate(n=1)["items"][0]["metadata"]["price"] == 1.0


def test_a_new_import_keeps_known_changes_while_redis_is_away(shop: SmallShop, call: Caller) -> None:
    call.send("DELETE", "/items/i0", "admin")
    call.refresh()
    shop.overlay.down = True
    imports(shop, "d2", 0, frozenset())
    call.refresh()
    assert ids(call.slate(n=1)) == ["i1"]


def test_a_long_description_takes_no_room_in_a_replica(shop: SmallShop, call: Caller) -> None:
    before = sum(column.nbytes for column in _texts(call))
    changed = call.send("PATCH", "/items/i1", "admin", json={"description": "d" * 10_000})
    assert changed.status_code == 200
    call.refresh()
    assert sum(column.nbytes for column in _texts(call)) == before


def _texts(call: Caller) -> list:
    catalogue = call.parts.refresher.snapshot.catalogue.catalogue
    return [catalogue.items, catalogue.title, catalogue.category, catalogue.description]
