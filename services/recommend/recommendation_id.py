"""The recommendation id: signed claims that hold everything an event needs, so that attribution needs no
lookup and can't be forged."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from enum import StrEnum

import msgspec
from itsdangerous import BadSignature, Signer

from services.messages.events import Attribution, Exposure

_SALT = b"ringside.recommendation-id"


class RecommendationClaims(msgspec.Struct, frozen=True, array_like=True):
    """Claims of a recommendation id; `counts` is false for slates that were excluded from the experiment."""

    recommendation_id: str
    experiment: str
    routing_key: str
    unit: str
    unit_at: int
    exposed_at: int
    arm: str
    weights_version: int
    propensity: float
    counts: bool
    items: list[str]


_ATTRIBUTION_FIELDS = [name for name in Attribution.__struct_fields__ if name != "position"]


class Refusal(StrEnum):
    """Why an event with a recommendation id is accepted without attribution."""

    FORGED = "forged"  # not signed here, or cut off in transit
    EXPIRED = "expired"
    FOREIGN = "foreign"  # another experiment's slate
    NOT_IN_SLATE = "not_in_slate"
    NOT_COUNTED = "not_counted"  # preview, bot, staff, …: served, never counted


class RecommendationIds:
    """Signs and reads recommendation ids.

    keys: newest first. The newest signs and all verify, so that a key can be replaced while slates are on
    screens.
    """

    def __init__(self, keys: Sequence[str], ttl_ms: int):
        oldest_first = [hmac.digest(key.encode(), _SALT, "sha256") for key in reversed(keys)]
        # derived once here, because itsdangerous (key_derivation="hmac") derives the same key on every call
        self._signer = Signer(oldest_first, _SALT, key_derivation="none", digest_method=hashlib.sha256)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(RecommendationClaims).decode
        self._ttl_ms = ttl_ms

    def sign(self, exposure: Exposure) -> str:
        """The recommendation id of a slate."""
        claims = RecommendationClaims(
            exposure.recommendation_id,
            exposure.experiment,
            exposure.routing_key,
            exposure.unit,
            exposure.unit_at,
            exposure.received_at,
            exposure.arm,
            exposure.weights_version,
            exposure.propensity,
            exposure.excluded is None,
            exposure.items,
        )
        packed = base64.urlsafe_b64encode(self._encode(claims)).rstrip(b"=")
        return self._signer.sign(packed).decode("ascii")

    def read(self, recommendation_id: str) -> RecommendationClaims | None:
        """The claims, or None if the signature is not valid."""
        try:
            packed = self._signer.unsign(recommendation_id.encode("ascii"))
            return self._decode(base64.urlsafe_b64decode(packed + b"=" * (-len(packed) % 4)))
        except (BadSignature, UnicodeEncodeError, binascii.Error, msgspec.DecodeError):
            return None

    def attribute(
        self, recommendation_id: str, item_id: str, experiments: frozenset[str], now_ms: int
    ) -> Attribution | Refusal:
        """The attribution of an event on `item_id`, or why it has none; `experiments`: those served here."""
        claims = self.read(recommendation_id)
        if claims is None:
            return Refusal.FORGED
        refusal = self._refusal(claims, item_id, experiments, now_ms)
        if refusal is not None:
            return refusal
        shared = {name: getattr(claims, name) for name in _ATTRIBUTION_FIELDS}
        return Attribution(position=claims.items.index(item_id), **shared)

    def _refusal(
        self, claims: RecommendationClaims, item_id: str, experiments: frozenset[str], now_ms: int
    ) -> Refusal | None:
        if claims.experiment not in experiments:
            return Refusal.FOREIGN
        if now_ms - claims.exposed_at > self._ttl_ms:
            return Refusal.EXPIRED
        if not claims.counts:
            return Refusal.NOT_COUNTED
        return None if item_id in claims.items else Refusal.NOT_IN_SLATE
