"""A small stand-in for the recommend service with the same HTTP contract: a toy model that follows clicks.

Its slates hold items of the categories that a session clicked last, then the rest; `down` makes it
answer 503.
"""

from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

KEY = "rs_pub_test"
CATEGORIES = (
    "Tea and Coffee",
    "Bags",
    "Candles and Light",
    "Garden",
    "Stationery",
    "Baking",
    "Toys and Games",
)
THINGS = {
    "Tea and Coffee": ("Teapot", "Mug", "Espresso Cup", "Milk Jug"),
    "Bags": ("Tote Bag", "Rucksack", "Lunch Bag", "Purse"),
    "Candles and Light": ("Lantern", "Scented Candle", "Table Lamp", "Fairy Lights"),
    "Garden": ("Plant Pot", "Watering Can", "Bird Feeder", "Wind Chime"),
    "Stationery": ("Notebook", "Greeting Card", "Gift Wrap", "Pencil Case"),
    "Baking": ("Cake Stand", "Cookie Cutter", "Muffin Tray", "Rolling Pin"),
    "Toys and Games": ("Toy Train", "Jigsaw Puzzle", "Doll House", "Kite"),
}
LOOKS = (
    "Red Spotty",
    "Sage Green",
    "Navy Striped",
    "Ivory",
    "Mustard",
    "Blush Pink Floral",
    "Charcoal",
    "Sky Blue",
)


def catalogue() -> dict[str, dict[str, Any]]:
    """Item id → metadata, 224 products."""
    kinds = [
        (look, category, THINGS[category][k]) for look in LOOKS for k in range(4) for category in CATEGORIES
    ]
    made = [
        {"title": f"{look} {thing}", "category": category, "price": 2.5 + (7 * index) % 40}
        for index, (look, category, thing) in enumerate(kinds)
    ]
    return {f"sku-{index:03d}": item for index, item in enumerate(made)}


@dataclass
class StubApi:
    """State of the stand-in. `lag`: how many slates after a click still don't know of it."""

    items: dict[str, dict[str, Any]] = field(default_factory=catalogue)
    events: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    lag: int = 0
    down: bool = False

    def app(self) -> FastAPI:
        """The service."""
        app = FastAPI()
        app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])
        app.middleware("http")(self._guard)
        app.post("/recommend")(self._recommend)
        app.get("/similar/{item_id}")(self._similar)
        app.get("/popular")(self._popular)
        app.post("/rerank")(self._rerank)
        app.post("/events", status_code=202)(self._events)
        return app

    async def _guard(self, request: Request, call_next: Any) -> Any:
        if self.down:
            return JSONResponse({"error": "down"}, 503)
        key = request.headers.get("x-api-key") or request.query_params.get("key")
        self.keys.append(key)
        self.agents.append(request.headers.get("user-agent", ""))
        return await call_next(request) if key == KEY else JSONResponse({"error": "no key"}, 401)

    async def _recommend(self, request: Request) -> Any:
        return self.slate(await request.json())

    async def _similar(self, item_id: str, n: int, session_id: str) -> Any:
        if item_id not in self.items:
            raise HTTPException(404)
        category = self.items[item_id]["category"]
        found = [i for i, item in self.items.items() if item["category"] == category and i != item_id]
        return self.answer(found[:n], "similar to this", session_id)

    async def _popular(self, n: int, category: str | None = None) -> Any:
        found = [i for i, item in self.items.items() if category in (None, item["category"])]
        return self.answer(found[:n], "popular now", None) | {"arm": None, "experiment": None}

    async def _rerank(self, request: Request) -> Any:
        asked = await request.json()
        self.asked.append(asked)
        known = [item for item in asked["items"] if item in self.items]
        return self.answer(sorted(known), "suits you", asked["session_id"])

    async def _events(self, request: Request) -> Any:
        self.events.extend(await request.json())
        return {"accepted": 1, "rejected": []}

    def slate(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A slate that follows what the session clicked."""
        self.asked.append(asked)
        session, context = asked["session_id"], asked.get("context", [])
        clicks = [e["item_id"] for e in self.events if e["type"] == "click" and e["session_id"] == session]
        if clicks and self.lag > 0:
            self.lag -= 1
            clicks = clicks[:-1]
        liked = [self.items[item]["category"] for item in [*clicks, *context] if item in self.items][::-1]
        only = asked.get("category")
        pool = [i for i, item in self.items.items() if not only or item["category"] in only]
        ranked = sorted(pool, key=lambda i: (self._rank(self.items[i]["category"], liked), i))
        shown = [item for item in ranked if item not in clicks and item not in context]
        reason = "like what you looked at" if liked else "popular now"
        return self.answer(shown[: asked["n"]], reason, session)

    @staticmethod
    def _rank(category: str, liked: list[str]) -> int:
        return liked.index(category) if category in liked else len(liked)

    def answer(self, item_ids: list[str], reason: str, session: str | None) -> dict[str, Any]:
        """An answer of the contract."""
        items = [
            {"item_id": i, "score": 1.0 / (n + 1), "position": n, "reason": reason, "metadata": self.items[i]}
            for n, i in enumerate(item_ids)
        ]
        return {
            "recommendation_id": f"signed.{session}.{'-'.join(item_ids[:2])}" if session else None,
            "items": items, "experiment": "storefront", "arm": "als",
            "model_version": "als-20261123T140500-ee7637", "degraded": None if len(item_ids) > 3 else "short",
        }  # fmt: skip
