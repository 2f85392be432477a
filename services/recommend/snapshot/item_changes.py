"""Which changes of the live catalogue are in force, given an import that may be newer than some of them."""

from collections.abc import Iterable

import msgspec

from services.messages.events import ITEM_FIELDS, ItemChanged
from services.ports.catalogue import CatalogueProvenance


def in_force(changes: Iterable[ItemChanged], imported: CatalogueProvenance) -> dict[str, ItemChanged]:
    """The combined change of each changed item; `changes` in the order of the log.

    An imported catalogue lists the items and their fields as of `imported.as_of_ms`. A change from before
    that moment remains in force only for fields that the import did not have, because the import is newer in
    all others. So a deletion from before it ends if the import still has the item.

    Only a whole item (a POST, which sets every field) brings a deleted item back. A stock sync that does not
    know of the deletion must not show the item again. A log compacted by key keeps the last deletion and the
    last whole record of an item, so the result is the same for it.

    >>> changes = [ItemChanged(received_at=5, item_id="a", price=2.0, stock=0)]
    >>> change = in_force(changes, CatalogueProvenance(as_of_ms=9, fields=frozenset({"price"})))["a"]
    >>> change.price, change.stock
    (None, 0)
    >>> deletion = [ItemChanged(received_at=6, item_id="a", deleted=True), changes[0]]
    >>> in_force(deletion, CatalogueProvenance())["a"].deleted
    True
    """
    combined: dict[str, ItemChanged] = {}
    for change in changes:
        older = change.received_at < imported.as_of_ms
        if change.deleted and older:
            combined.pop(change.item_id, None)
            continue
        before = combined.get(change.item_id)
        if before is not None and before.deleted and not (change.deleted or _whole(change)):
            continue
        change = _without(change, imported.fields) if older else change
        combined[change.item_id] = change if before is None else before.then(change)
    return combined


def exists(change: ItemChanged | None) -> bool:
    """Whether an item that the imported catalogue lacks exists by this change, which takes a title."""
    return change is not None and not change.deleted and change.title is not None


def _whole(change: ItemChanged) -> bool:
    return all(getattr(change, name) is not None for name in ITEM_FIELDS)


def _without(change: ItemChanged, fields: frozenset[str]) -> ItemChanged:
    imported = {name: None for name in ITEM_FIELDS if name in fields}
    return msgspec.structs.replace(change, **imported)
