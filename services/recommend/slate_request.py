"""A question for a slate, whichever route it came by, and which items may answer it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.slate import KEEPS_BOUGHT, UNKNOWN
from services.errors import BadInputError
from services.ports.features import UserRow
from services.recommend.assignment import Visitor
from services.recommend.schemas import PopularRequest, RerankRequest, SlateRequest
from services.recommend.snapshot.catalogue_index import Shelf
from services.web.problem import NotFoundError


@dataclass(frozen=True, slots=True)
class Ask:
    """One question for a slate, from whichever route. `anchor`: the item that the slate should be like;
    `given`: the only items allowed, in the caller's order."""

    visitor: Visitor
    n: int
    placement: str
    exclude: list[str] = field(default_factory=list)
    category: list[str] = field(default_factory=list)
    price_min: float | None = None
    price_max: float | None = None
    context: list[str] = field(default_factory=list)
    anchor: str | None = None
    given: list[str] | None = None
    metadata: bool = True

    @classmethod
    def of(
        cls,
        said: SlateRequest,
        visitor: Visitor,
        *,
        context: list[str] | None = None,
        anchor: str | None = None,
    ) -> "Ask":
        """From /recommend and /similar."""
        return cls(
            visitor,
            said.n,
            said.placement,
            said.exclude,
            said.category,
            said.price_min,
            said.price_max,
            context or [],
            anchor,
            None,
            said.metadata,
        )

    @classmethod
    def rerank(cls, said: RerankRequest, visitor: Visitor) -> "Ask":
        """From /rerank."""
        given = list(dict.fromkeys(said.items))
        n = min(said.n or len(given), len(given))
        return cls(visitor, n, said.placement, given=given, metadata=said.metadata)

    @classmethod
    def popular(cls, said: PopularRequest) -> "Ask":
        """From /popular."""
        nobody = Visitor(None, None)
        return cls(
            nobody,
            said.n,
            "home",
            said.exclude,
            said.category,
            said.price_min,
            said.price_max,
            metadata=said.metadata,
        )


def check(ask: Ask, shelf: Shelf, placements: frozenset[str]) -> None:
    """Refuse what no slate can answer. Raises BadInputError, or NotFoundError for an unknown anchor."""
    if ask.placement not in placements:
        raise BadInputError(
            "placement", f"unknown: {ask.placement!r}; known are {', '.join(sorted(placements))}"
        )
    if ask.price_min is not None and ask.price_max is not None and ask.price_min > ask.price_max:
        raise BadInputError("price_min", f"{ask.price_min} is above price_max {ask.price_max}")
    if ask.anchor is not None and ask.anchor not in shelf.index:
        raise NotFoundError("item_id", f"no item {ask.anchor!r} in the catalogue")


def allowed(ask: Ask, shelf: Shelf, row: UserRow) -> NDArray[np.bool_]:
    """Items that may stand in this slate, bool [n_items]; read only. What the user bought is left out as far
    back as the row goes: Settings.recent_items acts."""
    mask = shelf.mask(ask.category, ask.price_min, ask.price_max)
    hidden = [*ask.exclude, *ask.context] if ask.exclude or ask.context else []
    if ask.anchor is not None:
        hidden.append(ask.anchor)
    if ask.placement not in KEEPS_BOUGHT and ask.given is None and "purchase" in row.recent_types:
        bought = zip(row.recent_items, row.recent_types, strict=False)
        hidden += [item for item, kind in bought if kind == "purchase"]
    places = [place for place in shelf.places(hidden) if place != UNKNOWN]
    if ask.given is not None:
        mask = mask & among(shelf, ask.given)
    if places:
        mask = mask.copy()
        mask[places] = False
    return mask


def among(shelf: Shelf, item_ids: list[str]) -> NDArray[np.bool_]:
    """True at these items, bool [n_items]."""
    mask = np.zeros(len(shelf) + 1, np.bool_)  # UNKNOWN (-1) lands on the extra last place
    mask[shelf.places(item_ids)] = True
    return mask[:-1]
