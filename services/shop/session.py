"""State in the browser's cookies: user, session, cart, last item viewed. Every cookie is validated."""

import base64
import json
import re
import secrets
from dataclasses import dataclass
from urllib.parse import unquote

from fastapi import Request, Response

from services.client.client import ShopperFields

USER, SESSION, CART, SEEN = "shop_user", "shop_session", "shop_cart", "shop_seen"
MAX_LINES, MAX_QUANTITY, MAX_AGE_S = 30, 99, 30 * 86_400
_ID = re.compile(r"[\w.:@+-]{1,64}")


@dataclass(frozen=True, slots=True)
class Shopper:
    """Who is shopping: a session, and a user id unless a guest. Ringside recognises bots by `user_agent`."""

    user_id: str | None
    session_id: str
    user_agent: str = ""

    def fields(self) -> ShopperFields:
        """The shopper's fields of a request to Ringside."""
        if self.user_id:
            return {"user_id": self.user_id, "session_id": self.session_id}
        return {"session_id": self.session_id}


@dataclass(frozen=True, slots=True)
class Visit:
    """The shopper and cart (item id → quantity) of one request. `last_viewed`: an item id, or empty; `fresh`:
    the session starts with this request."""

    shopper: Shopper
    cart: dict[str, int]
    last_viewed: str
    fresh: bool


def visit_of(request: Request) -> Visit:
    """The visit of a request; an invalid cookie counts as absent."""
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
    """A session id that cannot be guessed."""
    return secrets.token_urlsafe(12)


def is_user_id(text: str) -> bool:
    """True if the shop accepts this as a user id."""
    return _ID.fullmatch(text) is not None


def read_cart(cookie: str) -> dict[str, int]:
    """Item id → quantity; empty if the cookie is invalid."""
    try:
        lines = json.loads(base64.urlsafe_b64decode(cookie.encode()))
        return {
            _text(item): min(MAX_QUANTITY, int(count)) for item, count in lines[:MAX_LINES] if int(count) > 0
        }
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {}


def _text(item: object) -> str:
    """An item id that a page can hold. Raises ValueError for a lone surrogate."""
    text = str(item)
    text.encode()
    return text


def write_cart(response: Response, cart: dict[str, int]) -> None:
    """Write the cart's cookie."""
    packed = json.dumps(list(cart.items())[:MAX_LINES], separators=(",", ":")).encode()
    set_cookie(response, CART, base64.urlsafe_b64encode(packed).decode())


def set_cookie(response: Response, name: str, value: str) -> None:
    """Set a cookie of the shop; delete it if the value is empty."""
    if value:
        response.set_cookie(name, value, max_age=MAX_AGE_S, httponly=True, samesite="lax")
    else:
        response.delete_cookie(name)
