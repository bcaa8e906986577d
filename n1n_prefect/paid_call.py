"""The paid sequence: read the journal, write *sent*, send, stage the original, write *answered*.

A reply is whole on the local disk before it is understood, and its outcome is in the journal
before it is told: so a kill at any step loses nothing that was delivered, and what was sent
without an answer is known to be unknown.
"""

import hashlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from n1n_prefect import errors, journal
from n1n_prefect.errors import N1nError
from n1n_prefect.images import GeneratedImage, Spending, excerpt
from n1n_prefect.inspection import NotAnImageError, inspect
from n1n_prefect.journal import MAYBE_PAID, NO_IMAGE, Attempt, Outcome, count
from n1n_prefect.masking import without_secrets
from n1n_prefect.pricing import Price, cost_usd, estimate_usd
from n1n_prefect.sources import LoadedImage, LoadedRequest
from n1n_prefect.spool import SpooledReply
from n1n_prefect.steps import (
    Describe,
    Fetch,
    Forget,
    Models,
    Open,
    Pause,
    Recall,
    Reserve,
    Send,
    Settle,
    Turn,
    Warn,
    Write,
)
from n1n_prefect.wire import gemini
from n1n_prefect.wire.exchange import Reply, masked_reply

Steps = Generator[Any, Any, GeneratedImage]
_IMAGE: TypeAdapter[GeneratedImage] = TypeAdapter(GeneratedImage)
_LONGEST_PAUSE = 5.0  # seconds between two looks at a call that another process is making


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

    since: datetime | None = None
    """Answers to calls sent before this time have expired; None where they never do."""

    is_shared: bool = False
    """Whether other processes may make the same call, so that a turn is no proof that nobody has."""

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
        number, before, found = yield from self._look(alone=not self.is_shared)
        try:
            pause = 0.25
            while found is None and (yield Turn()):  # which another process has
                yield Pause(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                number, before, found = yield from self._look(alone=False)
            if found is None and self.is_shared:  # another process may have ended the call before our turn came
                number, before, found = yield from self._look(alone=True)
            return found or (yield from self._attempt(number, before))
        except N1nError as error:
            error.possible_duplicates = max(error.possible_duplicates, count(before, MAYBE_PAID))
            if error.charged == "no" and any(map(_may_have_cost, before)):
                error.charged = "unknown"
            raise

    # ── what is known ────────────────────────────────────────────────────────

    def _look(self, *, alone: bool) -> Generator[Any, Any, tuple[int, list[Attempt], GeneratedImage | None]]:
        """The next attempt's number, the attempts that count, and the image that they left.

        Unless we are known to be alone with it, a call that is *sent* may be under way elsewhere:
        then its reply is not ours to take, nor its outcome ours to judge.
        """
        attempts = yield from journal.history(self.key)
        mine = [attempt for attempt in attempts if self._counts(attempt)]
        found = (yield from self._found(mine, alone=alone)) if mine else None
        if found is None and alone and any(attempt.outcome == "unknown" for attempt in mine):
            # Another process may have written its answer, and forgotten its reply, since we read.
            again = yield from journal.history(self.key)
            if [attempt.outcome for attempt in again] != [attempt.outcome for attempt in attempts]:
                return (yield from self._look(alone=alone))
        return len(attempts), mine, found

    def _counts(self, attempt: Attempt) -> bool:
        if self.refresh and attempt.refresh != self.refresh:
            return False
        return self.since is None or attempt.at >= self.since

    def _found(self, attempts: list[Attempt], *, alone: bool) -> Generator[Any, Any, GeneratedImage | None]:
        """What earlier attempts left: the image, an error to replay free, or None to try again."""
        last = attempts[-1]
        for attempt in reversed(attempts):
            if attempt.outcome == "image":
                yield Forget(self._name(attempt.number))
                return _reused(attempt)
        if not alone and last.outcome == "unknown":
            return None
        for place, attempt in reversed(list(enumerate(attempts))):
            spooled = (yield from self._recalled(attempt.number)) if attempt.outcome == "unknown" else None
            if spooled is not None:
                return (yield from self._conclude(spooled, attempt.number, attempts[:place]))
        if self._is_final(last.outcome, last.record, attempts):
            error = journal.replayed(last)
            error.possible_duplicates = count(attempts[:-1], MAYBE_PAID)
            raise error
        return None

    # ── paying ───────────────────────────────────────────────────────────────

    def _attempt(self, number: int, before: list[Attempt]) -> Steps:
        lost = count(before, MAYBE_PAID)
        if lost:
            yield Warn(
                f"Calling again although the answer to {'an earlier call' if lost == 1 else f'{lost} earlier calls'} "
                f"was lost: this image may be paid {'twice' if lost == 1 else f'{lost + 1} times'}."
            )
        has_ceiling = (self.spending.max_usd_per_run, self.spending.max_usd_per_day) != (None, None)
        reserved = (yield Reserve(self._estimate(), self.spending)) if has_ceiling else None
        sent = False
        try:
            yield Open(self._name(number))
            request = gemini.build(self.loaded)
            yield journal.sent(self.key, number, model=self.loaded.request.model, refresh=self.refresh)
            sent = True
            try:
                yield Send(request, attempt=number + 1, lost=lost)
            except N1nError as error:
                if error.charged != "no":
                    raise self._judged(error, "unknown", before) from error.__cause__
                image = yield from self._failed(number, "failed", error)
                if image is None:
                    raise
            else:
                spooled = yield from self._recalled(number)
                if spooled is None:
                    image = yield from self._ended_elsewhere(number)
                else:
                    image = yield from self._conclude(spooled, number, before)
        except BaseException as error:
            # A StagingError after *sent* stands in place of an outcome that may have cost something.
            is_free = isinstance(error, N1nError) and error.charged == "no"
            if has_ceiling and (not sent or (is_free and not isinstance(error, errors.StagingError))):
                yield Settle(reserved, 0.0)
            raise
        if has_ceiling and not image.reused and image.estimated_cost_usd is not None:
            yield Settle(reserved, image.estimated_cost_usd)
        return image

    def _recalled(self, number: int) -> Generator[Any, Any, SpooledReply | None]:
        """The reply to a call that was sent, if it is in the spool."""
        try:
            return (yield Recall(self._name(number)))
        except errors.StagingError as error:
            error.charged = "unknown"
            raise

    def _ended_elsewhere(self, number: int) -> Steps:
        """The image of a reply that another process has taken out of the spool and staged."""
        try:
            there = yield from journal.answer(self.key, number)
        except errors.StagingError as error:
            # Its own words are those of before a call, when nothing was spent.
            raise errors.StagingError(
                "The reply vanished from the spool on the local disk, and the journal, which may say where another "
                f"process staged it, cannot be read{_why(error)}. Make the result storage readable and run again.",
                charged="unknown",
                is_transient=error.is_transient,
            ) from error.__cause__
        if there is not None and there.outcome == "image":
            return _reused(there)
        raise errors.StagingError("The reply vanished from the spool on the local disk.", charged="unknown")

    def _failed(self, number: int, outcome: Outcome, error: N1nError) -> Generator[Any, Any, GeneratedImage | None]:
        """Writes down an outcome without an image, unless another process got one under the same number."""
        there = yield from journal.answer(self.key, number)
        if there is not None and there.outcome == "image":
            return _reused(there)
        yield journal.failed(self.key, number, outcome, error)
        return None

    def _estimate(self) -> float:
        """What the call is counted as before it is made, in US dollars."""
        usd = estimate_usd(self.loaded.request, factor=self.price_factor, own=self.prices)
        if usd is None:
            raise errors.InvalidRequestError(
                f"A ceiling in dollars is set and {self.loaded.request.model!r} has no known price; give it one in the "
                "credentials' prices, or leave max_usd_per_run and max_usd_per_day out."
            )
        return usd

    # ── understanding ────────────────────────────────────────────────────────

    def _conclude(self, spooled: SpooledReply, number: int, before: list[Attempt]) -> Steps:
        """Understands a whole reply and makes its outcome durable."""
        name = self._name(number)
        try:
            reply = masked_reply(gemini.read_reply(spooled.status, spooled.headers, spooled.body), self.secret)
            data = reply.data or (yield from self._fetched(reply))
            image = yield from self._image(reply, data, before)
        except errors.OutcomeUnknownError as error:
            yield Forget(name)
            raise self._judged(error, "unknown", before) from None
        except errors.SourceError:
            raise
        except N1nError as error:
            errors.masked(error, self.secret)
            if isinstance(error, errors.ModelNotAvailableError):
                _name_models(error, (yield Models()))
            outcome = journal.outcome_of(error)
            try:
                elsewhere = yield from self._failed(number, outcome, error)
            except errors.StagingError as unwritten:
                unwritten.charged = error.charged  # the reply stays in the spool, to be understood again
                raise
            yield Forget(name)
            if elsewhere is not None:
                return elsewhere
            raise self._judged(error, outcome, before) from None
        record = _IMAGE.dump_python(image, mode="json")
        try:
            yield Write(image.storage_key, data)
            yield journal.answered(self.key, number, "image", image=record, text=reply.text)
        except errors.StagingError as error:
            error.charged = "yes"  # the reply stays in the spool and is staged by the next attempt
            raise
        yield Forget(name)
        return image

    def _fetched(self, reply: Reply) -> Generator[Any, Any, bytes]:
        try:
            return (yield Fetch(reply.url))
        except errors.SourceError as error:
            # The reply stays in the spool, so that the next attempt fetches again and pays nothing. What has
            # just been made may not be there yet; an address that is refused will be refused again.
            raise errors.SourceError(
                f"The gateway gave an address instead of the image, and it could not be fetched: {error.message}",
                reply.request_id,
                charged="yes",
                is_transient=error.is_transient or error.status_code == 404,
            ) from None

    def _image(self, reply: Reply, data: bytes, before: list[Attempt]) -> Steps:
        request = self.loaded.request
        try:
            seen = inspect(data, structure=False, blank=False)
        except NotAnImageError as exc:
            raise errors.MalformedReplyError(
                f"The gateway delivered something else than an image: {exc}", reply.request_id, charged="yes"
            ) from None
        sha256 = hashlib.sha256(data).hexdigest()
        where = yield Describe(journal.original_key(sha256, seen.media_type))
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
            possible_duplicates=count(before, MAYBE_PAID),
            inputs=_named(self.loaded.images),
            prompt_sha256=hashlib.sha256(request.prompt.encode("utf-8", "replace")).hexdigest(),
        )

    # ── judging ──────────────────────────────────────────────────────────────

    def _judged(self, error: N1nError, outcome: Outcome, before: list[Attempt]) -> N1nError:
        """The error, transient only while the budget for its kind of failure lasts."""
        error.possible_duplicates = count(before, MAYBE_PAID)
        attempts = [*before, Attempt(len(before), outcome)]
        if error.is_transient and self._is_final(outcome, journal.error_record(error), attempts):
            error.is_transient = False
        return error

    def _is_final(self, outcome: Outcome, record: Mapping[str, Any], attempts: list[Attempt]) -> bool:
        """Whether another paid attempt is out of the question."""
        if outcome == "refused" and not record.get("error", record)["is_transient"]:
            return True
        if outcome in NO_IMAGE:
            return count(attempts, NO_IMAGE) > self.spending.no_image_retries
        if outcome in MAYBE_PAID:
            retries = self.spending.unknown_retries if self.spending.on_unknown_outcome == "retry" else 0
            return count(attempts, MAYBE_PAID) > retries
        return False

    def _name(self, number: int) -> str:
        return f"{self.key}-{number}"


