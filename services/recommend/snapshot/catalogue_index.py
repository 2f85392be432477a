"""The live catalogue as requests see it: immutable arrays in process memory, replaced as a whole when items
change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.algorithms.popularity import popularity
from models.recommender import Catalogue, Interactions
from models.slate import UNKNOWN, Assortment, available, category_codes
from services.messages.events import ItemChanged
from services.ports.catalogue import CatalogueProvenance, OverlayPosition
from services.recommend.snapshot.item_changes import exists

HALF_LIFE_S = 7 * 86_400.0  # the fast clock of models.algorithms.popularity


@dataclass(frozen=True, slots=True)
class CatalogueIndex:
    """The imported catalogue with the live changes applied, up to `position` of their log.

    index: item id -> catalogue index; deleted: ids of deleted items (those of the import keep their index);
    live: bool [n_items], items that may be shown; categories: code by category; metadata: JSON of each item,
    encoded once; assortment: category and popularity of each item.
    """

    catalogue: Catalogue
    data_version: str
    imported: CatalogueProvenance
    position: OverlayPosition | None
    index: Mapping[str, int]
    deleted: frozenset[str]
    ids: tuple[str, ...]
    live: NDArray[np.bool_]
    categories: Mapping[str, int]
    metadata: tuple[msgspec.Raw, ...]
    assortment: Assortment

    def __len__(self) -> int:
        return len(self.ids)

    def indices(self, item_ids: Iterable[str]) -> list[int]:
        """Catalogue index of each item; UNKNOWN for those that the catalogue lacks."""
        index = self.index
        return [index.get(item, UNKNOWN) for item in item_ids]

    def filtered(
        self, categories: list[str], price_min: float | None, price_max: float | None
    ) -> NDArray[np.bool_]:
        """Live items that pass the filters, bool [n_items]; `live` itself without filters, so don't write
        to it."""
        mask = self.live
        if categories:
            names = chain.from_iterable(self._split(category) for category in categories)
            codes = [self.categories[name] for name in names if name in self.categories]
            mask = mask & np.isin(self.assortment.category, codes)
        if price_min is not None:
            mask = mask & (self.catalogue.price >= price_min)
        if price_max is not None:
            mask = mask & (self.catalogue.price <= price_max)
        return mask

    def same_category(self, item_id: str) -> NDArray[np.bool_]:
        """Items of the category of `item_id`, bool [n_items]."""
        category = self.assortment.category
        same: NDArray[np.bool_] = category == category[self.index[item_id]]
        return same

    def _split(self, category: str) -> list[str]:
        """One category, or several in one text, whose commas the client escaped."""
        return [category] if category in self.categories else category.split(",")


EMPTY = Catalogue(
    items=np.empty(0, "U1"),
    title=np.empty(0, "U1"),
    category=np.empty(0, "U1"),
    price=np.empty(0, np.float32),
    description=np.empty(0, dtype=object),
    stock=np.empty(0, np.int32),
    hidden=np.empty(0, np.bool_),
)


def popularity_of(interactions: Interactions, n_items: int) -> NDArray[np.float32]:
    """Decayed number of buyers of each item at the moment of the newest interaction, float32 [n_items]."""
    if not len(interactions.at):
        return np.zeros(n_items, np.float32)
    now_s = float(interactions.at.max())
    return popularity(interactions, n_items, now_s=now_s, half_life_s=HALF_LIFE_S).astype(np.float32)


def build_index(
    catalogue: Catalogue,
    counts: NDArray[np.float32],
    *,
    data_version: str = "",
    changes: Mapping[str, ItemChanged] | None = None,
    imported: CatalogueProvenance | None = None,
    position: OverlayPosition | None = None,
) -> CatalogueIndex:
    """Index an imported catalogue, its popularity (float32 [n_items]) and the changes in force by item."""
    changes = changes or {}
    changed = with_changes(catalogue, changes)
    counts = np.append(counts, np.zeros(len(changed) - len(counts), np.float32))
    ids = tuple(changed.items.tolist())
    codes = category_codes(changed)
    return CatalogueIndex(
        catalogue=changed,
        data_version=data_version,
        imported=imported or CatalogueProvenance(),
        position=position,
        index={item: index for index, item in enumerate(ids)},
        deleted=frozenset(item for item, change in changes.items() if change.deleted),
        ids=ids,
        live=available(changed),
        categories=dict(zip(changed.category.tolist(), codes.tolist(), strict=True)),
        metadata=_metadata(changed),
        assortment=Assortment(codes, np.argsort(-counts, kind="stable").astype(np.int32), counts),
    )


def with_changes(catalogue: Catalogue, changes: Mapping[str, ItemChanged]) -> Catalogue:
    """The catalogue with every change applied. New items come last, deleted ones keep their index as hidden,
    and descriptions are dropped, because no slate contains them."""
    no_text = np.full(len(catalogue), "", dtype=object)
    if not changes:
        return replace(catalogue, description=no_text)
    rows = {item: row for row, item in enumerate(catalogue.items.tolist())}
    new = [item for item, change in changes.items() if item not in rows and exists(change)]
    rows |= {item: len(catalogue) + offset for offset, item in enumerate(new)}
    columns = {
        "title": catalogue.title.tolist() + [""] * len(new),
        "category": catalogue.category.tolist() + [""] * len(new),
        "price": catalogue.price.tolist() + [0.0] * len(new),
        "stock": catalogue.stock.tolist() + [-1] * len(new),
        "hidden": catalogue.hidden.tolist() + [False] * len(new),
    }
    for item, change in changes.items():
        if (row := rows.get(item)) is not None:
            _apply(columns, row, change)
    return Catalogue(
        items=np.array([*catalogue.items.tolist(), *new], dtype=np.str_),
        title=np.array(columns["title"], dtype=np.str_),
        category=np.array(columns["category"], dtype=np.str_),
        description=np.full(len(catalogue) + len(new), "", dtype=object),
        price=np.array(columns["price"], np.float32),
        stock=np.array(columns["stock"], np.int32),
        hidden=np.array(columns["hidden"], np.bool_),
    )


def _apply(columns: Mapping[str, list[Any]], row: int, change: ItemChanged) -> None:
    for name, column in columns.items():
        if (value := getattr(change, name)) is not None:
            column[row] = value
    if change.deleted:
        columns["hidden"][row] = True


def _metadata(catalogue: Catalogue) -> tuple[msgspec.Raw, ...]:
    encode = msgspec.json.encode
    rows = zip(catalogue.title.tolist(), catalogue.category.tolist(), catalogue.price.tolist(), strict=True)
    return tuple(
        msgspec.Raw(encode({"title": title, "category": category, "price": round(price, 2)}))
        for title, category, price in rows
    )
