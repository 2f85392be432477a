"""Cache of the products in recent slates, because the sample shop has no catalogue of its own."""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from cachetools import FIFOCache

from services.client.client import Slate, SlateItem

CAPACITY = 20_000


@dataclass(frozen=True, slots=True)
class Product:
    """A product as the shop shows it. `price` is None if unknown."""

    item_id: str
    title: str
    category: str = ""
    price: float | None = None


def product_of(item: SlateItem) -> Product:
    """The product of a slate's item; without a title it is named by its id."""
    title = item.title or f"Item {item.item_id}"
    return Product(item.item_id, title, item.category or "", item.price)


class ProductCache:
    """Products by id. At capacity, the product that was not in a slate for longest is dropped.

    `popular`: the last slate of popular items, to show while the recommend service is unavailable.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._products: FIFOCache[str, Product] = FIFOCache(capacity)
        self.popular: Slate | None = None

    def __len__(self) -> int:
        return len(self._products)

    def add(self, slate: Slate) -> None:
        """Add the products of a slate; newer data replace older data."""
        for item in slate.items:
            self._products[item.item_id] = product_of(item)

    def get(self, item_id: str) -> Product | None:
        """The product, if it is in the cache."""
        return self._products.get(item_id)

    def categories(self, limit: int = 12) -> list[str]:
        """The categories with the most products, largest first."""
        counted = Counter(product.category for product in self._products.values() if product.category)
        return [name for name, _ in counted.most_common(limit)]

    def search(self, query: str, limit: int = 60) -> list[Product]:
        """Products whose title or category has, for each word of the query, a word that begins with it."""
        words = re.findall(r"\w+", query.lower())
        if not words:
            return []
        patterns = [re.compile(rf"\b{re.escape(word)}") for word in words]
        matches = (
            product
            for product in reversed(list(self._products.values()))
            if all(pattern.search(f"{product.title} {product.category}".lower()) for pattern in patterns)
        )
        return list(islice(matches, limit))
