"""The recommend service as a storefront's server sees it: public HTTP, short deadlines, an answer or
nothing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from services.errors import UnavailableError

log = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(1.5, connect=0.5)


@dataclass(frozen=True, slots=True)
class Product:
    """An item as the shop shows it. `price` None: not known."""

    item_id: str
    title: str
    category: str = ""
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """An item of a slate with its place and why it is there."""

    product: Product
    position: int
    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Slate:
    """One answer of the service. `recommendation_id` goes back with events; None: not attributable."""

    items: tuple[Shown, ...] = ()
    recommendation_id: str | None = None
    experiment: str | None = None
    arm: str | None = None
    model_version: str | None = None
    degraded: str | None = None


@dataclass(frozen=True, slots=True)
class Shopper:
    """Who is shopping: a known user or nobody, always a session; the browser's own User-Agent tells bots
    apart."""

    user_id: str | None
    session_id: str
    user_agent: str = ""

    def fields(self) -> dict[str, str]:
        """As the contract names them."""
        known = {"user_id": self.user_id} if self.user_id else {}
        return {**known, "session_id": self.session_id}


@dataclass(slots=True)
class RecommendApi:
    """Calls the service; several replicas take turns. Every method raises UnavailableError when there is
    no answer."""

    client: httpx.AsyncClient
    origins: Sequence[str]
    key: str
    _calls: int = field(default=0)

    async def recommend(
        self, shopper: Shopper, placement: str, n: int, context: Sequence[str] = (), **filters: Any
    ) -> Slate:
        """Items for a shopper; `context`: items on the page or in the cart, which lead the answer."""
        body = {**shopper.fields(), "placement": placement, "n": n, "context": list(context), **filters}
        return await self._slate("POST", "/recommend", shopper, json=body)

    async def similar(self, shopper: Shopper, item_id: str, n: int) -> Slate:
        """Items like one item."""
        path = f"/similar/{quote(item_id, safe='')}"
        return await self._slate("GET", path, shopper, params={**shopper.fields(), "n": n})

    async def popular(self, n: int, category: str | None = None) -> Slate:
        """What is popular now, for everybody alike."""
        params = {"n": n} | ({"category": category} if category else {})
        return await self._slate("GET", "/popular", None, params=params)

    async def rerank(
        self, shopper: Shopper, items: Sequence[str], *, placement: str, staff: bool = False
    ) -> Slate:
        """These items in the order that suits the shopper. `staff`: only to read what is known of them;
        never counted."""
        body = {**shopper.fields(), "items": list(items), "placement": placement, "staff": staff}
        return await self._slate("POST", "/rerank", shopper, json=body)

    async def _slate(self, method: str, path: str, shopper: Shopper | None, **sent: Any) -> Slate:
        self._calls += 1
        origin = self.origins[self._calls % len(self.origins)]
        agent = shopper.user_agent if shopper else ""
        headers = {"X-API-Key": self.key.encode(), "User-Agent": agent.encode("latin-1", "replace")}
        try:
            answer = await self.client.request(
                method, origin + path, headers=headers, timeout=TIMEOUT, **sent
            )
            answer.raise_for_status()
            return slate_of(answer.json())
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            log.warning("%s %s: %s", method, path, error or type(error).__name__)
            raise UnavailableError("the recommend service", f"{error}" or type(error).__name__) from error


def slate_of(answer: Mapping[str, Any]) -> Slate:
    """A slate from the JSON of the contract. Raises KeyError or TypeError when it isn't one."""
    return Slate(
        items=tuple(_shown(index, item) for index, item in enumerate(answer["items"])),
        recommendation_id=answer.get("recommendation_id"),
        experiment=answer.get("experiment"),
        arm=answer.get("arm"),
        model_version=answer.get("model_version"),
        degraded=answer.get("degraded"),
    )


def _shown(index: int, item: Mapping[str, Any]) -> Shown:
    if not isinstance(item, Mapping):
        raise TypeError(f"item {index} of the slate is not an object")
    known = item.get("metadata") or {}
    price = known.get("price")
    product = Product(
        item["item_id"],
        str(known.get("title") or f"Item {item['item_id']}"),
        str(known.get("category") or ""),
        float(price) if price is not None else None,
    )
    return Shown(
        product,
        int(item.get("position", index)),
        float(item.get("score") or 0.0),
        str(item.get("reason") or ""),
    )
