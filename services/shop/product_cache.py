"""What the shop knows of its products: everything that came by in slates, newest wins, the longest
unseen leave first."""

import re
from collections import Counter, OrderedDict

from services.shop.api import Product, Slate

CAPACITY = 20_000


class Shelf:
    """Products by id, bounded. A real storefront has its own catalogue here."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._products: OrderedDict[str, Product] = OrderedDict()
        self._capacity = capacity
        self.popular: Slate | None = None  # the last one that was answered, for when the service is away

    def __len__(self) -> int:
        return len(self._products)

    def put(self, slate: Slate) -> Slate:
        """Remember the products of a slate; returns the slate."""
        for shown in slate.items:
            self._products[shown.product.item_id] = shown.product
            self._products.move_to_end(shown.product.item_id)
        while len(self._products) > self._capacity:
            self._products.popitem(last=False)
        return slate

    def get(self, item_id: str) -> Product | None:
        """What is known of an item."""
        return self._products.get(item_id)

    def categories(self, most: int = 12) -> list[str]:
        """The categories with the most known products, most first."""
        counted = Counter(product.category for product in self._products.values() if product.category)
        return [name for name, _ in counted.most_common(most)]

    def search(self, query: str, most: int = 60) -> list[Product]:
        """Products whose title or category has every word of the query, as a beginning of a word."""
        words = re.findall(r"\w+", query.lower())
        if not words:
            return []
        patterns = [re.compile(rf"\b{re.escape(word)}") for word in words]
        found = []
        for product in reversed(self._products.values()):
            text = f"{product.title} {product.category}".lower()
            if all(pattern.search(text) for pattern in patterns):
                found.append(product)
                if len(found) == most:
                    break
        return found
