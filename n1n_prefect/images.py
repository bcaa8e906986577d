"""The values that travel: what is asked, what came, where it went, and how it ended.

All are frozen pydantic dataclasses and JSON-friendly. None holds image bytes but an
`ImageRequest` that was given bytes as an input, so they are safe as Prefect results,
parameters and events.
"""

import base64
import dataclasses
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import ConfigDict, Field, PlainSerializer, ValidationError
from pydantic.dataclasses import dataclass

from n1n_prefect import catalog
from n1n_prefect.errors import Charged, InvalidRequestError
from n1n_prefect.masking import without_secrets

DEFAULT_MODEL = "gemini-2.5-flash-image"
OUTCOME_STATUSES = (
    "uploaded", "already_there", "refused", "no_image", "invalid", "unknown_outcome", "source_error",
    "over_budget", "failed", "pending", "rejected",
)  # fmt: skip
OutcomeStatus = Literal[
    "uploaded", "already_there", "refused", "no_image", "invalid", "unknown_outcome", "source_error",
    "over_budget", "failed", "pending", "rejected",
]  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer by kind; all zero where the gateway reported none."""

    input_text_tokens: int = 0
    """Prompt tokens of words."""

    input_image_tokens: int = 0
    """Prompt tokens of input images."""

    output_text_tokens: int = 0
    """Output tokens of words, and of whatever no modality explains."""

    output_image_tokens: int = 0
    """Output tokens of drawn images."""

    thinking_tokens: int = 0
    """Thoughts, billed as text even when hidden."""

    total_tokens: int = 0
    """The gateway's own total, as reported."""

    @property
    def prompt_tokens(self) -> int:
        """All prompt tokens, words and images."""
        return self.input_text_tokens + self.input_image_tokens

    @property
    def output_tokens(self) -> int:
        """All output tokens: words, images and thoughts."""
        return self.output_text_tokens + self.output_image_tokens + self.thinking_tokens


@dataclass(frozen=True)
class GeneratedImage:
    """A reference to one paid image: where its original bytes are staged, and what they are.

    The bytes are those the gateway sent, unchanged. `read_bytes` fetches them from the
    Prefect result storage and verifies their SHA-256.
    """

    uri: str
    """Where the original is staged, for people; programs call `read_bytes`."""

    sha256: str
    """SHA-256 of the original bytes, lower-case hex."""

    media_type: str
    """IANA media type found in the bytes, such as `image/png`; never the declared one."""

    width: int
    """Pixels, from the file's header."""

    height: int
    """Pixels, from the file's header."""

    size_bytes: int
    """Length of the original in bytes."""

    model: str
    """The model that was asked."""

    request_key: str
    """The request's value-based identity: equal requests have equal keys."""

    aspect_ratio: str | None = None
    """The ratio that was asked for, or None where the model chose."""

    image_size: str | None = None
    """The size tier that was asked for, or None."""

    model_version: str = ""
    """The model that answered, where the gateway says so; it may differ from `model`."""

    response_id: str = ""
    """The model's id for its answer."""

    request_id: str = ""
    """The gateway's id for the call."""

    finish_reason: str = ""
    """Why the model stopped, as sent; `STOP` is usual."""

    prompt_excerpt: str = ""
    """The first 80 characters of the prompt."""

    text: str = ""
    """What the model wrote beside the image, cut to 200 characters; whole in the journal."""

    usage: Usage = Usage()
    """Tokens by kind."""

    estimated_cost_usd: float | None = None
    """List price times the credentials' factor, in US dollars; None for a model without a price."""

    reused: bool = False
    """Whether this answer was paid for earlier and cost nothing now."""

    possible_duplicates: int = 0
    """How many earlier calls for this same image lost their answer; each may have been billed as well."""

    storage_block_id: str = ""
    """Id of the block document of the storage that holds the original; empty for local storage."""

    storage_key: str = ""
    """The original's key below the storage's root."""

    inputs: tuple[str, ...] = ()
    """What it was made of, in order: an `s3://` or `https://` address each, or `sha256:` and the bytes' hash.

    At most 512 bytes, so that results stay small: the hash also stands for an address for which there is no room, and
    the last entry may be `and 9 more`.
    """

    prompt_sha256: str = ""
    """SHA-256 of the prompt, lower-case hex, so that images of one prompt are found across runs."""

    def read_bytes(self) -> bytes:
        """The original bytes, verified against `sha256`.

        Raises:
            StagingError: They are gone, unreadable, or not the bytes that were staged.
        """
        from n1n_prefect.staging import read_original

        return read_original(self)

    async def aread_bytes(self) -> bytes:
        """`read_bytes` for asynchronous code."""
        from n1n_prefect.staging import aread_original

        return await aread_original(self)


