"""The paid sequence: read the journal, write *sent*, send, stage the original, write *answered*.

It is one generator of steps, so that it stands once for synchronous and asynchronous code,
and so that every `yield` is a place where a test can kill it. `run` and `arun` drive it;
whoever drives it says how each step is carried out.

The journal of a request is write-once records below its key: `<key>/<n>.sent` before the
POST leaves and `<key>/<n>.answered` once its outcome is known and its bytes are stored.
*Sent* without *answered* is an unknown outcome, unless the whole reply lies in the spool.
A torn *sent* was never sent; a torn *answered* is an unknown outcome.
"""

import hashlib
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal, Protocol, TypeVar

import orjson
from pydantic import TypeAdapter

from n1n_prefect import errors
from n1n_prefect.errors import N1nError
from n1n_prefect.images import GeneratedImage, Spending, excerpt
from n1n_prefect.inspection import NotAnImageError, extension_of, inspect
from n1n_prefect.pricing import Price, cost_usd, estimate_usd
from n1n_prefect.sources import LoadedRequest
from n1n_prefect.spool import SpooledReply
from n1n_prefect.wire import gemini
from n1n_prefect.wire.exchange import HttpRequest, Reply

PREFIX = "n1n"
SCHEMA = 1
_IMAGE: TypeAdapter[GeneratedImage] = TypeAdapter(GeneratedImage)


class Storage(Protocol):
    """Where originals and the journal are: a run's result storage, or a folder."""

    def read(self, key: str) -> bytes | None:
        """The bytes under a key, or None if there are none; whatever else is a `JournalUnreadableError`."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Stores bytes under a key, or raises `StagingError`."""
        ...

    def describe(self, key: str) -> Mapping[str, str]:
        """`uri`, `storage_block_id` and `storage_key` by which the bytes under a key are found again."""
        ...


# ── the steps ────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Read:
    """Read a journal record; answered with bytes or None."""

    key: str


@dataclass(frozen=True)
class Write:
    """Store a journal record or an original."""

    key: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Describe:
    """Say how an original is found again; answered with a mapping."""

    key: str


@dataclass(frozen=True)
class Recall:
    """Look for a whole reply in the spool; answered with it or None."""

    name: str


@dataclass(frozen=True)
class Turn:
    """Wait for a turn among the calls under way, and open the spool; it lasts until the call has been made."""

    name: str


@dataclass(frozen=True)
class Send:
    """Make the call, spooling its reply; answered with the whole reply."""

    request: HttpRequest
    name: str


@dataclass(frozen=True)
class Fetch:
    """Fetch an image that the gateway gave the address of; answered with bytes."""

    url: str


@dataclass(frozen=True)
class Forget:
    """Remove a spooled reply that is staged."""

    name: str


@dataclass(frozen=True)
class Reserve:
    """Count dollars against the run's ceiling before they are spent, or give them back."""

    usd: float
    ceiling: float


@dataclass(frozen=True)
class Models:
    """List the models that the key serves, to name them; answered with ids, empty if that failed."""


Step = Read | Write | Describe | Recall | Turn | Send | Fetch | Forget | Reserve | Models
Steps = Generator[Step, Any, GeneratedImage]
T = TypeVar("T")


def run(steps: Generator[Step, Any, T], do: Callable[[Step], Any]) -> T:
    """Drives the steps in this thread."""
    answer, failure = None, None
    while True:
        try:
            step = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            return stop.value
        answer, failure = None, None
        try:
            answer = do(step)
        except BaseException as exc:  # noqa: BLE001 - thrown into the generator, which lets it go on
            failure = exc


async def arun(steps: Generator[Step, Any, T], do: Callable[[Step], Awaitable[Any]]) -> T:
    """Drives the steps in this event loop."""
    answer, failure = None, None
    while True:
        try:
            step = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            return stop.value
        answer, failure = None, None
        try:
            answer = await do(step)
        except BaseException as exc:  # noqa: BLE001 - thrown into the generator, which lets it go on
            failure = exc


# ── the journal ──────────────────────────────────────────────────────────────

Outcome = Literal["unknown", "image", "refused", "no_image", "malformed", "failed"]


@dataclass(frozen=True)
class Attempt:
    """One paid attempt as the journal tells it."""

    number: int
    outcome: Outcome
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    refresh: str = ""


def journal_key(request_key: str, number: int, what: Literal["sent", "answered"]) -> str:
    """Where a journal record is, below the storage's root."""
    return f"{PREFIX}/journal/{request_key}/{number}.{what}"


def original_key(sha256: str, media_type: str) -> str:
    """Where an original is, below the storage's root."""
    return f"{PREFIX}/originals/{sha256}.{extension_of(media_type)}"


def _history(request_key: str) -> Generator[Step, Any, list[Attempt]]:
    attempts: list[Attempt] = []
    while True:
        number = len(attempts)
        sent = _record((yield Read(journal_key(request_key, number, "sent"))))
        if sent is None:
            return attempts
        answered = _record((yield Read(journal_key(request_key, number, "answered")))) or {}
        attempts.append(Attempt(number, answered.get("outcome", "unknown"), answered, sent.get("refresh", "")))


