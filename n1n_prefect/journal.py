"""What was paid, as it is written down: the only authority on it.

The journal of a request is write-once records below its key: `<key>/<n>.sent` before the
POST leaves and `<key>/<n>.answered` once its outcome is known and its bytes are stored.
*Sent* without *answered* is an unknown outcome, unless the whole reply lies in the spool.
A torn *sent* was never sent; a torn *answered* is an unknown outcome.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal, Protocol

import orjson

from n1n_prefect import errors
from n1n_prefect.errors import N1nError
from n1n_prefect.inspection import extension_of
from n1n_prefect.steps import Read, Write

PREFIX = "n1n"
SCHEMA = 1
Outcome = Literal["unknown", "image", "refused", "no_image", "malformed", "failed"]

NO_IMAGE: tuple[Outcome, ...] = ("no_image", "refused")
"""Outcomes that `no_image_retries` bounds."""

MAYBE_PAID: tuple[Outcome, ...] = ("unknown", "malformed")
"""Outcomes of calls that may have been billed although no image came of them."""


_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


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


@dataclass(frozen=True)
class Attempt:
    """One paid attempt as the journal tells it."""

    number: int
    outcome: Outcome
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])
    refresh: str = ""
    at: datetime = _LONG_AGO
    """When it was sent."""


def journal_key(request_key: str, number: int, what: Literal["sent", "answered"]) -> str:
    """Where a journal record is, below the storage's root."""
    return f"{PREFIX}/journal/{request_key}/{number}.{what}"


def original_key(sha256: str, media_type: str) -> str:
    """Where an original is, below the storage's root."""
    return f"{PREFIX}/originals/{sha256}.{extension_of(media_type)}"


def count(attempts: Sequence[Attempt], outcomes: Sequence[Outcome]) -> int:
    """How many of the attempts ended in one of the outcomes."""
    return sum(attempt.outcome in outcomes for attempt in attempts)


# ── reading ──────────────────────────────────────────────────────────────────


def history(request_key: str) -> Generator[Read, Any, list[Attempt]]:
    """Every attempt at a request, oldest first."""
    attempts: list[Attempt] = []
    while True:
        number = len(attempts)
        sent = _record((yield Read(journal_key(request_key, number, "sent"))))
        if sent is None:
            return attempts
        found = yield from answer(request_key, number)
        known = found or Attempt(number, "unknown")
        attempts.append(replace(known, refresh=sent.get("refresh", ""), at=_time_of(sent)))


def answer(request_key: str, number: int) -> Generator[Read, Any, Attempt | None]:
    """What is known of an attempt's outcome, or None."""
    record = _record((yield Read(journal_key(request_key, number, "answered"))))
    return Attempt(number, record.get("outcome", "unknown"), record) if record is not None else None


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


def _time_of(sent: Mapping[str, Any]) -> datetime:
    try:
        at = datetime.fromisoformat(sent["at"])
    except (KeyError, TypeError, ValueError):
        return _LONG_AGO
    return at if at.tzinfo else at.replace(tzinfo=timezone.utc)


def replayed(attempt: Attempt) -> N1nError:
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


# ── writing ──────────────────────────────────────────────────────────────────


def sent(request_key: str, number: int, *, model: str, refresh: str) -> Write:
    """The record that stands before the POST leaves."""
    record = {"model": model, "at": _now(), **({"refresh": refresh} if refresh else {})}
    return Write(journal_key(request_key, number, "sent"), _dumped(record))


def answered(request_key: str, number: int, outcome: Outcome, **facts: Any) -> Write:
    """The record that stands once an outcome is known and its bytes are stored."""
    record = {"outcome": outcome, "at": _now(), **facts}
    return Write(journal_key(request_key, number, "answered"), _dumped(record))


def failed(request_key: str, number: int, outcome: Outcome, error: N1nError) -> Write:
    """`answered` for an outcome without an image."""
    return answered(request_key, number, outcome, error=error_record(error))


def outcome_of(error: N1nError) -> Outcome:
    """What an understood reply without an image is in the journal."""
    if isinstance(error, errors.RefusedError):
        return "refused"
    if isinstance(error, errors.NoImageError):
        return "no_image"
    return "malformed" if isinstance(error, errors.MalformedReplyError) else "failed"


def error_record(error: N1nError) -> dict[str, Any]:
    """What of an error is written down, so that `replayed` gives it again."""
    names = ("message", "request_id", "status_code", "code", "charged", "is_transient", "finish_reason", "model_text")
    return {"class": type(error).__name__, **{name: getattr(error, name) for name in names}}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


def _dumped(record: dict[str, Any]) -> bytes:
    return orjson.dumps({"schema": SCHEMA, **record})
