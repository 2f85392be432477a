"""The request for a slate, in one form for all routes, and the items that its slate may contain."""

from functools import cache
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.slate import PLACEMENTS_WITH_BOUGHT, eligible
from services.errors import BadInputError, NotFoundError
from services.messages.events import Excluded
from services.ports.features import UserRow
from services.recommend.schemas import RerankRequest, SlateFilters
from services.recommend.snapshot.catalogue_index import CatalogueIndex

_OF_VISITOR = ("user_id", "session_id", "arm", "staff", "items")  # fields that a slate has in another form


@cache  # this is asked for each request
def _shared_fields(kind: type[Struct]) -> tuple[str, ...]:
    """Names of the fields that a request struct passes on to `SlateRequest`."""
    return tuple(name for name in kind.__struct_fields__ if name not in _OF_VISITOR)


class Visitor(Struct, frozen=True):
    """The shopper of a request. `excluded`: why the slate may not count, decided before any assignment;
    `forced_arm`: the arm of a preview."""

    user_id: str | None
    session_id: str | None
    excluded: Excluded | None = None
    forced_arm: str | None = None

    @property
    def key(self) -> str | None:
        """Key of the visitor's features: user id, else session id; None for an anonymous visitor."""
        return self.user_id or self.session_id


class SlateRequest(Struct, frozen=True, kw_only=True):
    """One request for a slate.

    slate_id: short id of the slate to be made; received_ms: ms since the epoch; context: items in the cart or
    on the page; anchor: the item that the slate should be like; given: the only items allowed, in the
    caller's order.
    """

    visitor: Visitor
    slate_id: str
    received_ms: int
    n: int
    placement: str = "home"
    exclude: list[str] = []
    category: list[str] = []
    price_min: float | None = None
    price_max: float | None = None
    context: list[str] = []
    anchor: str | None = None
    given: list[str] | None = None
    metadata: bool = True

    @classmethod
    def of(
        cls,
        fields: SlateFilters | RerankRequest,
        visitor: Visitor,
        slate_id: str,
        received_ms: int,
        **more: Any,
    ) -> "SlateRequest":
        """The request with these fields. `more`: other fields of the slate, which replace them."""
        values = {name: getattr(fields, name) for name in _shared_fields(type(fields))}
        values.update(more)
        return cls(visitor=visitor, slate_id=slate_id, received_ms=received_ms, **values)

    @classmethod
    def of_rerank(
        cls, fields: RerankRequest, visitor: Visitor, slate_id: str, received_ms: int
    ) -> "SlateRequest":
        """The request of /rerank: only its `items`, which the caller has ordered."""
        given = list(dict.fromkeys(fields.items))
        n = min(fields.n or len(given), len(given))
        return cls.of(fields, visitor, slate_id, received_ms, given=given, n=n)

    @property
    def routing_key(self) -> str:
        """Key of the visitor; made up for an anonymous one."""
        return self.visitor.key or f"anonymous:{self.slate_id}"

    def check(self, catalogue: CatalogueIndex, placements: frozenset[str]) -> None:
        """Refuse what no slate can answer. Raises BadInputError, or NotFoundError for an unknown anchor."""
        if self.placement not in placements:
            known = ", ".join(sorted(placements))
            raise BadInputError("placement", f"unknown: {self.placement!r}; known are {known}")
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise BadInputError("price_min", f"{self.price_min} is above price_max {self.price_max}")
        if self.anchor is not None and self.anchor not in catalogue.index:
            raise NotFoundError("item_id", f"no item {self.anchor!r} in the catalogue")

    def eligible(self, catalogue: CatalogueIndex, row: UserRow) -> NDArray[np.bool_]:
        """Items that this slate may show, bool [n_items]; read only.

        Items that the user has bought are left out, unless the placement keeps them. The row of the user has
        only the latest actions (Settings.recent_items), so older purchases may be shown.
        """
        hidden = [*self.exclude, *self.context] if self.exclude or self.context else []
        if self.anchor is not None:
            hidden.append(self.anchor)
        if (
            self.placement not in PLACEMENTS_WITH_BOUGHT
            and self.given is None
            and "purchase" in row.recent_types
        ):
            actions = zip(row.recent_items, row.recent_types, strict=False)
            hidden += [item for item, kind in actions if kind == "purchase"]
        return eligible(
            catalogue.filtered(self.category, self.price_min, self.price_max),
            excluded=catalogue.indices(hidden),
            only=catalogue.indices(self.given) if self.given is not None else None,
        )
