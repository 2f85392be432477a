"""What the changes of the live catalogue come to, beside an import that may be newer than some of them."""

from collections.abc import Iterable

import msgspec

from services.messages.events import ITEM_FIELDS, ItemChanged
from services.ports.catalogue import CatalogueProvenance


def standing(changes: Iterable[ItemChanged], imported: CatalogueProvenance) -> dict[str, ItemChanged]:
    """What still holds of each changed item; `changes` in the order of the log.

    An imported catalogue is the list of items and what its file said of them, as of `imported.as_of_ms`. A
    change from before that moment holds only in fields that the file did not have: the rest is what the
    file says. So a deletion from before it is over if the file still has the item.

    A deleted item is back with a whole one (a POST says every field) and with nothing less: a stock sync that
    knew nothing of the deletion must not show the item again. Of a log compacted by key the last deletion and
    the last whole record of an item are left, so this is the same for it.

    >>> changes = [ItemChanged(received_at=5, item_id="a", price=2.0, stock=0)]
    >>> kept = standing(changes, CatalogueProvenance(as_of_ms=9, fields=frozenset({"price"})))["a"]
    >>> kept.price, kept.stock
    (None, 0)
    >>> gone = [ItemChanged(received_at=6, item_id="a", deleted=True), changes[0]]
    >>> standing(gone, CatalogueProvenance())["a"].deleted
    True
    """
    held: dict[str, ItemChanged] = {}
    for change in changes:
        older = change.received_at < imported.as_of_ms
        if change.deleted and older:
            held.pop(change.item_id, None)
            continue
        before = held.get(change.item_id)
        if before is not None and before.deleted and not (change.deleted or _whole(change)):
            continue
        change = _without(change, imported.fields) if older else change
        held[change.item_id] = change if before is None else before.then(change)
    return held


def shown(change: ItemChanged | None) -> bool:
    """Whether an item that the imported catalogue lacks exists by this change: somebody gave it a title."""
    return change is not None and not change.deleted and change.title is not None


def _whole(change: ItemChanged) -> bool:
    return all(getattr(change, name) is not None for name in ITEM_FIELDS)


def _without(change: ItemChanged, fields: frozenset[str]) -> ItemChanged:
    known = {name: None for name in ITEM_FIELDS if name in fields}
    return msgspec.structs.replace(change, **known)
