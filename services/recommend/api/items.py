"""POST|PATCH|DELETE /items: changes of the live catalogue. A change is logged first, then applied to the
overlay of the imported data."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from services.errors import NotFoundError, UnavailableError
from services.messages.events import ITEMS, ItemChanged, encode
from services.recommend.api.events import acknowledged
from services.recommend.api.openapi import ANY_KEY, failures
from services.recommend.deps import Deps
from services.recommend.schemas import MAX_LISTED
from services.recommend.snapshot.catalogue_index import CatalogueIndex
from services.recommend.snapshot.item_changes import exists, in_force
from services.web.access import AccessControl, Caller, KeyFirstRoute
from services.web.api_keys import Principal

MAX_CHANGES = 1_000
PLAIN = r"^[^\x00-\x1f\x7f]+$"  # numpy drops a NUL at the end, which would make two ids equal
ItemId = Annotated[str, Field(min_length=1, max_length=200, pattern=PLAIN)]
PRINTABLE = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"  # tabs and line ends are allowed
Title = Annotated[str, Field(max_length=500, pattern=PRINTABLE)]
Category = Annotated[str, Field(max_length=200, pattern=PRINTABLE)]
Price = Annotated[float, Field(ge=0, le=1e9)]
Stock = Annotated[int, Field(ge=-1, le=2**31 - 1, description="-1: not tracked; 0: out of stock")]
Description = Annotated[str, Field(max_length=10_000, pattern=PRINTABLE)]


class Change(BaseModel):
    """New fields of an item; fields that are left out stay as they are."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    title: Title | None = None
    category: Category | None = None
    price: Price | None = None
    stock: Stock | None = None
    hidden: bool | None = None
    description: Description | None = None


class ItemChange(Change):
    """A change of one item."""

    item_id: ItemId


class Item(ItemChange):
    """A whole item: new, or replacing every field of an old one."""

    title: Annotated[Title, Field(min_length=1)]
    category: Category = ""
    price: Price = 0.0
    stock: Stock = -1
    hidden: bool = False
    description: Description = ""


class Changed(BaseModel):
    """How many items changed, and the position in the log after them. Answers show them within seconds."""

    changed: int
    revision: int


class LiveCatalogue:
    """Logs changes in topic `items`, then applies the log to the overlay that replicas read.

    `catalogue` returns the current index; `apply_log` applies the log up to its end, in its own thread.
    """

    def __init__(
        self,
        deps: Deps,
        catalogue: Callable[[], CatalogueIndex],
        apply_log: Callable[[], Awaitable[object]],
    ):
        self._deps = deps
        self._catalogue = catalogue
        self._apply_log = apply_log

    async def change(self, changes: Sequence[ItemChanged]) -> Changed:
        """Log and apply. Raises UnavailableError; then the same changes may be sent again. Those that are in
        the log already are applied as soon as Redis can be reached."""
        send, deadline_s = self._deps.producer.send, self._deps.settings.broker_ack_deadline_ms / 1_000
        futures = [send(ITEMS, change.key, encode(change)) for change in changes]
        await acknowledged(futures, deadline_s)
        try:
            await asyncio.wait_for(self._apply_log(), deadline_s)
        except TimeoutError:
            raise UnavailableError("the live catalogue", "the change is logged and not yet applied") from None
        revision = max(future.result().offset for future in futures) + 1
        return Changed(changed=len(changes), revision=revision)

    def changed(self, item_id: str, by: Principal, change: Change | None) -> ItemChanged:
        """The message of one change; None deletes the item."""
        fields: dict[str, Any] = {"deleted": True}
        if change is not None:
            fields = change.model_dump(exclude={"item_id"}, exclude_none=True)
        return ItemChanged(received_at=self._deps.clock_ms(), item_id=item_id, author=by.name, **fields)

    async def require(self, item_ids: Sequence[str], *, deleted: bool = False) -> None:
        """Refuse to change items that do not exist; `deleted`: imported items that were deleted count as
        existing. Raises NotFoundError naming the row. Items that the index lacks are searched in the overlay,
        which may be newer.
        """
        catalogue = self._catalogue()
        gone = frozenset[str]() if deleted else catalogue.deleted
        unknown = [item for item in item_ids if item not in catalogue.index or item in gone]
        _, changes = await asyncio.to_thread(self._deps.overlay.changes) if unknown else (None, [])
        newest = in_force(changes, catalogue.imported)
        missing = [item for item in unknown if not _exists(newest.get(item), item in catalogue.index)]
        if missing:
            row = list(item_ids).index(missing[0])
            raise NotFoundError(f"{row}.item_id", f"no item {missing[0]!r} in the catalogue")


def _exists(change: ItemChanged | None, imported: bool) -> bool:
    """Whether the item exists, given the change in force and whether the import has it."""
    return exists(change) or (imported and not (change is not None and change.deleted))


def catalogue_routes(deps: Deps, access: AccessControl, live: LiveCatalogue) -> APIRouter:
    """The routes; admin keys only."""
    admin = Annotated[Principal, Depends(Caller(access, "admin"))]
    router = APIRouter(
        route_class=KeyFirstRoute,
        tags=["catalogue"],
        responses=failures("400", "401", "403", "413", "422", "429", "503"),
    )
    extra = {"security": ANY_KEY}
    few = Field(min_length=1, max_length=MAX_LISTED)
    rows = Field(min_length=1, max_length=MAX_CHANGES)

    @router.post("/items", openapi_extra=extra)
    async def put_items(items: Annotated[list[Item], rows, Body()], by: admin) -> Changed:
        """Add items, or replace all fields of existing ones. Effective in answers within seconds."""
        return await live.change([live.changed(item.item_id, by, item) for item in items])

    @router.patch("/items", openapi_extra=extra, responses=failures("404"))
    async def change_items(changes: Annotated[list[ItemChange], rows, Body()], by: admin) -> Changed:
        """Change stock, price, visibility, … of several items. A deleted one is 404 until it is posted."""
        await live.require([change.item_id for change in changes])
        return await live.change([live.changed(change.item_id, by, change) for change in changes])

    @router.delete("/items", openapi_extra=extra, responses=failures("404"))
    async def delete_items(item_id: Annotated[list[ItemId], few, Query()], by: admin) -> Changed:
        """Delete items from the catalogue; `item_id` may be repeated. A POST brings them back, or a newer
        import that has them."""
        await live.require(item_id, deleted=True)
        return await live.change([live.changed(item, by, None) for item in item_id])

    @router.patch("/items/{item_id:path}", openapi_extra=extra, responses=failures("404"))
    async def change_item(item_id: Annotated[ItemId, Path()], change: Change, by: admin) -> Changed:
        """Change one item."""
        await live.require([item_id])
        return await live.change([live.changed(item_id, by, change)])

    @router.delete("/items/{item_id:path}", openapi_extra=extra, responses=failures("404"))
    async def delete_item(item_id: Annotated[ItemId, Path()], by: admin) -> Changed:
        """Delete one item from the catalogue."""
        await live.require([item_id], deleted=True)
        return await live.change([live.changed(item_id, by, None)])

    return router
