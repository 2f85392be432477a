"""The pages of the sample storefront. Each asks for its slates over public HTTP and renders whatever it
gets."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from services.settings import Settings
from services.shop.api import Product
from services.shop.product_cache import Shelf
from services.shop.sections import Rails
from services.shop.session import (
    MAX_QUANTITY,
    SEEN,
    SESSION,
    USER,
    Visit,
    is_user_id,
    keep,
    new_session,
    visit_of,
    write_cart,
)

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Store:
    """Everything a request needs; one an application. `events_url`: where browsers send events, key
    included."""

    settings: Settings
    rails: Rails
    shelf: Shelf
    templates: Jinja2Templates
    events_url: str

    @property
    def users(self) -> list[str]:
        """Known users to slip into, for demonstrations."""
        return [user for user in (part.strip() for part in self.settings.shop_users.split(",")) if user]


@dataclass(frozen=True, slots=True)
class Aisle:
    """A request in the shop: who it is, and how pages are made."""

    request: Request
    store: Store
    visit: Visit

    def render(self, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
        """A whole page, with the session kept."""
        shared = {
            "visit": self.visit, "store": self.store, "categories": self.store.shelf.categories(),
            "currency": self.store.settings.shop_currency, "q": "",
        }  # fmt: skip
        answer = self.store.templates.TemplateResponse(
            self.request, template, shared | values, status_code=status_code
        )
        if self.visit.fresh:
            keep(answer, SESSION, self.visit.shopper.session_id)
        return answer

    def lines(self) -> list[tuple[Product, int]]:
        """The cart with what is known of its items."""
        known = ((self.store.shelf.get(item), item, count) for item, count in self.visit.cart.items())
        return [(product or Product(item, f"Item {item}"), count) for product, item, count in known]


def aisle(request: Request) -> Aisle:
    """Dependency: the request with its visit."""
    return Aisle(request, request.app.state.store, visit_of(request))


InShop = Annotated[Aisle, Depends(aisle)]


@router.get("/")
async def home(at: InShop) -> HTMLResponse:
    """Recommendations, and what is popular."""
    return at.render("home.html", rails=await at.store.rails.home(at.visit))


@router.get("/item/{item_id:path}")
async def item(at: InShop, item_id: str) -> HTMLResponse:
    """One product, with similar ones."""
    await at.store.rails.know(at.visit, [item_id])
    rails = await at.store.rails.item(at.visit, item_id)
    product = at.store.shelf.get(item_id)
    away = all(rail.slate is None for rail in rails)
    if product is None:
        message = "We can't show this item right now." if away else "We don't have this item."
        return at.render(
            "missing.html", 503 if away else 404, message=message, rails=[await at.store.rails.popular()]
        )
    answer = at.render("item.html", product=product, rails=rails)
    keep(answer, SEEN, quote(item_id))
    return answer


@router.get("/category/{category:path}")
async def category(at: InShop, category: str) -> HTMLResponse:
    """One category."""
    return at.render("listing.html", rail=await at.store.rails.category(at.visit, category), chosen=category)


@router.get("/search")
async def search(at: InShop, q: Annotated[str, Query(max_length=100)] = "") -> Response:
    """Search among the products that the shop knows."""
    if not q.strip():
        return RedirectResponse("/", 303)
    return at.render("listing.html", rail=await at.store.rails.search(at.visit, q.strip()), q=q, chosen="")


@router.get("/cart")
async def cart(at: InShop) -> HTMLResponse:
    """The cart, and what goes with it."""
    await at.store.rails.know(at.visit, list(at.visit.cart))
    return at.render("cart.html", lines=at.lines(), rails=[await at.store.rails.cart(at.visit)])


@router.get("/rails/{name}")
async def rail(at: InShop, name: str, item: str = "", category: str = "") -> HTMLResponse:
    """One rail again, as a part of a page: after a click it is another one."""
    rails = at.store.rails
    choices = {
        "for-you": lambda: rails.for_you(at.visit),
        "because": lambda: rails.because(at.visit, item),
        "also-like": lambda: rails.also_like(at.visit, item),
        "cart": lambda: rails.cart(at.visit),
        "category": lambda: rails.category(at.visit, category),
    }
    if name not in choices:
        return HTMLResponse("", 404)
    return at.render("part_rail.html", rail=await choices[name]())


@router.post("/cart")
async def change_cart(
    at: InShop,
    item_id: Annotated[str, Form(min_length=1, max_length=200)],
    quantity: Annotated[int, Form(ge=0, le=MAX_QUANTITY)] = 1,
    add: Annotated[bool, Form()] = False,
) -> RedirectResponse:
    """Put an item in (`add`) or set its quantity; 0 takes it out."""
    lines = dict(at.visit.cart)
    lines[item_id] = min(MAX_QUANTITY, quantity + (lines.get(item_id, 0) if add else 0))
    answer = RedirectResponse("/cart", 303)
    write_cart(answer, {item: count for item, count in lines.items() if count > 0})
    return answer


@router.post("/checkout")
async def checkout(at: InShop) -> Response:
    """Buy what is in the cart; the page sends the purchase events."""
    lines = at.lines()
    if not lines:
        return RedirectResponse("/cart", 303)
    answer = at.render(
        "thanks.html", lines=lines, order=secrets.token_hex(6), bought=_bought(lines), rails=[]
    )
    write_cart(answer, {})
    return answer


@router.post("/shopper")
async def shopper(at: InShop, user: Annotated[str, Form(max_length=64)] = "") -> RedirectResponse:
    """Become another shopper (empty: nobody in particular); a new session starts, with an empty cart."""
    answer = RedirectResponse("/", 303)
    keep(answer, USER, quote(user.strip(), safe="@:+") if is_user_id(user.strip()) else "")
    keep(answer, SESSION, new_session())
    keep(answer, SEEN, "")
    write_cart(answer, {})
    return answer


@router.get("/health/live")
def alive() -> Mapping[str, str]:
    """This process answers; it needs nobody else to."""
    return {"status": "live"}


def _bought(lines: list[tuple[Product, int]]) -> str:
    bought = [{"item_id": product.item_id, "value": (product.price or 0) * count} for product, count in lines]
    return json.dumps(bought)