def _reused(attempt: Attempt) -> GeneratedImage:
    return replace(_IMAGE.validate_python(attempt.record["image"]), reused=True)


def _may_have_cost(attempt: Attempt) -> bool:
    """Whether an attempt without an image was, or may have been, charged."""
    charged = attempt.record.get("error", {}).get("charged", "no")
    return attempt.outcome in MAYBE_PAID or (attempt.outcome != "image" and charged != "no")


_ROOM_FOR_INPUTS = 512  # bytes; a result has 3 kB at most, with all the rest at its longest


def _named(sources: Sequence[LoadedImage]) -> tuple[str, ...]:
    """Where the input images came from, or their hashes, as far as there is room, and then how many more there are."""
    room = _ROOM_FOR_INPUTS
    names: list[str] = []
    for number, source in enumerate(sources):
        sizes = {name: len(name.encode("utf-8", "replace")) for name in (source.address, f"sha256:{source.sha256}")}
        name = next((name for name, size in sizes.items() if size <= room), "")
        if not name:
            return (*names, f"and {len(sources) - number} more")
        names.append(name)
        room -= sizes[name]
    return tuple(names)


def _why(error: N1nError) -> str:
    cause = error.__cause__
    return f" ({type(cause).__name__}: {without_secrets(str(cause))})" if cause else ""


def _name_models(error: N1nError, models: list[str]) -> None:
    if models:
        error.message += f" It serves: {', '.join(models[:20])}{' …' if len(models) > 20 else ''}."
        error.args = (error.message,)
