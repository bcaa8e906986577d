"""How each item of a batch ended: as a value, and as a row of the table that people get.

A row is flat, with the columns that `COLUMNS` describes, in its order, and after them the columns that the manifest
carries through. What is not known, or does not apply, is null.
"""

import math
from collections.abc import Iterable
from dataclasses import field, replace
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal, NamedTuple, cast

import orjson
from pydantic.dataclasses import dataclass

from n1n_prefect import catalog
from n1n_prefect.batch.items import ITEM, Item
from n1n_prefect.deriving import DerivedImage
from n1n_prefect.errors import cut
from n1n_prefect.images import GeneratedImage, ImageOutcome, UploadedImage
from n1n_prefect.masking import without_secrets
from n1n_prefect.totals import image_of

_REASON_BYTES = 2000

Kind = Literal["text", "integer", "number", "boolean", "time", "variants"]
"""What a column holds: in Parquet a string, int64, double, bool, timestamp in UTC, or a list of structs."""


class Column(NamedTuple):
    """One column of the table."""

    kind: Kind
    meaning: str


COLUMNS: dict[str, Column] = {
    "id": Column("text", "The row's own name in the manifest."),
    "line": Column("integer", "Where it stands in the manifest: the line of a text, or the row of a Parquet."),
    "status": Column(
        "text",
        "How it ended: uploaded, already_there, refused, no_image, invalid, unknown_outcome, source_error, "
        "over_budget, failed, pending or rejected.",
    ),
    "reason": Column("text", "What happened, in words; null for an image that arrived."),
    "charged": Column("text", "Whether it cost money: yes, no or unknown."),
    "uri": Column("text", "The image's s3:// address."),
    "model": Column("text", "The model that was asked."),
    "aspect_ratio": Column("text", "The ratio that was asked for; null where the model chose."),
    "image_size": Column("text", "The size tier that was asked for."),
    "asked_width": Column("integer", "Pixels that the model's table promises for what was asked, if it has one."),
    "asked_height": Column("integer", "Pixels that the model's table promises for what was asked, if it has one."),
    "take": Column("integer", "How often an image was drawn and given up before."),
    "prompt_sha256": Column("text", "SHA-256 of the prompt, lower-case hex."),
    "prompt_excerpt": Column("text", "The first 80 characters of the prompt."),
    "width": Column("integer", "Pixels of the image that came."),
    "height": Column("integer", "Pixels of the image that came."),
    "media_type": Column("text", "IANA media type found in the bytes, such as image/png."),
    "size_bytes": Column("integer", "Length of the image in bytes."),
    "sha256": Column("text", "SHA-256 of the image's bytes, lower-case hex."),
    "version_id": Column("text", "The object's version, where the bucket keeps versions."),
    "etag": Column("text", "The object's ETag, without quotes."),
    "original_uri": Column("text", "Where the original is staged; it outlives a later step that failed."),
    "model_version": Column("text", "The model that answered, where the gateway says so."),
    "finish_reason": Column("text", "Why the model stopped, as sent; STOP is usual."),
    "text": Column("text", "What the model wrote beside the image, cut to 200 characters."),
    "request_key": Column("text", "The paid request's identity."),
    "request_id": Column("text", "The gateway's id for the call."),
    "response_id": Column("text", "The model's id for its answer."),
    "estimated_cost_usd": Column("number", "What it cost in US dollars, as far as known."),
    "attempts": Column("integer", "How many calls the run that ended it made for it; at least 1."),
    "possible_duplicates": Column("integer", "How many calls lost their answer; each may have been billed as well."),
    "reused": Column("boolean", "Whether the image was found in the journal when it was last asked for."),
    "input_text_tokens": Column("integer", "Prompt tokens of words."),
    "input_image_tokens": Column("integer", "Prompt tokens of input images."),
    "output_text_tokens": Column("integer", "Output tokens of words."),
    "output_image_tokens": Column("integer", "Output tokens of the drawn image."),
    "thinking_tokens": Column("integer", "Output tokens of thoughts."),
    "total_tokens": Column("integer", "The gateway's own total."),
    "seconds": Column("number", "From when it was taken up until it ended, waiting included."),
    "waited_seconds": Column("number", "How much of that it waited for the gateway to have room."),
    "finished_at": Column("time", "When it ended, in UTC."),
    "variants": Column("variants", "The objects derived from the image; empty if there are none."),
}
"""The table's own columns in their order, whose names no carried column can have."""

