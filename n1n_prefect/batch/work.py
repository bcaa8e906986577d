"""One item of a batch from its row to its result, tried again here where Prefect would try a task again.

One task run carries out many items, so that what belongs to a single image elsewhere is kept small: no event, no
asset and no line in the run's log but for failures, and of those the first few.
"""

import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from n1n_prefect import errors, events, stopping
from n1n_prefect.batch.items import Item
from n1n_prefect.batch.provenance import sidecar, sidecar_key
from n1n_prefect.batch.results import ItemResult, digest_of
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.batch.terms import Terms
from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.deriving import DerivedImage, derived_objects
from n1n_prefect.errors import N1nError
from n1n_prefect.execution import metered
from n1n_prefect.images import ImageOutcome, Spending, UploadedImage
from n1n_prefect.outcomes import outcome_of
from n1n_prefect.policies import DELAYS, RETRIES, Attempt, is_last_attempt
from n1n_prefect.run_log import Adapter, Log, logging_to
from n1n_prefect.staging import originals_at_hand
from n1n_prefect.to_s3 import to_s3, upload, validated

_RATE_LIMITS = 20  # how often one item is told to wait before it is given up
_FAILURES_LOGGED = 5  # of a chunk; all are in the results

_ENDS_BATCH = (errors.AuthenticationError, errors.QuotaError, errors.BudgetExceededError)
"""What the next item would meet as well."""

_ENDS_MODEL = (errors.ModelNotAvailableError, errors.PermissionDeniedError)
"""What the next item of the same model would meet."""


@dataclass
class Stops:
    """Why items are not begun any more: those of one model, or all."""

    by_model: dict[str, str] = field(default_factory=dict[str, str])
    """Reasons by model."""

    error: N1nError | None = None
    """Why all, and what that is called."""

    ended: Callable[[], str] = str
    """Why all, where nothing has failed: somebody else goes on with them, or the batch is told to end; or empty."""

    in_a_row: int = 0
    """How many items have failed one after the other, although each was tried several times."""

    most_in_a_row: int = 20
    """After so many no other is begun: the gateway or the store is down."""

    def reason(self, model: str) -> str:
        """Why an item of this model is not begun; empty if it may be."""
        if stopping.is_asked():
            return "The process was told to end before its turn came."
        if ended := self.ended():
            return f"Not tried: {ended}"
        if self.error is not None:
            return f"Not tried: {self.error.reason}"
        return self.by_model.get(model, "")

    def learn(self, failure: Exception | None, model: str) -> None:
        """Notes what a failed item says of those after it."""
        if isinstance(failure, _ENDS_BATCH):
            self.error = self.error or failure
        elif isinstance(failure, _ENDS_MODEL):
            self.by_model.setdefault(model, f"Not tried: {failure.reason}")
        self._count(failure)

    def _count(self, failure: Exception | None) -> None:
        if not isinstance(failure, N1nError) or not failure.is_transient:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.in_a_row >= self.most_in_a_row and self.error is None:
            self.error = N1nError(f"{self.in_a_row} images in a row failed, the last so: {failure.reason}")


@dataclass(frozen=True)
class Places:
    """The blocks that a batch's items are carried out with."""

    credentials: N1nCredentials
    """Who pays."""

    destination: S3Location
    """Where images go; its prefix has the batch's folder in it."""

    source: S3Location
    """How `s3://` input images are read."""

    @classmethod
    def of(
        cls, terms: Terms, *, credentials: N1nCredentials, destination: S3Location, source: S3Location | None
    ) -> "Places":
        """The blocks of a batch: images go below its folder, and inputs are read with the destination's keys, too."""
        inside = destination.model_copy(update={"prefix": _joined(destination.prefix, terms.folder)})
        return cls(credentials, inside, source or destination)

    @property
    def store(self) -> BatchStore:
        """The batch's documents."""
        return BatchStore(self.destination, self.destination.prefix)


def _joined(prefix: str, folder: str) -> str:
    return "/".join(part for part in (prefix, folder) if part)


