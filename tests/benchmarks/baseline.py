"""The two baselines: a recommendation service as one writes it in an afternoon, on the same parts.

*plain*: one user row through the Feast SDK, the item matrix in numpy, the same server, worker count, JSON
encoder
and exposure write as Ringside. *bare*: the same with the user's row in a dict instead of Feast.
`python -m tests.benchmarks.baseline plain|bare <port> <folder>`; the folder holds vectors and rows
(installation.py).
"""

import sys
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response
from threadpoolctl import threadpool_limits

from services import bootstrap
from services.adapters.feast.feature_store import open_store
from services.messages.events import EXPOSURES
from services.settings import Settings

FEATURES = ["user_activity:item_ids", "user_activity:item_at", "user_activity:item_types"]


def feast_rows(settings: Settings) -> Any:
    """user -> recent item ids, through Feast."""
    store = open_store(settings)

    def recent(user_id: str) -> list[str]:
        found = store.get_online_features(features=FEATURES, entity_rows=[{"user_id": user_id}]).to_dict()
        return found["item_ids"][0] or []

    return recent


def dict_rows(folder: Path) -> Any:
    """user -> recent item ids, from memory."""
    rows = msgspec.json.decode((folder / "rows.json").read_bytes())
    return lambda user_id: rows.get(user_id, [])


def create(recent: Any, folder: Path, settings: Settings) -> FastAPI:
    """The whole service."""
    items = np.load(folder / "items.npy")
    vectors = np.load(folder / "vectors.npy")
    index = {item: place for place, item in enumerate(items.tolist())}
    producer = bootstrap.producer(settings)
    app = FastAPI()

    @app.get("/recommend")
    async def recommend(user_id: str, session_id: str, n: int = 10) -> Response:
        known = [index[item] for item in recent(user_id) if item in index]
        user = vectors[known].mean(axis=0) if known else vectors.mean(axis=0)
        scores = vectors @ user
        scores[known] = -np.inf
        best = np.argpartition(-scores, n)[:n]
        best = best[np.argsort(-scores[best])]
        slate = [{"item_id": str(items[place]), "score": float(scores[place])} for place in best]
        exposure = {
            "id": uuid.uuid4().hex,
            "at": time.time(),
            "user": user_id,
            "session": session_id,
            "items": slate,
        }
        producer.send(EXPOSURES, user_id, msgspec.json.encode(exposure))
        return Response(
            msgspec.json.encode({"items": slate, "degraded": None}), media_type="application/json"
        )

    return app


def main() -> None:
    """Serve until killed."""
    kind, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    settings = Settings()
    app = create(feast_rows(settings) if kind == "plain" else dict_rows(folder), folder, settings)
    with threadpool_limits(1, "blas"):
        uvicorn.run(app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="error")


if __name__ == "__main__":
    main()