ANSWER_COLUMNS = ("model_version", "finish_reason", "text", "request_key", "request_id", "response_id")
USAGE_COLUMNS = tuple(name for name in COLUMNS if name.endswith("_tokens"))
_OF_VARIANT = ("name", "key", "uri", "sha256", "media_type", "width", "height", "size_bytes")


@dataclass(frozen=True)
class ItemResult:
    """How one item of a batch ended; make one with `of` or `pending`."""

    id: str
    """The item's id."""

    line: int
    """Where it stands in the manifest."""

    outcome: ImageOutcome
    """What came of it. The image stands in `image` alone, not a second time behind the upload."""

    model: str
    """The model that was asked."""

    aspect_ratio: str | None
    """The ratio that was asked for."""

    image_size: str | None
    """The size tier that was asked for."""

    take: int
    """How often an image was drawn and given up before."""

    prompt_sha256: str
    """SHA-256 of the prompt, lower-case hex."""

    prompt_excerpt: str
    """The first 80 characters of the prompt."""

    seconds: float | None = None
    """From when it was taken up until it ended, waiting included; None while it is pending."""

    waited_seconds: float | None = None
    """How much of that it waited for the gateway to have room."""

    finished_at: datetime | None = None
    """When it ended, in UTC; None while it is pending."""

    variants: tuple[DerivedImage, ...] = ()
    """What was derived from the image."""

    carried: dict[str, Any] = field(default_factory=dict[str, Any])
    """The manifest's other columns."""

    given_up_usd: float = 0.0
    """What of the outcome's cost went into drawings that were given up in earlier runs, in US dollars."""

    asked: str = ""
    """What was asked, as `digest_of` the item has it: another digest is another image, or something else beside it."""

    @classmethod
    def of(
        cls,
        item: Item,
        outcome: ImageOutcome,
        *,
        seconds: float | None,
        waited_seconds: float | None,
        variants: Iterable[DerivedImage] = (),
        finished_at: datetime | None = None,
    ) -> "ItemResult":
        """The result of an item that ended with an outcome.

        Args:
            item: What was asked.
            outcome: What came of it; a reason of more than 2,000 bytes is cut.
            seconds: From when it was taken up until it ended, waiting included.
            waited_seconds: How much of that it waited for the gateway to have room.
            variants: What was derived from the image.
            finished_at: When it ended; now, if not given.
        """
        request = item.request
        return cls(
            item.id,
            item.line,
            _with_cost(_compact(outcome), item.given_up_usd),
            request.model,
            request.aspect_ratio,
            request.image_size,
            item.take,
            sha256(request.prompt.encode("utf-8", "surrogatepass")).hexdigest(),
            request.prompt_excerpt,
            seconds,
            waited_seconds,
            finished_at or datetime.now(timezone.utc),
            tuple(variants),
            item.carried,
            item.given_up_usd,
            digest_of(item),
        )

    @classmethod
    def pending(cls, item: Item, reason: str = "It has not been carried out yet.") -> "ItemResult":
        """The result of an item that nothing has come of so far."""
        outcome = ImageOutcome(item.id, "pending", reason, attempts=0, model=item.request.model)
        return replace(cls.of(item, outcome, seconds=None, waited_seconds=None), finished_at=None)


def _with_cost(outcome: ImageOutcome, given_up_usd: float) -> ImageOutcome:
    """The outcome with what was paid for in vain before."""
    if not given_up_usd:
        return outcome
    cost = round((outcome.estimated_cost_usd or 0.0) + given_up_usd, 6)
    return replace(outcome, charged="yes", estimated_cost_usd=cost)


def digest_of(item: Item) -> str:
    """A short digest of what makes an item's image, and of what lies beside it; not of where the manifest has it."""
    image = ITEM.dump_python(Item(item.id, 0, item.request, item.key))
    return f"{_short(image)}-{_short([item.variants, item.beside])}"


def is_same_image(one: str, other: str) -> bool:
    """Whether two digests are of one image, whatever lies beside it."""
    return one.partition("-")[0] == other.partition("-")[0]


def _short(value: object) -> str:
    return sha256(dumped(value)).hexdigest()[:16]


