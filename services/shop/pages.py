"""Pages of the sample storefront. Each loads its sections over Ringside's public HTTP API."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from services.settings import Settings
from services.shop.product_cache import Product, ProductCache
from services.shop.sections import SectionLoader
from services.shop.session import (
    MAX_QUANTITY,
    SEEN,
    SESSION,
    USER,
    Visit,
    is_user_id,
    new_session,
    set_cookie,
    visit_of,
    write_cart,
)

router = APIRouter()


@dataclass(frozen=True, slots=True)
class ShopDeps:
    """What the pages need. `events_url`: where browsers send events, with the storefront's key."""

    settings: Settings
    sections: SectionLoader
    products: ProductCache
    templates: Jinja2Templates
    events_url: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page request: its visit, and what renders it."""

    request: Request
    deps: ShopDeps
    visit: Visit

    @property
    def sections(self) -> SectionLoader:
        """Loads sections."""
        return self.deps.sections

    def render(self, template: str, status_code: int = 200, **values: object) -> HTMLResponse:
        """A whole page; it sets the cookie of a new session."""
        shared: dict[str, object] = {
            "visit": self.visit, "deps": self.deps, "categories": self.deps.products.categories(),
            "currency": self.deps.settings.shop_currency, "q": "",
        }  # fmt: skip
        response = self.deps.templates.TemplateResponse(
            self.request, template, shared | values, status_code=status_code
        )
        if self.visit.fresh:
            set_cookie(response, SESSION, self.visit.shopper.session_id)
        return response

    def cart_lines(self) -> list[tuple[Product, int]]:
        """Products in the cart with their quantities."""
        lines = ((self.deps.products.get(item), item, count) for item, count in self.visit.cart.items())
        return [(product or Product(item, f"Item {item}"), count) for product, item, count in lines]


def page_of(request: Request) -> Page:
    """Dependency: the request of a page."""
    return Page(request, request.app.state.deps, visit_of(request))


PageRequest = Annotated[Page, Depends(page_of)]


@router.get("/")
async def home(page: PageRequest) -> HTMLResponse:
    """Recommendations and popular items."""
    return page.render("home.html", sections=await page.sections.home(page.visit))


@router.get("/item/{item_id:path}")
async def item(page: PageRequest, item_id: str) -> HTMLResponse:
    """One product, with similar items."""
    await page.sections.load_products(page.visit, [item_id])
    sections = await page.sections.item(page.visit, item_id)
    product = page.deps.products.get(item_id)
    unavailable = all(section.slate is None for section in sections)
    if product is None:
        message = "We can't show this item at the moment." if unavailable else "We don't sell this item."
        return page.render(
            "missing.html",
            503 if unavailable else 404,
            message=message,
            sections=[await page.sections.popular()],
        )
    response = page.render("item.html", product=product, sections=sections)
    set_cookie(response, SEEN, quote(item_id))
    return response


@router.get("/category/{category:path}")
async def category(page: PageRequest, category: str) -> HTMLResponse:
    """One category."""
    return page.render(
        "listing.html", section=await page.sections.category(page.visit, category), chosen=category
    )


@router.get("/search")
async def search(page: PageRequest, q: Annotated[str, Query(max_length=100)] = "") -> Response:
    """Search among the products in the cache."""
    if not q.strip():
        return RedirectResponse("/", 303)
    return page.render(
        "listing.html", section=await page.sections.search(page.visit, q.strip()), q=q, chosen=""
    )


@router.get("/cart")
async def cart(page: PageRequest) -> HTMLResponse:
    """The cart, and items that go with it."""
    await page.sections.load_products(page.visit, list(page.visit.cart))
    return page.render("cart.html", lines=page.cart_lines(), sections=[await page.sections.cart(page.visit)])


@router.get("/sections/{name}")
async def section(page: PageRequest, name: str, item: str = "", category: str = "") -> HTMLResponse:
    """One section as an HTML fragment, which the page loads again after a click."""
    loader, visit = page.sections, page.visit
    loaders = {
        "for-you": lambda: loader.for_you(visit),
        "because": lambda: loader.because(visit, item),
        "also-like": lambda: loader.also_like(visit, item),
        "cart": lambda: loader.cart(visit),
        "category": lambda: loader.category(visit, category),
    }
    if name not in loaders:
        return HTMLResponse("", 404)
    return page.render("part_section.html", section=await loaders[name]())


@router.post("/cart")
async def change_cart(
    page: PageRequest,
    item_id: Annotated[str, Form(min_length=1, max_length=200)],
    quantity: Annotated[int, Form(ge=0, le=MAX_QUANTITY)] = 1,
    add: Annotated[bool, Form()] = False,
) -> RedirectResponse:
    """Add to an item's quantity (`add`) or set it; 0 removes the item."""
    lines = dict(page.visit.cart)
    lines[item_id] = min(MAX_QUANTITY, quantity + (lines.get(item_id, 0) if add else 0))
    response = RedirectResponse("/cart", 303)
    write_cart(response, {item: count for item, count in lines.items() if count > 0})
    return response


@router.post("/checkout")
async def checkout(page: PageRequest) -> Response:
    """Buy the cart; the page sends the purchase events."""
    lines = page.cart_lines()
    if not lines:
        return RedirectResponse("/cart", 303)
    response = page.render(
        "thanks.html", lines=lines, order=secrets.token_hex(6), bought=_bought(lines), sections=[]
    )
    write_cart(response, {})
    return response


@router.post("/shopper")
async def shopper(page: PageRequest, user: Annotated[str, Form(max_length=64)] = "") -> RedirectResponse:
    """Shop as another user (empty: as a guest); a new session with an empty cart starts."""
    response = RedirectResponse("/", 303)
    set_cookie(response, USER, quote(user.strip(), safe="@:+") if is_user_id(user.strip()) else "")
    set_cookie(response, SESSION, new_session())
    set_cookie(response, SEEN, "")
    write_cart(response, {})
    return response


@router.get("/health/live")
def alive() -> Mapping[str, str]:
    """Liveness: this process runs; other processes are not checked."""
    return {"status": "live"}


def _bought(lines: list[tuple[Product, int]]) -> str:
    bought = [{"item_id": product.item_id, "value": (product.price or 0) * count} for product, count in lines]
    return json.dumps(bought)
