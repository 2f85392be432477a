"""The rails of the shop: which slates a page asks for, all at once, and what it shows while the service
is away."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.errors import UnavailableError
from services.shop.api import RecommendApi, Slate
from services.shop.product_cache import Shelf
from services.shop.session import Visit

HOME_ITEMS, RAIL_ITEMS, GRID_ITEMS = 12, 6, 24


@dataclass(frozen=True, slots=True)
class Rail:
    """A titled slate. `name` is its address for fetching it again; `slate` None: the service is away."""

    name: str
    title: str
    slate: Slate | None
    note: str = ""
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def hidden(self) -> bool:
        """A rail without items that is not worth a word."""
        return self.slate is not None and not self.slate.items


class Rails:
    """Asks for slates in the name of a visit. A rail that can't be had is a rail without slate, never an
    error."""

    def __init__(self, api: RecommendApi, shelf: Shelf) -> None:
        self._api, self._shelf = api, shelf

    async def home(self, visit: Visit) -> list[Rail]:
        """For you; like what was looked at last; popular now."""
        wanted = [self.for_you(visit)]
        if visit.seen:
            wanted.append(self.because(visit, visit.seen))
        *rails, popular = await asyncio.gather(*wanted, self.popular(HOME_ITEMS + RAIL_ITEMS))
        return [*rails, without(popular, rails)]

    async def item(self, visit: Visit, item_id: str) -> list[Rail]:
        """Similar items; for you, with this item as context."""
        return list(await asyncio.gather(self.similar(visit, item_id), self.also_like(visit, item_id)))

    async def for_you(self, visit: Visit) -> Rail:
        """The main recommendation."""
        slate = await self._have(self._api.recommend(visit.shopper, "home", HOME_ITEMS))
        return Rail("for-you", "Recommended for you", slate)

    async def because(self, visit: Visit, item_id: str) -> Rail:
        """Items like the one looked at last."""
        slate = await self._have(self._api.similar(visit.shopper, item_id, RAIL_ITEMS))
        product = self._shelf.get(item_id)
        title = f"Because you looked at {product.title}" if product else "Like what you looked at"
        return Rail("because", title, slate, query={"item": item_id})

    async def similar(self, visit: Visit, item_id: str) -> Rail:
        """Items like this one."""
        slate = await self._have(self._api.similar(visit.shopper, item_id, RAIL_ITEMS))
        return Rail("similar", "Similar items", slate, query={"item": item_id})

    async def also_like(self, visit: Visit, item_id: str) -> Rail:
        """For this shopper, on the page of this item."""
        wanted = self._api.recommend(visit.shopper, "item", RAIL_ITEMS, [item_id])
        return Rail("also-like", "You may also like", await self._have(wanted), query={"item": item_id})

    async def cart(self, visit: Visit) -> Rail:
        """What goes with the cart."""
        if not visit.cart:
            return await self.for_you(visit)
        wanted = self._api.recommend(visit.shopper, "cart", RAIL_ITEMS, list(visit.cart))
        return Rail("cart", "Goes well with your cart", await self._have(wanted))

    async def popular(self, n: int = RAIL_ITEMS) -> Rail:
        """What everybody likes now; what was popular a moment ago if the service is away."""
        slate = await self._have(self._api.popular(n))
        if slate is not None:
            self._shelf.popular = slate
            return Rail("popular", "Popular now", slate)
        return Rail("popular", "Popular lately", self._shelf.popular)

    async def category(self, visit: Visit, category: str) -> Rail:
        """A category, the shopper's best first."""
        wanted = self._api.recommend(visit.shopper, "category", GRID_ITEMS, category=[category])
        return Rail("category", category, await self._have(wanted), query={"category": category})

    async def search(self, visit: Visit, query: str) -> Rail:
        """Matches on the shelf, in the order that suits the shopper."""
        found = self._shelf.search(query)
        if not found:
            return Rail("search", f"Nothing found for “{query}”", Slate())
        wanted = self._api.rerank(visit.shopper, [product.item_id for product in found], placement="search")
        return Rail("search", f"Results for “{query}”", await self._have(wanted))

    async def stock_the_shelf(self, most_categories: int = 24) -> None:
        """Learn products to search and browse: the popular ones, then those of each category. Silent on
        failure."""
        if await self._have(self._api.popular(100)) is None:
            return
        for category in self._shelf.categories(most_categories):
            await self._have(self._api.popular(100, category))

    async def know(self, visit: Visit, item_ids: list[str]) -> None:
        """Ask about items that the shelf lacks (say, a link from elsewhere); marked staff, so it counts
        nowhere."""
        unknown = [item_id for item_id in item_ids if self._shelf.get(item_id) is None]
        if unknown:
            await self._have(self._api.rerank(visit.shopper, unknown, placement="item", staff=True))

    async def _have(self, wanted: Awaitable[Slate]) -> Slate | None:
        try:
            return self._shelf.put(await wanted)
        except UnavailableError:
            return None


def without(rail: Rail, others: Sequence[Rail]) -> Rail:
    """The rail without what stands in others already, cut to the usual length."""
    if rail.slate is None:
        return rail
    taken = {shown.product.item_id for other in others if other.slate for shown in other.slate.items}
    kept = [shown for shown in rail.slate.items if shown.product.item_id not in taken]
    return replace(rail, slate=replace(rail.slate, items=tuple(kept[:RAIL_ITEMS])))