def _compact(outcome: ImageOutcome) -> ImageOutcome:
    """The outcome with its image once, and a reason that fits a table."""
    uploaded = replace(outcome.uploaded, original=None) if outcome.uploaded else None
    reason = cut(without_secrets(outcome.reason), _REASON_BYTES) if outcome.reason else ""
    return replace(outcome, reason=reason, image=image_of(outcome), uploaded=uploaded)


# ── rows ─────────────────────────────────────────────────────────────────────


def row_of(result: ItemResult, carried: Iterable[str] | None = None) -> dict[str, Any]:
    """The result as a flat row: the columns of `COLUMNS` in their order, then those carried.

    Args:
        result: How the item ended.
        carried: Names of the carried columns, in order; those that the item has, if not given.
    """
    outcome = result.outcome
    image, uploaded = outcome.image, outcome.uploaded
    return {
        "id": result.id,
        "line": result.line,
        "status": outcome.status,
        "reason": outcome.reason or None,
        "charged": outcome.charged,
        "uri": uploaded.uri if uploaded else None,
        **_asked(result),
        **_delivered(image, uploaded),
        **_answered(image),
        "estimated_cost_usd": finite(outcome.estimated_cost_usd),
        "attempts": outcome.attempts,
        "possible_duplicates": outcome.possible_duplicates,
        "reused": image is not None and image.reused,
        **_used(image),
        "seconds": _rounded(result.seconds),
        "waited_seconds": _rounded(result.waited_seconds),
        "finished_at": result.finished_at.isoformat(timespec="milliseconds") if result.finished_at else None,
        "variants": list(map(_derived, result.variants)),
        **{name: result.carried.get(name) for name in (result.carried if carried is None else carried)},
    }


def _asked(result: ItemResult) -> dict[str, Any]:
    width, height = _promised(result.model, result.aspect_ratio, result.image_size)
    return {
        "model": result.model,
        "aspect_ratio": result.aspect_ratio,
        "image_size": result.image_size,
        "asked_width": width,
        "asked_height": height,
        "take": result.take,
        "prompt_sha256": result.prompt_sha256,
        "prompt_excerpt": result.prompt_excerpt,
    }


@lru_cache(maxsize=256)
def _promised(model: str, aspect_ratio: str | None, image_size: str | None) -> tuple[int | None, int | None]:
    known = catalog.find(model)
    pixels = known.pixels(aspect_ratio, image_size) if known and aspect_ratio else None
    return pixels or (None, None)


def _delivered(image: GeneratedImage | None, uploaded: UploadedImage | None) -> dict[str, Any]:
    seen = uploaded or image
    return {
        "width": seen.width if seen else None,
        "height": seen.height if seen else None,
        "media_type": seen.media_type if seen else None,
        "size_bytes": seen.size_bytes if seen else None,
        "sha256": seen.sha256 if seen else None,
        "version_id": (uploaded.version_id or None) if uploaded else None,
        "etag": (uploaded.etag or None) if uploaded else None,
        "original_uri": image.uri if image else None,
    }


def _answered(image: GeneratedImage | None) -> dict[str, Any]:
    return {name: (getattr(image, name) or None) if image else None for name in ANSWER_COLUMNS}


def _used(image: GeneratedImage | None) -> dict[str, int | None]:
    return {name: getattr(image.usage, name) if image else None for name in USAGE_COLUMNS}


def _derived(variant: DerivedImage) -> dict[str, Any]:
    return {name: getattr(variant, name) for name in _OF_VARIANT}


def finite(number: float | None) -> float | None:
    """The number, or None where it is none, such as a cost that does not exist."""
    return number if number is not None and math.isfinite(number) else None


def _rounded(seconds: float | None) -> float | None:
    return None if finite(seconds) is None else round(cast("float", seconds), 3)


def dumped(value: Any) -> bytes:
    """A row, or a list, as JSON on one line, whatever is in it: what JSON has no form for is written as text."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return orjson.dumps(writable(value))


def writable(value: Any) -> Any:
    """The value with texts in the place of what JSON has no form for, and no half surrogate pairs."""
    match value:
        case dict():
            return {writable(str(name)): writable(inner) for name, inner in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [writable(inner) for inner in cast("list[Any]", value)]
        case str():
            return value.encode("utf-8", "replace").decode()
        case None | bool() | float() | datetime():
            return value
        case int() if -(1 << 63) <= value < 1 << 64:
            return value
        case _:
            return writable(str(value))
