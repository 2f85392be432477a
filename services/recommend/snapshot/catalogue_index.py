"""The live catalogue as requests see it: immutable arrays in process memory, replaced as a whole when
items change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.algorithms.popularity import popularity
from models.recommender import Catalogue, Interactions, Ranking
from models.slate import UNKNOWN, available, category_codes
from services.messages.events import ItemChanged
from services.ports.catalogue import CatalogueProvenance, OverlayPosition
from services.recommend.snapshot.item_changes import shown

HALF_LIFE_S = 7 * 86_400.0  # the fast clock of models.algorithms.popularity


@dataclass(frozen=True, slots=True)
class Shelf:
    """The catalogue with the live changes in it: those of the log up to `laid`.

    index: item id -> place in the arrays; deleted: ids of items that were taken out (those of the import keep
    their place); live: bool [n_items], what may be shown to anybody; codes: int32 [n_items];
    price: float32 [n_items]; metadata: JSON of each item, encoded once; popular: every item, most popular
    first; popularity: float32 [n_items].
    """

    catalogue: Catalogue
    data_version: str
    imported: CatalogueProvenance
    laid: OverlayPosition | None
    index: Mapping[str, int]
    deleted: frozenset[str]
    ids: tuple[str, ...]
    live: NDArray[np.bool_]
    codes: NDArray[np.int32]
    categories: Mapping[str, int]
    metadata: tuple[msgspec.Raw, ...]
    popular: NDArray[np.int32]
    popularity: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, item_ids: Iterable[str]) -> list[int]:
        """Where these items stand; UNKNOWN for those that the catalogue lacks."""
        index = self.index
        return [index.get(item, UNKNOWN) for item in item_ids]

    def mask(
        self, categories: list[str], price_min: float | None, price_max: float | None
    ) -> NDArray[np.bool_]:
        """Items that may be shown and pass the filters, bool [n_items]; `live` itself (don't write)
        without filters."""
        mask = self.live
        if categories:
            names = chain.from_iterable(self._names(said) for said in categories)
            codes = [self.categories[name] for name in names if name in self.categories]
            mask = mask & np.isin(self.codes, codes)
        if price_min is not None:
            mask = mask & (self.catalogue.price >= price_min)
        if price_max is not None:
            mask = mask & (self.catalogue.price <= price_max)
        return mask

    def _names(self, said: str) -> list[str]:
        """One category, or several whose commas were escaped on their way."""
        return [said] if said in self.categories else said.split(",")

    def most_popular(self, n: int, allowed: NDArray[np.bool_]) -> Ranking:
        """The `n` most popular of the allowed items (bool [n_items])."""
        item = self.popular[allowed[self.popular]][:n]
        return Ranking(item, self.popularity[item], "popular now")


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


def stock(
    catalogue: Catalogue,
    counts: NDArray[np.float32],
    *,
    data_version: str = "",
    changes: Mapping[str, ItemChanged] | None = None,
    imported: CatalogueProvenance | None = None,
    laid: OverlayPosition | None = None,
) -> Shelf:
    """A shelf from an imported catalogue, its popularity (float32 [n_items]) and the changes that hold."""
    changes = changes or {}
    changed = merged(catalogue, changes)
    counts = np.append(counts, np.zeros(len(changed) - len(counts), np.float32))
    ids = tuple(changed.items.tolist())
    codes = category_codes(changed)
    return Shelf(
        catalogue=changed,
        data_version=data_version,
        imported=imported or CatalogueProvenance(),
        laid=laid,
        index={item: place for place, item in enumerate(ids)},
        deleted=frozenset(item for item, change in changes.items() if change.deleted),
        ids=ids,
        live=available(changed),
        codes=codes,
        categories=dict(zip(changed.category.tolist(), codes.tolist(), strict=True)),
        metadata=_metadata(changed),
        popular=np.argsort(-counts, kind="stable").astype(np.int32),
        popularity=counts,
    )


def merged(catalogue: Catalogue, changes: Mapping[str, ItemChanged]) -> Catalogue:
    """The catalogue with every change applied, without descriptions, which no slate tells; new items come
    last, deleted ones stay in place as hidden."""
    unread = np.full(len(catalogue), "", dtype=object)
    if not changes:
        return replace(catalogue, description=unread)
    place = {item: index for index, item in enumerate(catalogue.items.tolist())}
    new = [item for item, change in changes.items() if item not in place and shown(change)]
    place |= {item: len(catalogue) + offset for offset, item in enumerate(new)}
    columns = {
        "title": catalogue.title.tolist() + [""] * len(new),
        "category": catalogue.category.tolist() + [""] * len(new),
        "price": catalogue.price.tolist() + [0.0] * len(new),
        "stock": catalogue.stock.tolist() + [-1] * len(new),
        "hidden": catalogue.hidden.tolist() + [False] * len(new),
    }
    for item, change in changes.items():
        if (row := place.get(item)) is not None:
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


def _apply(columns: dict[str, list], row: int, change: ItemChanged) -> None:
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