@dataclass
class Worker:
    """Carries out items of one chunk, on as many threads as share it."""

    terms: Terms
    places: Places
    log: Log
    stops: Stops
    to_finish: Mapping[str, ItemResult] = field(default_factory=dict[str, ItemResult])
    """Of items, by id, whose image is paid for and good; what comes after is done without a call."""

    _logged: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def result_of(self, item: Item) -> ItemResult:
        """How an item ended; it never raises for a bad one."""
        reason = self.stops.reason(item.request.model)
        known = self.to_finish.get(item.id)
        if reason:
            return known or ItemResult.pending(item, reason)
        finished = self._finished(item, known) if known else None
        if finished:
            return finished
        began = time.monotonic()
        with metered() as meter, events.held_back(), originals_at_hand(), logging_to(_ItemLog(self, item.id)):
            outcome, variants = self._ended(item)
            if outcome.status == "pending":
                return ItemResult.pending(item, outcome.reason)
            result = ItemResult.of(
                item,
                replace(outcome, id=item.id, attempts=max(meter.calls, 1)),
                seconds=time.monotonic() - began,
                waited_seconds=meter.waited_seconds,
                variants=variants,
            )
            return self._with_sidecar(item, result) if self.terms.sidecars and result.outcome.ok else result

    def _finished(self, item: Item, known: ItemResult) -> ItemResult | None:
        """The item once its image is in S3, with all that belongs beside it; as it was if that cannot be.

        None if the image is not good by the rules, so that there is more to do than to finish it.
        """
        number = 0
        with events.held_back(), originals_at_hand(), logging_to(_ItemLog(self, item.id)):
            while True:
                number += 1
                try:
                    with Attempt(number, number > RETRIES).under_way():
                        result = self._with_all(item, known)
                except errors.ImageValidationError:
                    return None
                except N1nError as error:
                    if stopping.is_asked() or number > RETRIES or not error.is_transient:
                        _details.warning("%s stays as it is: %s", item.id, error.reason)
                        self.stops.learn(error, item.request.model)
                        return known
                    stopping.wait(_delay(number, error))
                else:
                    self.stops.learn(None, item.request.model)
                    return result

    def _with_all(self, item: Item, known: ItemResult) -> ItemResult:
        image, uploaded = known.outcome.image, known.outcome.uploaded
        assert image is not None  # noqa: S101 - of what is to be finished
        if uploaded is None:
            given = self._arguments(item)
            validated(image, self.terms.spec)
            uploaded = upload(image, *(given[name] for name in ("destination", "name", "key", "if_exists", "metadata")))
        status = "uploaded" if uploaded.created else "already_there"
        result = replace(
            known,
            outcome=replace(known.outcome, status=status, reason="", uploaded=replace(uploaded, original=None)),
            variants=self._variants(item, replace(uploaded, original=image)),
            finished_at=datetime.now(timezone.utc),
            asked=digest_of(item),
        )
        return self._with_sidecar(item, result) if self.terms.sidecars else result

    def _ended(self, item: Item) -> "_Ended":
        """Tries an item until it has ended for good; what may pass is waited for here."""
        number = limited = 0
        while True:
            number += 1
            is_last = number > RETRIES or limited >= _RATE_LIMITS
            try:
                with Attempt(number, is_last).under_way():
                    return self._tried(item)
            except N1nError as error:
                if stopping.is_asked() or self.stops.ended():
                    return ImageOutcome(item.id, "pending", error.reason), ()
                if is_last or not error.is_transient:
                    return outcome_of(error, item.id), ()
                if isinstance(error, errors.RateLimitError):
                    number, limited = number - 1, limited + 1  # its pause is kept by the pace of the key
                else:
                    stopping.wait(_delay(number, error))

    def _tried(self, item: Item) -> "_Ended":
        way = to_s3(self._arguments(item))
        outcome = way.carried_out()
        self.stops.learn(way.failure, item.request.model)
        if isinstance(way.failure, _PENDING) or (stopping.is_asked() and _may_pass(way.failure)):
            return ImageOutcome(item.id, "pending", outcome.reason), ()
        if outcome.uploaded is None or not outcome.ok:
            return outcome, ()
        try:
            return outcome, self._variants(item, outcome.uploaded)
        except N1nError as error:
            if error.is_transient and not is_last_attempt():
                raise
            return _without(outcome, error), ()

    def _variants(self, item: Item, uploaded: UploadedImage) -> tuple[DerivedImage, ...]:
        wanted = [variant for variant in self.terms.variants if variant.name in item.variants]
        if not wanted or uploaded.original is None or uploaded.sha256 != uploaded.original.sha256:
            return ()  # or another object was kept, of which they are none
        return derived_objects(uploaded.original.read_bytes(), uploaded, wanted, self.places.destination)

    def _with_sidecar(self, item: Item, result: ItemResult) -> ItemResult:
        image, uploaded = result.outcome.image, result.outcome.uploaded
        assert image is not None and uploaded is not None  # noqa: S101, PT018 - of an outcome that is ok
        if uploaded.sha256 != image.sha256:
            return result  # another object was kept, about which there is nothing to say
        try:
            document = sidecar(item, result, batch=self.terms.batch_id, data=image.read_bytes())
            self.places.destination.put_bytes(
                document,
                key=sidecar_key(uploaded.key),
                sha256=hashlib.sha256(document).hexdigest(),
                media_type="application/json",
                metadata={},
                if_exists="replace",
            )
        except N1nError as error:
            return replace(result, outcome=_without(result.outcome, error))
        return result

    def _arguments(self, item: Item) -> dict[str, Any]:
        terms = self.terms
        return {
            "request": item.request,
            "credentials": self.places.credentials,
            "destination": self.places.destination,
            "source": self.places.source,
            "name": item.id if item.key is None and "{name}" in self.places.destination.key_template else None,
            "key": item.key,
            "spec": terms.spec,
            "on_invalid": "regenerate" if item.looks_again else terms.on_invalid,
            "regenerations": terms.takes if item.looks_again else terms.regenerations,
            "if_exists": terms.if_exists,
            "metadata": None,
            "spending": _spending(terms.spending, item.unknown_retries),
            "take": item.take - item.looks_again,
        }

    def broken(self, item: Item, exc: BaseException) -> ItemResult:
        """The result of an item that an error of our own ended; what it cost is not known."""
        self.log.error("%s: an error that n1n-prefect has no class for: %r", item.id, exc)
        return ItemResult.of(item, outcome_of(exc, item.id), seconds=None, waited_seconds=None)

    def may_log(self) -> bool:
        """Whether another failure goes to the run's log; each line there is a row of its database."""
        with self._lock:
            self._logged += 1
            return self._logged <= _FAILURES_LOGGED


