"""What the browser keeps: who is shopping, the session, the cart. Cookies, checked on the way in."""

import base64
import json
import re
import secrets
from dataclasses import dataclass
from urllib.parse import unquote

from fastapi import Request, Response

from services.shop.api import Shopper

USER, SESSION, CART, SEEN = "shop_user", "shop_session", "shop_cart", "shop_seen"
MAX_LINES, MAX_QUANTITY, MAX_AGE_S = 30, 99, 30 * 86_400
_ID = re.compile(r"[\w.:@+-]{1,64}")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request's shopper and cart (item id → quantity). `seen`: the item looked at last, or empty;
    `fresh`: this session starts now."""

    shopper: Shopper
    cart: dict[str, int]
    seen: str
    fresh: bool


def visit_of(request: Request) -> Visit:
    """The visit a request belongs to; whatever a cookie says that makes no sense is as good as absent."""
    cookies = request.cookies
    user = unquote(cookies.get(USER, ""))
    session = cookies.get(SESSION, "")
    fresh = _ID.fullmatch(session) is None
    shopper = Shopper(
        user if _ID.fullmatch(user) else None,
        new_session() if fresh else session,
        request.headers.get("user-agent", ""),
    )
    return Visit(shopper, read_cart(cookies.get(CART, "")), unquote(cookies.get(SEEN, ""))[:200], fresh)


def new_session() -> str:
    """A session id nobody can guess."""
    return secrets.token_urlsafe(12)


def is_user_id(text: str) -> bool:
    """True if the shop takes this as a user id."""
    return _ID.fullmatch(text) is not None


def read_cart(cookie: str) -> dict[str, int]:
    """Lines of the cart; empty if the cookie is not one of ours."""
    try:
        lines = json.loads(base64.urlsafe_b64decode(cookie.encode()))
        return {
            _text(item): min(MAX_QUANTITY, int(count)) for item, count in lines[:MAX_LINES] if int(count) > 0
        }
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {}


def _text(item: object) -> str:
    """An item id as a page can hold it. Raises ValueError for half a surrogate pair."""
    text = str(item)
    text.encode()
    return text


def write_cart(response: Response, cart: dict[str, int]) -> None:
    """Keep the cart in the browser."""
    packed = json.dumps(list(cart.items())[:MAX_LINES], separators=(",", ":")).encode()
    keep(response, CART, base64.urlsafe_b64encode(packed).decode())


def keep(response: Response, name: str, value: str) -> None:
    """Set a cookie of the shop (or forget it, if empty)."""
    if value:
        response.set_cookie(name, value, max_age=MAX_AGE_S, httponly=True, samesite="lax")
    else:
        response.delete_cookie(name)