ANY_IMAGE = GeneratedImage("", "0" * 64, "image/png", 1, 1, 1, "model", "0" * 64)
"""An image like any other, to find out where one would go before there is one."""


@dataclass(frozen=True)
class UploadedImage:
    """One object in S3 that holds an image's original bytes."""

    bucket: str
    """The bucket's name."""

    key: str
    """The object's key."""

    sha256: str
    """SHA-256 of the bytes, lower-case hex."""

    media_type: str
    """The object's ContentType."""

    width: int
    """Pixels."""

    height: int
    """Pixels."""

    size_bytes: int
    """Length in bytes."""

    etag: str = ""
    """The store's ETag, without quotes."""

    version_id: str = ""
    """The object's version, where the bucket keeps versions."""

    model: str = ""
    """The model that was asked."""

    request_key: str = ""
    """The paid request's identity."""

    estimated_cost_usd: float | None = None
    """What the image cost, in US dollars."""

    created: bool = True
    """False when the same bytes were already there."""

    original: GeneratedImage | None = None
    """The staged image that was uploaded, so that a report can show it."""

    region: str = ""
    """The region of AWS that it was put through; empty for other stores."""

    @property
    def uri(self) -> str:
        """The object as an `s3://` address."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def console_url(self) -> str:
        """The object's page in the AWS console, for whoever may log in there; empty for other stores."""
        if not re.fullmatch("[a-z0-9-]+", self.region):
            return ""
        bucket, key = (quote(part, safe="", errors="replace") for part in (self.bucket, self.key))
        return f"https://{_console_of(self.region)}/s3/object/{bucket}?region={self.region}&prefix={key}"


def _console_of(region: str) -> str:
    if region.startswith("cn-"):
        return f"{region}.console.amazonaws.cn"
    if region.startswith("us-gov-"):
        return "console.amazonaws-us-gov.com"
    return f"{region}.console.aws.amazon.com"