def _record(data: bytes | None) -> dict[str, Any] | None:
    """A whole record, or None for an absent or torn one."""
    try:
        record = orjson.loads(data or b"")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise errors.JournalUnreadableError(
            f"The journal has a record that is not of schema {SCHEMA}: {record!r:.80}. Nothing was spent; "
            "use the version of n1n-prefect that wrote it, or a newer one."
        )
    return record


# ── the sequence ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PaidCall:
    """One request with everything that its paid sequence needs to know."""

    loaded: LoadedRequest
    """The request and the bytes of its input images."""

    key: str
    """Its identity in the journal."""

    spending: Spending = field(default_factory=Spending)
    """What may be paid for again."""

    price_factor: float = 1.0
    """What this gateway group charges, against list prices."""

    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    """The user's own prices by model."""

    refresh: str = ""
    """Who asks for a new answer although there is one, such as a task run; what it paid for itself is found again."""

    secret: str = field(default="", repr=False)
    """The key, so that an error which echoes it is masked before it is written down."""

    def steps(self) -> Steps:
        """The paid sequence; its value is the image, its error says why there is none.

        Raises:
            N1nError: In its class, with `charged` and `request_key` set.
        """
        try:
            return (yield from self._steps())
        except N1nError as error:
            error.request_key = self.key
            raise

    def _steps(self) -> Steps:
        gemini.check(self.loaded)
        attempts = yield from _history(self.key)
        mine = [attempt for attempt in attempts if attempt.refresh == self.refresh] if self.refresh else attempts
        if mine:
            found = yield from self._found(mine)
            if found is not None:
                return found
        return (yield from self._attempt(len(attempts), mine))

    def _found(self, attempts: list[Attempt]) -> Generator[Step, Any, GeneratedImage | None]:
        """What earlier attempts left: the image, an error to replay free, or None to try again."""
        last = attempts[-1]
        for attempt in reversed(attempts):
            if attempt.outcome == "image":
                yield Forget(self._name(attempt.number))
                return replace(_IMAGE.validate_python(attempt.record["image"]), reused=True)
        for place, attempt in reversed(list(enumerate(attempts))):
            spooled = (yield Recall(self._name(attempt.number))) if attempt.outcome == "unknown" else None
            if spooled is not None:
                return (yield from self._conclude(spooled, attempt.number, attempts[:place]))
        if self._is_final(last.outcome, last.record, attempts):
            raise _replayed(last)
        return None

    def _attempt(self, number: int, before: list[Attempt]) -> Steps:
        ceiling = self.spending.max_usd_per_run
        usd = self._estimate() if ceiling is not None else 0.0
        if ceiling is not None:
            yield Reserve(usd, ceiling)
        sent = False
        try:
            yield Turn(self._name(number))  # before *sent* is written: whatever only waits is known not to be paid
            request = gemini.build(self.loaded)
            yield Write(journal_key(self.key, number, "sent"), self._sent())
            sent = True
            try:
                spooled = yield Send(request, self._name(number))
            except N1nError as error:
                if error.charged != "no":
                    raise self._judged(error, "unknown", before) from error.__cause__
                yield from self._answer_failure(error, "failed", number)
                raise
            return (yield from self._conclude(spooled, number, before))
        except BaseException as error:
            free = error.charged == "no" if isinstance(error, N1nError) else not sent
            if ceiling is not None and free:
                yield Reserve(-usd, ceiling)
            raise

    def _estimate(self) -> float:
        """What the call is counted as against a ceiling, in US dollars."""
        usd = estimate_usd(self.loaded.request, factor=self.price_factor, own=self.prices)
        if usd is None:
            raise errors.InvalidRequestError(
                f"max_usd_per_run is set and {self.loaded.request.model!r} has no known price; give it one in the "
                "credentials' prices."
            )
        return usd

    def _conclude(self, spooled: SpooledReply, number: int, attempts: list[Attempt]) -> Steps:
        """Understands a whole reply and makes its outcome durable."""
        name = self._name(number)
        try:
            reply = gemini.read_reply(spooled.status, spooled.headers, spooled.body)
            data = reply.data or (yield from self._fetched(reply))
            image = yield from self._image(reply, data)
        except errors.OutcomeUnknownError as error:
            yield Forget(name)
            raise self._judged(error, "unknown", attempts) from None
        except errors.SourceError:
            raise
        except N1nError as error:
            errors.masked(error, self.secret)
            if isinstance(error, errors.ModelNotAvailableError):
                _name_models(error, (yield Models()))
            outcome = _outcome_of(error)
            yield from self._answer_failure(error, outcome, number)
            yield Forget(name)
            raise self._judged(error, outcome, attempts) from None
        record = {"outcome": "image", "image": _IMAGE.dump_python(image, mode="json"), "text": reply.text}
        try:
            yield Write(image.storage_key, data)
            yield Write(journal_key(self.key, number, "answered"), _dumped(record))
        except errors.StagingError as error:
            error.charged = "yes"  # the reply stays in the spool and is staged by the next attempt
            raise
        yield Forget(name)
        return image

    def _fetched(self, reply: Reply) -> Generator[Step, Any, bytes]:
        try:
            return (yield Fetch(reply.url))
        except errors.SourceError as error:
            # The reply stays in the spool, so that the next attempt fetches again and pays nothing.
            raise errors.SourceError(
                f"The gateway gave an address instead of the image, and it could not be fetched: {error.message}",
                reply.request_id,
                charged="yes",
                is_transient=True,
            ) from None

    def _image(self, reply: Reply, data: bytes) -> Steps:
        request = self.loaded.request
        try:
            seen = inspect(data, structure=False, blank=False)
        except NotAnImageError as exc:
            raise errors.MalformedReplyError(
                f"The gateway delivered something else than an image: {exc}", reply.request_id, charged="yes"
            ) from None
        sha256 = hashlib.sha256(data).hexdigest()
        where = yield Describe(original_key(sha256, seen.media_type))
        return GeneratedImage(
            **where,
            sha256=sha256,
            media_type=seen.media_type,
            width=seen.width,
            height=seen.height,
            size_bytes=len(data),
            model=request.model,
            request_key=self.key,
            aspect_ratio=request.aspect_ratio,
            image_size=request.image_size,
            model_version=reply.model_version,
            response_id=reply.response_id,
            request_id=reply.request_id,
            finish_reason=reply.finish_reason,
            prompt_excerpt=request.prompt_excerpt,
            text=excerpt(reply.text, 200),
            usage=reply.usage,
            estimated_cost_usd=cost_usd(
                request.model, reply.usage, factor=self.price_factor, own=self.prices, image_size=request.image_size
            ),
        )

    def _answer_failure(self, error: N1nError, outcome: Outcome, number: int) -> Generator[Step, Any, None]:
        record = {"outcome": outcome, "error": _error_record(error)}
        yield Write(journal_key(self.key, number, "answered"), _dumped(record))

    def _judged(self, error: N1nError, outcome: Outcome, before: list[Attempt]) -> N1nError:
        """The error, transient only while the budget for its kind of failure lasts."""
        attempts = [*before, Attempt(len(before), outcome)]
        if error.is_transient and self._is_final(outcome, _error_record(error), attempts):
            error.is_transient = False
        return error

    def _is_final(self, outcome: Outcome, record: Mapping[str, Any], attempts: list[Attempt]) -> bool:
        """Whether another paid attempt is out of the question."""
        if outcome == "refused" and not record.get("error", record)["is_transient"]:
            return True
        if outcome in _NO_IMAGE:
            return _count(attempts, _NO_IMAGE) > self.spending.no_image_retries
        if outcome in _MAYBE_PAID:
            retries = self.spending.unknown_retries if self.spending.on_unknown_outcome == "retry" else 0
            return _count(attempts, _MAYBE_PAID) > retries
        return False

    def _sent(self) -> bytes:
        record = {"model": self.loaded.request.model, "at": datetime.now(timezone.utc).isoformat()}
        return _dumped(record | ({"refresh": self.refresh} if self.refresh else {}))

    def _name(self, number: int) -> str:
        return f"{self.key}-{number}"


