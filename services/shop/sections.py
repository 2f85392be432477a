"""Sections of the shop's pages: which slates a page shows. The slates of a page are requested concurrently;
without the recommend service, a section has no slate."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.client.client import (
    AsyncClient,
    Request,
    Slate,
    popular_request,
    recommend_request,
    rerank_request,
    similar_request,
)
from services.shop.product_cache import ProductCache
from services.shop.session import Visit

HOME_ITEMS, ROW_ITEMS, GRID_ITEMS = 12, 6, 24


@dataclass(frozen=True, slots=True)
class Section:
    """A titled slate. `name` and `query` are its address, to load it again; `slate` is None while the
    recommend service is unavailable."""

    name: str
    title: str
    slate: Slate | None
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def hidden(self) -> bool:
        """True if there is an answer without items, which is not shown."""
        return self.slate is not None and not self.slate.items


class SectionLoader:
    """Loads sections for a visit and adds their products to the cache. A missing slate is never an error."""

    def __init__(self, client: AsyncClient, products: ProductCache) -> None:
        self._client, self._products = client, products

    async def home(self, visit: Visit) -> list[Section]:
        """Personal items; items similar to the last one viewed; popular items that are in neither."""
        loading = [self.for_you(visit)]
        if visit.last_viewed:
            loading.append(self.because(visit, visit.last_viewed))
        *sections, popular = await asyncio.gather(*loading, self.popular(HOME_ITEMS + ROW_ITEMS))
        return [*sections, without_duplicates(popular, sections)]

    async def item(self, visit: Visit, item_id: str) -> list[Section]:
        """Similar items, and personal items with this one as context."""
        return list(await asyncio.gather(self.similar(visit, item_id), self.also_like(visit, item_id)))

    async def for_you(self, visit: Visit) -> Section:
        """Personal items."""
        request = recommend_request(**visit.shopper.fields(), placement="home", n=HOME_ITEMS)
        return Section("for-you", "Recommended for you", await self._slate(request, visit))

    async def because(self, visit: Visit, item_id: str) -> Section:
        """Items similar to the last one viewed."""
        slate = await self._similar(visit, item_id)
        product = self._products.get(item_id)
        title = f"Because you viewed {product.title}" if product else "Similar to what you viewed"
        return Section("because", title, slate, {"item": item_id})

    async def similar(self, visit: Visit, item_id: str) -> Section:
        """Items similar to this one."""
        return Section("similar", "Similar items", await self._similar(visit, item_id), {"item": item_id})

    async def also_like(self, visit: Visit, item_id: str) -> Section:
        """Personal items on the page of this item."""
        fields = visit.shopper.fields()
        request = recommend_request(**fields, placement="item", n=ROW_ITEMS, context=[item_id])
        slate = await self._slate(request, visit)
        return Section("also-like", "You may also like", slate, {"item": item_id})

    async def cart(self, visit: Visit) -> Section:
        """Items that go with the cart; personal items for an empty cart."""
        if not visit.cart:
            return await self.for_you(visit)
        fields = visit.shopper.fields()
        request = recommend_request(**fields, placement="cart", n=ROW_ITEMS, context=list(visit.cart))
        return Section("cart", "Goes well with your cart", await self._slate(request, visit))

    async def popular(self, n: int = ROW_ITEMS) -> Section:
        """Popular items; while the recommend service is unavailable, those of its last answer."""
        slate = await self._slate(popular_request(n=n))
        if slate is not None:
            self._products.popular = slate
            return Section("popular", "Popular now", slate)
        return Section("popular", "Recently popular", self._products.popular)

    async def category(self, visit: Visit, category: str) -> Section:
        """Items of a category, ordered for the shopper."""
        fields = visit.shopper.fields()
        request = recommend_request(**fields, placement="category", n=GRID_ITEMS, category=[category])
        return Section("category", category, await self._slate(request, visit), {"category": category})

    async def search(self, visit: Visit, query: str) -> Section:
        """Matching products of the cache, ordered for the shopper."""
        matches = self._products.search(query)
        if not matches:
            return Section("search", f"No results for “{query}”", Slate())
        items = [product.item_id for product in matches]
        slate = await self._slate(rerank_request(items, **visit.shopper.fields(), placement="search"), visit)
        return Section("search", f"Results for “{query}”", slate)

    async def fill_cache(self, most_categories: int = 24) -> None:
        """Load products to search and browse: the popular ones, then those of each category."""
        if await self._slate(popular_request(n=100)) is None:
            return
        for category in self._products.categories(most_categories):
            await self._slate(popular_request(n=100, category=[category]))

    async def load_products(self, visit: Visit, item_ids: list[str]) -> None:
        """Load the products that the cache lacks, say after a link from another site. The request is marked
        as staff, so that it is no exposure of the shopper."""
        unknown = [item_id for item_id in item_ids if self._products.get(item_id) is None]
        if unknown:
            fields = visit.shopper.fields()
            await self._slate(rerank_request(unknown, **fields, placement="item", staff=True), visit)

    async def _similar(self, visit: Visit, item_id: str) -> Slate | None:
        return await self._slate(similar_request(item_id, **visit.shopper.fields(), n=ROW_ITEMS), visit)

    async def _slate(self, request: Request, visit: Visit | None = None) -> Slate | None:
        agent = visit.shopper.user_agent if visit else ""
        slate = await self._client.slate(request.of_browser(agent))
        if slate is not None:
            self._products.add(slate)
        return slate


def without_duplicates(section: Section, others: Sequence[Section]) -> Section:
    """The section without items of other sections, cut to one row."""
    if section.slate is None:
        return section
    taken = {item.item_id for other in others if other.slate for item in other.slate.items}
    kept = tuple(item for item in section.slate.items if item.item_id not in taken)
    return replace(section, slate=replace(section.slate, items=kept[:ROW_ITEMS]))
