"""What can go wrong, one class for each thing a caller does differently about it.

N1nError
├── InvalidRequestError        the call itself is wrong (also a ValueError)
├── AuthenticationError        the key is not accepted
├── PermissionDeniedError      the key may not do this
├── QuotaError                 balance or daily quota used up
├── BudgetExceededError        our own ceiling, set by the user
├── ModelNotAvailableError     no such model, or none for this key
├── RateLimitError             too many calls, wait
├── GatewayError               the gateway failed and no image was made
├── OutcomeUnknownError        sent, and no answer: it may have been paid
├── RefusedError               the prompt or the image was refused
├── NoImageError               an answer without an image
├── MalformedReplyError        2xx, but not what was promised
├── ImageValidationError       the image is not what was asked for
├── ReviewTimeoutError         nobody decided about the images in time
├── SourceError                an input image could not be read, or may not be
├── StagingError               the original or its journal could not be stored
│   └── JournalUnreadableError unreadable is not absent: nothing is spent
└── UploadError                the object store refused or could not be reached
"""

import re
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from n1n_prefect.masking import without_secrets

Charged = Literal["no", "yes", "unknown"]


class N1nError(Exception):
    """Something went wrong between a prompt and a stored image.

    Every argument has a default, so that an error survives pickling on its way
    from a process or Dask worker.

    Args:
        message: What happened and what to do about it, in plain words.
        request_id: The gateway's id for the call, to quote to its support.
        status_code: HTTP status of the reply, if there was one.
        code: The machine-readable code of the gateway or object store, as sent.
        charged: Whether this failure cost money; the class's usual answer if not given.
        is_transient: Whether the same call may succeed later; the class's usual answer if not given.
        retry_after_seconds: How long the server asked us to wait, in seconds.
        finish_reason: Why the model stopped or the prompt was blocked, as sent.
        model_text: What the model said instead of drawing.

    Attributes:
        request_key: The value-based identity of the paid request, once it is known.
        model: The model that was asked, once it is known.
        prompt_excerpt: The start of the prompt, once it is known.
        image: The paid `GeneratedImage` that a later step failed on, if there is one.
        possible_duplicates: How many earlier calls for the same image lost their answer; each may have been billed.
        charge: `charged` as a sentence, once a task has reported the error; it then ends what `str` gives, and so
            the message of the task run's state.
    """

    _is_transient: ClassVar[bool] = False
    _charged: ClassVar[Charged] = "no"

    def __init__(
        self,
        message: str = "",
        request_id: str = "",
        *,
        status_code: int | None = None,
        code: str = "",
        charged: Charged | None = None,
        is_transient: bool | None = None,
        retry_after_seconds: float | None = None,
        finish_reason: str = "",
        model_text: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.status_code = status_code
        self.code = code
        self.charged: Charged = self._charged if charged is None else charged
        self.is_transient = self._is_transient if is_transient is None else is_transient
        self.retry_after_seconds = retry_after_seconds
        self.finish_reason = finish_reason
        self.model_text = model_text
        self.request_key = ""
        self.model = ""
        self.prompt_excerpt = ""
        self.image: object = None
        self.possible_duplicates = 0
        self.charge = ""

    @property
    def reason(self) -> str:
        """What happened and what to do, with the gateway's id for the call."""
        return f"{self.message} (request id: {self.request_id})" if self.request_id else self.message

    def __str__(self) -> str:
        return f"{self.reason} {self.charge}".strip()


class InvalidRequestError(N1nError, ValueError):
    """The call must be changed before it can work; found by us, or the gateway's 400, 413 or 422."""


class AuthenticationError(N1nError):
    """The key is missing, malformed, expired or unknown to the gateway."""


class PermissionDeniedError(N1nError):
    """The key is valid and may not do this: address, group or model not allowed."""


class QuotaError(N1nError):
    """The balance or a per-day quota is exhausted; waiting a minute does not help."""


class BudgetExceededError(N1nError):
    """The call would pass the ceiling that the user set; it was not made."""


class ModelNotAvailableError(N1nError):
    """The gateway has no such model, or none for this key's group."""


class RateLimitError(N1nError):
    """Too many calls in a short time; `retry_after_seconds` says how long to wait, if the server did."""

    _is_transient = True


class GatewayError(N1nError):
    """The gateway or its upstream failed, or was never reached: no image was made."""

    _is_transient = True


class OutcomeUnknownError(N1nError):
    """The request left and no whole answer came back, so an image may have been made and billed."""

    _is_transient = True
    _charged = "unknown"


class RefusedError(N1nError):
    """The prompt or the drawn image was refused on grounds of content; edit it before trying again."""

    _charged = "unknown"


class NoImageError(N1nError):
    """The model answered without an image and without a refusal; one more try is reasonable."""

    _is_transient = True
    _charged = "unknown"


class MalformedReplyError(N1nError):
    """The gateway said success and sent something else: truncated JSON, bad base64, an HTML page."""

    _is_transient = True
    _charged = "unknown"


@dataclass(frozen=True)
class Violation:
    """One broken rule: what was expected, and what the image is."""

    rule: str
    """Name of the `ImageSpec` field, or `whole` for a file that is truncated or damaged."""

    expected: str
    """What the rule asks for, with units."""

    actual: str
    """What was measured, in the same units."""

    def __str__(self) -> str:
        return f"{self.rule}: expected {self.expected}, got {self.actual}"


class ImageValidationError(N1nError):
    """The image was delivered and is not what was asked for.

    Attributes:
        violations: Every broken rule, with expected and actual values.
    """

    _charged = "yes"

    def __init__(self, message: str = "", request_id: str = "", *, violations: "list[Violation] | None" = None) -> None:
        super().__init__(message, request_id)
        self.violations: list[Violation] = violations or []


class ReviewTimeoutError(N1nError):
    """Nobody decided about the images in time, and that is to fail; they were paid for and are kept."""

    _charged = "yes"


class SourceError(N1nError):
    """An input image could not be read, is not an image, or may not be read from where it is."""


class StagingError(N1nError):
    """The original image or its journal could not be stored or read."""

    _is_transient = True


class JournalUnreadableError(StagingError):
    """The journal exists or may exist and cannot be read; nothing is spent until it can."""


class UploadError(N1nError):
    """The object store refused the image or could not be reached; `code` is the store's own.

    The image was paid for and stays staged, so that a retry uploads it without paying.
    """

    _charged = "yes"


# ── what it cost, in words ───────────────────────────────────────────────────

_SENTENCES: dict[Charged, str] = {
    "no": "Not charged.",
    "yes": "Charged.",
    "unknown": "It may have been charged.",
}
_ENDING = re.compile(
    r"\s*(?:(?P<no>Not charged\.)|(?P<unknown>It may have been charged\.)|(?P<yes>(?:Charged|Paid for earlier)\.))$"
)
# The last one: a model may have said the same words.
_KEPT = re.compile(r"(.*)(?:Charged|Paid for earlier); the image is kept at .*", re.DOTALL)
# What messages of ours say themselves, so that nobody reads it twice.
_NOTHING_SPENT = re.compile(r"\bnothing was (spent|sent|paid|charged|made)\b", re.IGNORECASE)
_MAYBE_SPENT = re.compile(r"\bmay have been (billed|paid|charged)\b|\bprobably made and billed\b", re.IGNORECASE)


def charge_in_words(error: N1nError) -> str:
    """A sentence that says whether an error cost money; empty where its message says so already."""
    kept = getattr(error.image, "uri", "")
    if kept:
        paid = "Paid for earlier" if getattr(error.image, "reused", False) else "Charged"
        # That it is kept is just what a StagingError doubts.
        return f"{paid}." if isinstance(error, StagingError) else f"{paid}; the image is kept at {kept}"
    charged = charged_in_all(error)
    return "" if _said_of_charge(error.message) == charged else _SENTENCES[charged]


def charged_in_all(error: N1nError) -> Charged:
    """What the image cost: that its last call was free does not make an earlier, lost one free."""
    return "unknown" if error.charged == "no" and error.possible_duplicates else error.charged


def charge_read(words: str) -> tuple[str, Charged | None]:
    """What `str` gave for a reported error, taken apart: its reason, and what it cost if that is said."""
    found = _ENDING.search(words)
    if found is None:
        kept = _KEPT.fullmatch(words)
        return (kept[1].rstrip(), "yes") if kept else (words, _said_of_charge(words))
    charged: Charged = "no" if found["no"] else "unknown" if found["unknown"] else "yes"
    return words[: found.start()], charged


def _said_of_charge(message: str) -> Charged | None:
    nothing, maybe = _NOTHING_SPENT.search(message), _MAYBE_SPENT.search(message)
    if bool(nothing) == bool(maybe):
        return None
    return "no" if nothing else "unknown"


# ── in words, without secrets ────────────────────────────────────────────────


def masked(error: N1nError, *secrets: str) -> N1nError:
    """The error, with the secrets masked should a server have echoed them."""
    for name in ("message", "model_text", "request_id", "code", "finish_reason"):
        setattr(error, name, without_secrets(getattr(error, name), *secrets))
    error.args = (error.message,)
    return error


def words_of(error: BaseException, size_bytes: int = 400) -> str:
    """What an error says for events and spans, where what it cost stands apart: short and without secrets."""
    said = error.reason if isinstance(error, N1nError) else str(error)
    return cut(without_secrets(said), size_bytes)


def cut(text: str, size_bytes: int) -> str:
    """At most so many bytes of UTF-8, and nothing that is not valid in it."""
    return text.encode("utf-8", "replace")[:size_bytes].decode("utf-8", "ignore")