_NO_IMAGE = ("no_image", "refused")
_MAYBE_PAID = ("unknown", "malformed")


def _count(attempts: list[Attempt], outcomes: tuple[str, ...]) -> int:
    return sum(attempt.outcome in outcomes for attempt in attempts)


def _dumped(record: dict[str, Any]) -> bytes:
    return orjson.dumps({"schema": SCHEMA, **record})


def _outcome_of(error: N1nError) -> Outcome:
    if isinstance(error, errors.RefusedError):
        return "refused"
    if isinstance(error, errors.NoImageError):
        return "no_image"
    return "malformed" if isinstance(error, errors.MalformedReplyError) else "failed"


def _error_record(error: N1nError) -> dict[str, Any]:
    names = ("message", "request_id", "status_code", "code", "charged", "is_transient", "finish_reason", "model_text")
    return {"class": type(error).__name__, **{name: getattr(error, name) for name in names}}


def _replayed(attempt: Attempt) -> N1nError:
    """The error of an earlier attempt, free and final."""
    if not attempt.record:
        return errors.OutcomeUnknownError(
            "An earlier attempt was sent and its answer was lost, so it may have been billed. "
            "Spending.on_unknown_outcome and unknown_retries say that it is not made again; "
            "pass sample= for a new one.",
            is_transient=False,
        )
    known: dict[str, Any] = dict(attempt.record["error"], is_transient=False)
    kind = getattr(errors, known.pop("class"), N1nError)
    message = f"Known from an earlier attempt, nothing was paid now: {known.pop('message')}"
    return kind(message, known.pop("request_id"), **known)


def _name_models(error: N1nError, models: list[str]) -> None:
    if models:
        error.message += f" It serves: {', '.join(models[:20])}{' …' if len(models) > 20 else ''}."
        error.args = (error.message,)
