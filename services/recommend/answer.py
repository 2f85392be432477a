"""Answer a request for a slate: read features and pin, assign the arm, build the slate, log its exposure."""

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future

from cachetools import LRUCache

from services.errors import UnavailableError
from services.messages.events import EXPOSURES, Exposure, encode
from services.ports.event_log import Record
from services.ports.features import UserRow
from services.ports.pins import Pin
from services.recommend.assignment import NO_ARM, Assignment, Proposal, propose, resolve, without_pin
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.recommendation_id import RecommendationIds
from services.recommend.schemas import Answer
from services.recommend.slate_builder import SlateBuilder, SlateResult
from services.recommend.slate_request import SlateRequest
from services.recommend.snapshot.circuit_breaker import CircuitBreaker
from services.recommend.snapshot.snapshot import ServedExperiment, Snapshot
from services.runtime.log_context import RECOMMENDATION

log = logging.getLogger(__name__)

EXPOSURE_LOST = "exposure_lost"  # neither the slate nor its clicks will count
CACHED_ROWS = 10_000


class SlateService:
    """Answers /recommend, /similar, /rerank and /popular. `snapshot` returns the current snapshot."""

    def __init__(
        self,
        deps: Deps,
        snapshot: Callable[[], Snapshot],
        builder: SlateBuilder,
        ids: RecommendationIds,
        metrics: Metrics,
    ):
        self._deps = deps
        self._placements = frozenset(deps.settings.placements)
        self._snapshot = snapshot
        self._builder = builder
        self._ids = ids
        self._metrics = metrics
        self._breaker = CircuitBreaker(limit=5, rest_s=1.0)
        self._rows: MutableMapping[str, UserRow] = LRUCache(CACHED_ROWS)
        self._replacing: set[asyncio.Task[None]] = set()

    async def answer(self, request: SlateRequest) -> Answer:
        """The slate with its recommendation id; its exposure is queued. Raises BadInputError only."""
        snapshot = self._snapshot()
        request.check(snapshot.catalogue, self._placements)
        RECOMMENDATION.set(request.slate_id)  # log lines from here on name the slate
        experiment = snapshot.experiment(request.placement)
        row, assignment, degraded = await self._read(experiment, request)
        result = await self._builder.build(snapshot, experiment, assignment.arm, request, row)
        if experiment.champion_only is not None:
            degraded = [experiment.champion_only, *degraded]
        result.degraded[:0] = degraded
        exposure = _exposure(experiment.name, request, assignment, result, row)
        return Answer(
            degraded=self._log_exposure(exposure),
            recommendation_id=self._ids.sign(exposure),
            items=result.items,
            experiment=experiment.name if experiment.state is not None else None,
            arm=assignment.arm if assignment.arm != NO_ARM else None,
            model_version=result.model_version,
        )

    def popular(self, request: SlateRequest) -> Answer:
        """Popular items, the same for every user; no arm is assigned and no exposure logged."""
        catalogue = self._snapshot().catalogue
        request.check(catalogue, self._placements)
        result = self._builder.popular(catalogue, request)
        return Answer(
            recommendation_id=None,
            items=result.items,
            experiment=None,
            arm=None,
            model_version=None,
            degraded=",".join(result.degraded) or None,
        )

    async def _read(
        self, experiment: ServedExperiment, request: SlateRequest
    ) -> tuple[UserRow, Assignment, list[str]]:
        """Read features and pin in one round trip; return them with codes of `degraded`.

        If the read fails, use the row that this process cached, and no pin.
        """
        proposal, key = propose(experiment, request), request.visitor.key
        if key is None:  # anonymous: there are no features, and a pin could never be found again
            return UserRow(), resolve(experiment, proposal, None, written=False), []
        if self._breaker.closed(time.monotonic()):
            try:
                pin = proposal.pin if proposal.pin_key is not None else None
                row, stored, written = await self._deps.reader.read(
                    key, proposal.pin_key, pin, proposal.ttl_s
                )
            except UnavailableError:
                self._breaker.failed(time.monotonic())
            else:
                self._breaker.succeeded()
                self._rows[key] = row
                if stored is None and pin is not None:  # pins were lost, and are being restored
                    return row, without_pin(experiment, proposal), ["no_pins"]
                assignment = resolve(experiment, proposal, stored, written=written)
                self._replace_retired(proposal, assignment)
                return row, assignment, []
        row = self._rows.get(key) or UserRow()
        return row, without_pin(experiment, proposal), ["no_fresh_features"]

    def _replace_retired(self, proposal: Proposal, assignment: Assignment) -> None:
        """Replace a retired pin in the background; until then requests are resolved the same way."""
        if assignment.replacement is None or proposal.pin_key is None:
            return
        task = asyncio.ensure_future(
            self._replace_pin(proposal.pin_key, assignment.replacement, proposal.ttl_s)
        )
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _replace_pin(self, pin_key: str, pin: Pin, ttl_s: float) -> None:
        try:
            await self._deps.reader.replace_pin(pin_key, pin, ttl_s)
        except UnavailableError as error:
            log.warning("a retired pin is not replaced yet: %s", error)

    def _log_exposure(self, exposure: Exposure) -> str | None:
        """Queue the exposure; return the codes of `degraded`, with EXPOSURE_LOST if the queue is full.

        The answer does not wait for the broker. An exposure that fails later is only counted as lost.
        """
        future = self._deps.producer.send(EXPOSURES, exposure.routing_key, encode(exposure))
        future.add_done_callback(self._acknowledged)
        lost = future.done() and future.exception() is not None
        degraded = ",".join(filter(None, (exposure.degraded, EXPOSURE_LOST))) if lost else exposure.degraded
        self._metrics.slate(exposure, degraded)
        return degraded

    def _acknowledged(self, future: "Future[Record]") -> None:
        if future.cancelled() or future.exception() is not None:
            self._metrics.exposures_lost.inc()


def _exposure(
    experiment: str, request: SlateRequest, assignment: Assignment, result: SlateResult, row: UserRow
) -> Exposure:
    return Exposure(
        received_at=request.received_ms,
        recommendation_id=request.slate_id,
        experiment=experiment,
        routing_key=request.routing_key,
        unit=assignment.unit,
        unit_at=assignment.unit_at,
        first=assignment.first,
        arm=assignment.arm,
        answered_by=result.answered_by,
        model_version=result.model_version,
        weights_version=assignment.weights_version,
        propensity=assignment.propensity,
        placement=request.placement,
        items=[item.item_id for item in result.items],
        user_id=request.visitor.user_id,
        session_id=request.visitor.session_id,
        degraded=",".join(result.degraded) or None,
        excluded=assignment.excluded,
        features_at=row.activity_at or None,
    )
