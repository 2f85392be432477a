"""The demo acts as any operator would: over the public HTTP contract, with an admin's key."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from services.demo.installation import Site
from services.errors import UnavailableError

Json = Mapping[str, Any]


class Api:
    """Commands and questions to the recommend service at `origin`."""

    def __init__(self, origin: str, admin_key: str, storefront_key: str, experiment: str):
        self._experiment = f"/experiments/{experiment}"
        self._admin = {"authorization": f"Bearer {admin_key}"}
        self._storefront = {"authorization": f"Bearer {storefront_key}"}
        self._client = httpx.Client(base_url=origin, timeout=10.0)

    @classmethod
    @contextmanager
    def of(cls, site: Site) -> Iterator["Api"]:
        """The API of a demo's first replica."""
        experiment = site.settings().experiment
        api = cls(site.origins[0], site.keys["admin"], site.keys["storefront"], experiment)
        try:
            yield api
        finally:
            api._client.close()

    def start(self, arm: str, model_version: str) -> Json:
        """The first champion serves; returns the new state."""
        return self._command("start", {"arm": arm, "model_version": model_version})

    def enter(self, arm: str, model_version: str, reason: str) -> Json:
        """A challenger joins; returns the new state."""
        return self._command("enter", {"arm": arm, "model_version": model_version, "reason": reason})

    def state(self) -> Json:
        """State of the experiment after its newest decision."""
        return self._answer(self._client.get(self._experiment, headers=self._admin))

    def decisions(self, after_revision: int) -> list[Json]:
        """Decisions that count, oldest first."""
        query = {"after_revision": after_revision}
        reply = self._client.get(f"{self._experiment}/decisions", params=query, headers=self._admin)
        return self._answer(reply)["decisions"]

    def recommend(self, session_id: str) -> Json:
        """A slate, as a storefront asks for it."""
        query = {"session_id": session_id, "staff": "true"}  # ours is no shopper: served, never counted
        return self._answer(self._client.get("/recommend", params=query, headers=self._storefront))

    def _command(self, name: str, body: Json) -> Json:
        reply = self._client.post(f"{self._experiment}/{name}", json=dict(body), headers=self._admin)
        return self._answer(reply)

    @staticmethod
    def _answer(reply: httpx.Response) -> Any:
        if not reply.is_success:
            raise UnavailableError(
                "recommend", f"{reply.request.url.path}: {reply.status_code} {reply.text[:300]}"
            )
        return reply.json()