_Ended = tuple[ImageOutcome, tuple[DerivedImage, ...]]
_PENDING = (errors.AuthenticationError, errors.QuotaError)
"""Nothing has come of such an item, and nothing is wrong with it: it is carried out by the next run."""


def _without(outcome: ImageOutcome, error: N1nError) -> ImageOutcome:
    reason = f"The image is uploaded; what belongs beside it is not: {error.reason}"
    return replace(outcome, status="failed", reason=reason)


def _spending(of_batch: Spending, unknown_retries: int | None) -> Spending:
    """The batch's own, but for calls that somebody wants to be made again although their answers are lost."""
    if unknown_retries is None:
        return of_batch
    return replace(of_batch, on_unknown_outcome="retry", unknown_retries=unknown_retries)


def _may_pass(failure: Exception | None) -> bool:
    return isinstance(failure, N1nError) and failure.is_transient


def _delay(number: int, error: N1nError) -> float:
    """Seconds until the next attempt: what the server asked for, or longer each time."""
    seconds = error.retry_after_seconds or DELAYS[min(number, len(DELAYS)) - 1]
    return seconds + random.uniform(0, min(seconds * 0.1, 5.0))  # noqa: S311


_details = logging.getLogger("n1n_prefect.batch")


class _ItemLog(Adapter):
    """The log of one item: all to the process's own log, at DEBUG; the first failures of a chunk to the run's."""

    def __init__(self, worker: Worker, id: str) -> None:  # noqa: A002 - the field's name
        super().__init__(_details, {})
        self.worker = worker
        self.id = id

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Says something of the item."""
        # An error is logged as one where nothing is tried again.
        is_last = level >= logging.ERROR or (level >= logging.WARNING and is_last_attempt())
        # A share that is used up is nothing to be told: its chunk gets more, or the batch says that there is none.
        is_news = is_last and not any(isinstance(arg, errors.BudgetExceededError) for arg in args)
        if is_news and self.worker.may_log():
            self.worker.log.log(level, f"{self.id}: {msg}", *args, **kwargs)
        else:
            _details.debug(f"{self.id}: {msg}", *args, **kwargs)
