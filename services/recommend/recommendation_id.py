"""The recommendation id: a signed slip that says everything an event needs, so that nothing is looked up
or forged."""

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
    """What a recommendation id carries; `counts` is false for slates that were left out of the experiment."""

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


class Refusal(StrEnum):
    """Why an event with a recommendation id is accepted without attribution."""

    FORGED = "forged"  # not signed by us, or cut off on its way
    EXPIRED = "expired"
    FOREIGN = "foreign"  # another experiment's slate
    NOT_IN_SLATE = "not_in_slate"
    NOT_COUNTED = "not_counted"  # preview, bot, staff, …: served, never counted


class Tokens:
    """Signs and reads recommendation ids.

    keys: newest first; the newest signs, all verify, so that a key can be replaced while slates are on
    screens.
    """

    def __init__(self, keys: Sequence[str], ttl_ms: int):
        oldest_first = [hmac.digest(key.encode(), _SALT, "sha256") for key in reversed(keys)]
        # derived here, once: itsdangerous derives a key (in this way: key_derivation="hmac") on every call
        self._signer = Signer(oldest_first, _SALT, key_derivation="none", digest_method=hashlib.sha256)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(RecommendationClaims).decode
        self._ttl_ms = ttl_ms

    def sign(self, exposure: Exposure) -> str:
        """The recommendation id of a slate."""
        slip = RecommendationClaims(
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
        packed = base64.urlsafe_b64encode(self._encode(slip)).rstrip(b"=")
        return self._signer.sign(packed).decode("ascii")

    def read(self, token: str) -> RecommendationClaims | None:
        """The slip, or None if we did not sign it."""
        try:
            packed = self._signer.unsign(token.encode("ascii"))
            return self._decode(base64.urlsafe_b64decode(packed + b"=" * (-len(packed) % 4)))
        except (BadSignature, UnicodeEncodeError, binascii.Error, msgspec.DecodeError):
            return None

    def attribute(self, token: str, item_id: str, experiment: str, now_ms: int) -> Attribution | Refusal:
        """What the event on `item_id` counts for, or why it counts for nothing."""
        slip = self.read(token)
        if slip is None:
            return Refusal.FORGED
        refusal = self._refusal(slip, item_id, experiment, now_ms)
        if refusal is not None:
            return refusal
        return Attribution(
            recommendation_id=slip.recommendation_id,
            experiment=slip.experiment,
            routing_key=slip.routing_key,
            unit=slip.unit,
            unit_at=slip.unit_at,
            exposed_at=slip.exposed_at,
            arm=slip.arm,
            weights_version=slip.weights_version,
            propensity=slip.propensity,
            position=slip.items.index(item_id),
        )

    def _refusal(
        self, slip: RecommendationClaims, item_id: str, experiment: str, now_ms: int
    ) -> Refusal | None:
        if slip.experiment != experiment:
            return Refusal.FOREIGN
        if now_ms - slip.exposed_at > self._ttl_ms:
            return Refusal.EXPIRED
        if not slip.counts:
            return Refusal.NOT_COUNTED
        return None if item_id in slip.items else Refusal.NOT_IN_SLATE