def _as_data_uri(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


ImageSource = (
    str | Path | Annotated[bytes, PlainSerializer(_as_data_uri, when_used="json")] | GeneratedImage | UploadedImage
)
"""An input image: local path, `s3://`, `https://` or `data:` URI, bytes, or an earlier result."""


class InvalidRequestMeta(type):
    """Makes a wrong argument to a value that people write by hand an `InvalidRequestError`."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: D102 - makes the value, as every class does
        try:
            return super().__call__(*args, **fields)
        except ValidationError as exc:
            wrong = "; ".join(_said(cls, error) for error in exc.errors(include_url=False))
        # Raised without pydantic's error behind it, which holds what was given.
        raise InvalidRequestError(f"{cls.__name__}: {wrong}")


def _said(kind: Any, error: Any) -> str:
    names = [field.name for field in dataclasses.fields(kind)]
    first, *inner = error["loc"] or ("",)
    where = ".".join(map(str, [names[first] if isinstance(first, int) and first < len(names) else first, *inner]))
    what = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "unexpected_keyword_argument":
        return f"there is no field {where!r}"
    return without_secrets(f"{where}={error['input']!r:.80}: {what}" if where else what)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImageRequest(metaclass=InvalidRequestMeta):
    """What a person asks: a prompt, input images for an edit, and how the image should be.

    Fields left at None are not sent, so that the model's own defaults hold.
    """

    prompt: str
    """What to draw, or what to change."""

    images: tuple[ImageSource, ...] = ()
    """Input images for an edit, at most 14; the last one's shape wins where no ratio is asked."""

    model: str = DEFAULT_MODEL
    """The model's id at the gateway."""

    aspect_ratio: str | None = None
    """Width to height, such as `16:9`; what a model accepts is in the catalogue."""

    image_size: str | None = None
    """Size tier `512`, `1K`, `2K` or `4K`, for models that have one."""

    temperature: float | None = None
    """Sampling temperature, 0 to 2."""

    seed: int | None = None
    """Sampling seed; equal seeds give similar, not equal, images."""

    thinking_level: str | None = None
    """How much the model thinks first: `minimal`, `medium` or `high`, where it may be chosen."""

    system_instruction: str | None = None
    """Standing instructions, kept apart from the prompt."""

    safety_settings: dict[str, str] | None = None
    """Thresholds by harm category, such as `{"HARM_CATEGORY_HARASSMENT": "BLOCK_ONLY_HIGH"}`."""

    google_search: bool = False
    """Whether the model may search the web first; searches are billed apart."""

    extra_body: dict[str, Any] | None = None
    """Merged into the JSON body last, for fields that this package does not know yet."""

    stream: bool = False
    """Whether to use the SSE form of the call; the answer is the same."""

    sample: Annotated[int, Field(ge=0)] = 0
    """Which of several answers to the same request this is; another number draws and pays again."""

    @cached_property
    def prompt_excerpt(self) -> str:
        """The first 80 characters of the prompt, on one line."""
        return excerpt(self.prompt, 80)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ImageSpec(metaclass=InvalidRequestMeta):
    """What must be true of an image. A rule left at None is not checked.

    Whether the file is whole is always checked. A contradicting spec is refused when it is made.
    """

    width: int | None = Field(default=None, gt=0)
    """Exact width in pixels, within `tolerance` where that is set by the catalogue's tables."""

    height: int | None = Field(default=None, gt=0)
    """Exact height in pixels."""

    aspect_ratio: str | None = None
    """Width to height, such as `16:9`, within `tolerance`."""

    tolerance: float = Field(default=0.05, ge=0, lt=1)
    """How far the ratio may be off, as a fraction; a model's tables and its replies disagree by up to 5 %."""

    min_edge: int | None = Field(default=None, gt=0)
    """Shortest allowed side in pixels, inclusive."""

    max_edge: int | None = Field(default=None, gt=0)
    """Longest allowed side in pixels, inclusive."""

    min_pixels: int | None = Field(default=None, gt=0)
    """Least number of pixels, inclusive."""

    max_pixels: int | None = Field(default=None, gt=0)
    """Greatest number of pixels, inclusive."""

    media_types: tuple[str, ...] = ()
    """Allowed IANA media types; empty allows every image type."""

    max_bytes: int | None = Field(default=None, gt=0)
    """Greatest file length in bytes, inclusive."""

    reject_blank: bool = True
    """Whether an image of a single colour is refused."""

    decode: bool = False
    """Whether every pixel is decoded, about 45 ms of CPU for 1024²; else only the file's structure is checked."""

    def __post_init__(self) -> None:
        for low, high in (("min_edge", "max_edge"), ("min_pixels", "max_pixels")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise InvalidRequestError(f"{low}={least} is greater than {high}={most}; no image can be both.")
        ratio = ratio_of(self.aspect_ratio) if self.aspect_ratio is not None else None
        self._check_sizes()
        unknown = [name for name in self.media_types if not re.fullmatch(r"image/[\w.+-]+", name)]
        if unknown:
            raise InvalidRequestError(f"media_types={unknown!r}: write them whole, such as 'image/png'.")
        if self.width and self.height:
            self._agree(self.width, self.height, ratio)
        for name in ("width", "height"):
            edge = getattr(self, name)
            if edge and ((self.max_edge and edge > self.max_edge) or (self.min_edge and edge < self.min_edge)):
                raise InvalidRequestError(
                    f"{name}={edge} lies outside min_edge={self.min_edge} to max_edge={self.max_edge}."
                )

    def _check_sizes(self) -> None:
        """Refuses edges and pixels that no image can have together."""
        if self.min_edge and self.max_pixels and self.min_edge**2 > self.max_pixels:
            raise InvalidRequestError(f"min_edge={self.min_edge} makes more pixels than max_pixels={self.max_pixels}.")
        if self.max_edge and self.min_pixels and self.max_edge**2 < self.min_pixels:
            raise InvalidRequestError(f"max_edge={self.max_edge} makes fewer pixels than min_pixels={self.min_pixels}.")

    def _agree(self, width: int, height: int, ratio: float | None) -> None:
        if ratio and abs(width / height / ratio - 1) > self.tolerance:
            raise InvalidRequestError(
                f"width={width} and height={height} do not make aspect_ratio={self.aspect_ratio!r}; give one of them."
            )
        pixels = width * height
        if (self.max_pixels and pixels > self.max_pixels) or (self.min_pixels and pixels < self.min_pixels):
            raise InvalidRequestError(
                f"{width}x{height} is {pixels} pixels, outside min_pixels={self.min_pixels} to {self.max_pixels}."
            )

    @classmethod
    def for_request(cls, request: "ImageRequest | GeneratedImage") -> "ImageSpec":
        """What the catalogue promises for a request, or for the request behind an image.

        The ratio is checked within 5 %, the area within a class: from half to twice what the
        table says, so that a 1K image in place of a 2K one is found and a table that is a few
        pixels off is not. Without a ratio, or for an unknown model, only the size tier is checked.
        """
        model = catalog.find(request.model)
        if model is None:
            return cls(aspect_ratio=request.aspect_ratio if _is_ratio(request.aspect_ratio) else None)
        promised = model.pixels(request.aspect_ratio or "1:1", request.image_size)
        if promised is None:
            return cls(aspect_ratio=request.aspect_ratio if _is_ratio(request.aspect_ratio) else None)
        area = promised[0] * promised[1]
        return cls(aspect_ratio=request.aspect_ratio, min_pixels=area // 2, max_pixels=area * 2 - 1)


@dataclass(frozen=True)
class ImageOutcome:
    """How one item ended, whatever happened to it: one row of a report."""

    id: str
    """The item's name in its run: the SKU given as `name`, else the start of the request's key."""

    status: OutcomeStatus
    """One of a closed set: `uploaded`, `already_there`, `refused`, `no_image`, `invalid`, `unknown_outcome`,
    `source_error`, `over_budget`, `failed`, `pending`, and `rejected` by a person."""

    reason: str = ""
    """What happened, in plain words; empty for an image that arrived."""

    image: GeneratedImage | None = None
    """The paid image, if one was delivered, even when a later step failed."""

    uploaded: UploadedImage | None = None
    """The object in S3, if there is one."""

    charged: Charged = "no"
    """Whether this item cost money."""

    estimated_cost_usd: float | None = None
    """What it cost, in US dollars, as far as known."""

    attempts: int = 1
    """How many paid calls were made for it."""

    model: str = ""
    """The model that was asked."""

    prompt_excerpt: str = ""
    """The first 80 characters of the prompt."""

    possible_duplicates: int = 0
    """How many calls for it lost their answer and were made again; each may have been billed as well."""

    @property
    def ok(self) -> bool:
        """Whether the image is in S3."""
        return self.status in ("uploaded", "already_there")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Spending(metaclass=InvalidRequestMeta):
    """What may be paid for again, and how long to wait for the gateway."""

    on_unknown_outcome: Literal["retry", "fail"] = "retry"
    """What to do when a call was sent and its answer was lost, so that it may have been billed."""

    unknown_retries: int = Field(default=1, ge=0)
    """How often such a call is made again; each time may pay twice."""

    no_image_retries: int = Field(default=1, ge=0)
    """How often a call is made again after an answer without an image, or a flaky image-safety refusal."""

    max_wait_seconds: float = Field(default=600, ge=0)
    """The longest wait the gateway may ask for, in seconds; if it asks for more, the task fails at once."""

    max_usd_per_run: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """A ceiling in US dollars for one flow run; the call that would pass it is not made.

    It is counted in the run's process: a retry of the flow goes on counting, and a re-run in a new
    process starts at nothing. Images that are reused cost nothing.
    """

    max_usd_per_day: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """A ceiling in US dollars for the credentials' account and one day in UTC, on all workers and hosts together.

    It is counted in the Redis that `PREFECT_INTEGRATIONS_N1N_BUDGET_STORE` names. A call is counted before it is
    made, so what a killed process had under way stays counted.
    """


def excerpt(text: str, length: int) -> str:
    """The start of a text on one line, at most `length` characters, with an ellipsis where it was cut."""
    start = text[: length * 4]
    line = " ".join(start.split())
    was_cut = len(start) < len(text) or len(line) > length
    return line[: length - 1] + "…" if was_cut else line


def ratio_of(aspect_ratio: str) -> float:
    """Width divided by height of a ratio such as `16:9`.

    Raises:
        InvalidRequestError: It is not two positive numbers with a colon between.
    """
    width, _, height = aspect_ratio.partition(":")
    try:
        ratio = float(width) / float(height)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not 0 < ratio < float("inf"):
        raise InvalidRequestError(f"aspect_ratio={aspect_ratio!r} is not a ratio; write width:height, such as '16:9'.")
    return ratio


def _is_ratio(aspect_ratio: str | None) -> bool:
    return bool(aspect_ratio and ":" in aspect_ratio)


def as_request(prompt: object, images: Sequence[ImageSource] = (), **options: Any) -> ImageRequest:
    """The request that a task's arguments make.

    A whole `ImageRequest` in place of the prompt is taken as it is; options beside it
    must then be left at their defaults.

    Raises:
        InvalidRequestError: The prompt is no text, or an option is given twice.
    """
    if isinstance(prompt, str):
        return ImageRequest(prompt=prompt, images=tuple(images), **options)
    if not isinstance(prompt, ImageRequest):
        raise InvalidRequestError(
            f"prompt must be one text or one ImageRequest, not {type(prompt).__name__}; for several use .map(prompts)."
        )
    fields = {field.name: field.default for field in dataclasses.fields(ImageRequest)}
    twice = [name for name, value in options.items() if value != fields[name]]
    if twice or (images and prompt.images):
        raise InvalidRequestError(f"{', '.join(twice) or 'images'} given beside an ImageRequest; say it in one place.")
    return dataclasses.replace(prompt, images=tuple(images)) if images else prompt
