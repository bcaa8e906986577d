"""The tasks: generate, edit, validate, upload, all of it for one item, and discard; each sync and async.

Every pair has one core. A task's body checks what it was handed, calls the core, and
returns a small reference; retries, delays and caching are declared here and belong to Prefect.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.execution import apay, pay, reported, require_block
from n1n_prefect.images import (
    DEFAULT_MODEL,
    GeneratedImage,
    ImageOutcome,
    ImageRequest,
    ImageSource,
    ImageSpec,
    Spending,
    UploadedImage,
    excerpt,
)  # fmt: skip
from n1n_prefect.policies import DELAYS, RETRIES, HintedDelays, PaidOnce, worth_retrying
from n1n_prefect.run_log import get_logger
from n1n_prefect.s3 import IfExists
from n1n_prefect.to_s3 import OnInvalid, request_of, require, to_s3, upload, validated


def _named(verb: str) -> Callable[[dict[str, Any]], str]:
    """A task run's name: short, total, and without a word of the prompt."""

    def name(parameters: dict[str, Any]) -> str:
        try:
            return f"{verb} {_subject(parameters)}".strip()
        except Exception:  # noqa: BLE001 - a name that cannot be made must not keep the task from running
            return verb

    return name


def _subject(parameters: Mapping[str, Any]) -> str:
    if parameters.get("name"):
        return excerpt(str(parameters["name"]), 60)
    image = parameters.get("image")
    if isinstance(image, (GeneratedImage, UploadedImage)):
        return image.sha256[:8]
    asked = parameters.get("prompt") or parameters.get("request")
    prompt = asked.prompt if isinstance(asked, ImageRequest) else str(asked)
    return hashlib.sha256(prompt.encode()).hexdigest()[:8]


def _options(verb: str) -> dict[str, Any]:
    return {
        "retries": RETRIES,
        "retry_delay_seconds": HintedDelays(DELAYS),
        "retry_condition_fn": worth_retrying,
        "task_run_name": _named(verb),
    }


# ── generate ─────────────────────────────────────────────────────────────────


@task(cache_policy=PaidOnce(), **_options("generate"))
def generate_image(
    prompt: str | ImageRequest,
    *,
    credentials: N1nCredentials,
    model: str = DEFAULT_MODEL,
    aspect_ratio: str | None = None,
    image_size: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    thinking_level: str | None = None,
    system_instruction: str | None = None,
    safety_settings: dict[str, str] | None = None,
    google_search: bool = False,
    extra_body: dict[str, Any] | None = None,
    stream: bool = False,
    sample: int = 0,
    spending: Spending | None = None,
) -> GeneratedImage:
    """One image for a prompt: paid once in a flow run, its original bytes staged.

    Args:
        prompt: What to draw, or a whole `ImageRequest`.
        credentials: The n1n Credentials block; with `.map`, `unmapped(credentials)`.
        model: The model's id at the gateway.
        aspect_ratio: Width to height, such as `16:9`; the model chooses if not given.
        image_size: `512`, `1K`, `2K` or `4K`, for models that have size tiers.
        temperature: Sampling temperature, 0 to 2.
        seed: Sampling seed.
        thinking_level: `minimal`, `medium` or `high`, for models where it may be chosen.
        system_instruction: Standing instructions, kept apart from the prompt.
        safety_settings: Thresholds by harm category.
        google_search: Whether the model may search the web first; searches are billed apart.
        extra_body: Merged into the JSON body last.
        stream: Whether to use the SSE form of the call.
        sample: Equal requests share one image; another number draws and pays for another.
        spending: What may be paid for again; the settings' if not given.

    Raises:
        InvalidRequestError: The model does not take this; nothing was spent.
        RefusedError: The prompt or the image was refused, with the model's words.
        NoImageError: The model answered without an image.
        OutcomeUnknownError: The answer was lost and may have been billed.
        N1nError: Otherwise, in its class.
    """
    return pay(_generation(locals()), credentials=credentials, spending=spending)


@task(cache_policy=PaidOnce(), **_options("generate"))
async def agenerate_image(
    prompt: str | ImageRequest,
    *,
    credentials: N1nCredentials,
    model: str = DEFAULT_MODEL,
    aspect_ratio: str | None = None,
    image_size: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    thinking_level: str | None = None,
    system_instruction: str | None = None,
    safety_settings: dict[str, str] | None = None,
    google_search: bool = False,
    extra_body: dict[str, Any] | None = None,
    stream: bool = False,
    sample: int = 0,
    spending: Spending | None = None,
) -> GeneratedImage:
    """`generate_image` for asynchronous flows."""
    return await apay(_generation(locals()), credentials=credentials, spending=spending)


@reported()
def _generation(arguments: Mapping[str, Any]) -> ImageRequest:
    request = request_of(arguments, arguments["prompt"])
    if request.images:
        raise InvalidRequestError("An ImageRequest with input images is an edit; call edit_image or image_to_s3.")
    return request


# ── edit ─────────────────────────────────────────────────────────────────────


@task(cache_policy=PaidOnce(), **_options("edit"))
def edit_image(
    prompt: str | ImageRequest,
    images: ImageSource | Sequence[ImageSource] = (),
    *,
    credentials: N1nCredentials,
    source: S3Location | None = None,
    model: str = DEFAULT_MODEL,
    aspect_ratio: str | None = None,
    image_size: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    thinking_level: str | None = None,
    system_instruction: str | None = None,
    safety_settings: dict[str, str] | None = None,
    google_search: bool = False,
    extra_body: dict[str, Any] | None = None,
    stream: bool = False,
    sample: int = 0,
    spending: Spending | None = None,
) -> GeneratedImage:
    """One image made of one to fourteen others and a prompt: paid once in a flow run, its original bytes staged.

    `.map` pairs prompts with images one to one; to give the same images to every prompt, wrap
    them: `edit_image.map(prompts, images=unmapped([a, b]), …)`.

    Args:
        prompt: What to change, or a whole `ImageRequest` with its images.
        images: Local path, `s3://`, `https://` or `data:` URI, bytes, or an earlier result; or several.
        credentials: The n1n Credentials block; with `.map`, `unmapped(credentials)`.
        source: Where `s3://` images and earlier uploads are read from.
        model: The model's id at the gateway; and so on, as for `generate_image`.
        aspect_ratio: As for `generate_image`; the last image's shape if not given.
        image_size: As for `generate_image`.
        temperature: As for `generate_image`.
        seed: As for `generate_image`.
        thinking_level: As for `generate_image`.
        system_instruction: As for `generate_image`.
        safety_settings: As for `generate_image`.
        google_search: As for `generate_image`.
        extra_body: As for `generate_image`.
        stream: As for `generate_image`.
        sample: As for `generate_image`.
        spending: As for `generate_image`.

    Raises:
        SourceError: An input image could not be read, or may not be; nothing was spent.
        N1nError: Otherwise, as for `generate_image`.
    """
    return pay(_edit(locals()), credentials=credentials, source=source, spending=spending)


@task(cache_policy=PaidOnce(), **_options("edit"))
async def aedit_image(
    prompt: str | ImageRequest,
    images: ImageSource | Sequence[ImageSource] = (),
    *,
    credentials: N1nCredentials,
    source: S3Location | None = None,
    model: str = DEFAULT_MODEL,
    aspect_ratio: str | None = None,
    image_size: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    thinking_level: str | None = None,
    system_instruction: str | None = None,
    safety_settings: dict[str, str] | None = None,
    google_search: bool = False,
    extra_body: dict[str, Any] | None = None,
    stream: bool = False,
    sample: int = 0,
    spending: Spending | None = None,
) -> GeneratedImage:
    """`edit_image` for asynchronous flows."""
    return await apay(_edit(locals()), credentials=credentials, source=source, spending=spending)


@reported()
def _edit(arguments: Mapping[str, Any]) -> ImageRequest:
    request = request_of(arguments, arguments["prompt"], arguments["images"])
    if not request.images:
        raise InvalidRequestError("edit_image needs at least one image; to draw from words alone call generate_image.")
    return request


# ── validate ─────────────────────────────────────────────────────────────────


@task(cache_policy=NO_CACHE, **_options("validate"))
def validate_image(image: GeneratedImage, spec: ImageSpec | None = None) -> GeneratedImage:
    """The same image, once its staged bytes are known to keep every rule.

    Args:
        image: What `generate_image` or `edit_image` gave.
        spec: The rules; without one, what was asked is checked, and that the file is whole and not blank.

    Raises:
        ImageValidationError: Names every broken rule with expected and actual values.
        StagingError: The original is gone or changed.
    """
    return validated(image, spec)


@task(cache_policy=NO_CACHE, **_options("validate"))
async def avalidate_image(image: GeneratedImage, spec: ImageSpec | None = None) -> GeneratedImage:
    """`validate_image` for asynchronous flows."""
    return await asyncio.to_thread(validated, image, spec)


# ── upload ───────────────────────────────────────────────────────────────────


@task(cache_policy=NO_CACHE, **_options("upload"))
def upload_image(
    image: GeneratedImage | UploadedImage,
    *,
    destination: S3Location,
    name: str | None = None,
    key: str | None = None,
    if_exists: IfExists = "fail",
    metadata: Mapping[str, str] | None = None,
) -> UploadedImage:
    """The image's original bytes as one object in S3, put once.

    The same bytes under the same key are never a conflict: the object stays and `created` is
    False. An `UploadedImage` is copied on the server; where it is gone, such as by a lifecycle rule, its
    staged original is uploaded instead.

    Args:
        image: A generated image, or an upload to copy.
        destination: The S3 Image Location block; with `.map`, `unmapped(destination)`.
        name: Fills `{name}` of the location's key template, such as a SKU.
        key: The whole key below the bucket, in place of the template.
        if_exists: What to do about a different object under the key: `fail`, `keep` it or `replace` it.
        metadata: More user metadata for the object.

    Raises:
        UploadError: With the store's code and what to do; the image stays staged.
    """
    return upload(image, destination, name, key, if_exists, metadata)


@task(cache_policy=NO_CACHE, **_options("upload"))
async def aupload_image(
    image: GeneratedImage | UploadedImage,
    *,
    destination: S3Location,
    name: str | None = None,
    key: str | None = None,
    if_exists: IfExists = "fail",
    metadata: Mapping[str, str] | None = None,
) -> UploadedImage:
    """`upload_image` for asynchronous flows."""
    return await asyncio.to_thread(upload, image, destination, name, key, if_exists, metadata)


# ── discard ──────────────────────────────────────────────────────────────────


@task(cache_policy=NO_CACHE, **_options("discard"))
def discard_image(image: UploadedImage, *, location: S3Location, published: UploadedImage | None = None) -> bool:
    """Whether an uploaded image was there, which is gone now; for what was pending and is decided.

    Only these very bytes are removed: what somebody else put under the key stays. The staged
    original stays, too.

    Args:
        image: What `upload_image` gave.
        location: The S3 Image Location block that may delete it; with `.map`, `unmapped(location)`.
        published: The copy that remains. Given as a future, nothing is discarded where copying failed.

    Raises:
        InvalidRequestError: The copy is the image itself.
        UploadError: Something else is there by now, or the store refused or could not be reached.
    """
    return _discarded(image, location, published)


@task(cache_policy=NO_CACHE, **_options("discard"))
async def adiscard_image(image: UploadedImage, *, location: S3Location, published: UploadedImage | None = None) -> bool:
    """`discard_image` for asynchronous flows."""
    return await asyncio.to_thread(_discarded, image, location, published)


def _discarded(image: UploadedImage, location: S3Location, published: UploadedImage | None) -> bool:
    with reported(is_about_image=False):
        require(image, UploadedImage, "image")
        require_block(location, S3Location, "location")
        if published is not None:
            require(published, UploadedImage, "published")
            if published.uri == image.uri:
                raise InvalidRequestError(f"{image.uri} is where the image was published to; it is not discarded.")
    # The image is published, or nobody wants it: it has not failed.
    with reported(image, is_about_image=False):
        was_there = location.delete_image(image)
    get_logger().info("%s %s", "Discarded" if was_there else "Gone already:", image.uri)
    return was_there


# ── one item from words to S3 ────────────────────────────────────────────────


@task(cache_policy=NO_CACHE, **_options("image"))
def image_to_s3(
    request: str | ImageRequest,
    *,
    credentials: N1nCredentials,
    destination: S3Location,
    source: S3Location | None = None,
    name: str | None = None,
    spec: ImageSpec | None = None,
    on_invalid: OnInvalid = "fail",
    regenerations: int = 1,
    model: str = DEFAULT_MODEL,
    aspect_ratio: str | None = None,
    image_size: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    thinking_level: str | None = None,
    system_instruction: str | None = None,
    safety_settings: dict[str, str] | None = None,
    google_search: bool = False,
    extra_body: dict[str, Any] | None = None,
    stream: bool = False,
    sample: int = 0,
    key: str | None = None,
    if_exists: IfExists = "fail",
    metadata: Mapping[str, str] | None = None,
    spending: Spending | None = None,
) -> ImageOutcome:
    """How one item ended, from its request to S3 in one task run; it never raises for a bad item.

    Failures that may pass are tried again by Prefect as for the single tasks, and what was
    paid is found again; only the last attempt's failure becomes an outcome.

    Args:
        request: The prompt, or a whole `ImageRequest`, with input images for an edit.
        credentials: The n1n Credentials block; with `.map`, `unmapped(credentials)`.
        destination: The S3 Image Location block; with `.map`, `unmapped(destination)`.
        source: Where `s3://` input images are read from.
        name: The item's name, such as a SKU; fills `{name}` of the key template.
        spec: The rules of validation; what was asked, if not given.
        on_invalid: `fail`, or `regenerate`: draw and pay again, at most `regenerations` times.
        regenerations: How often an invalid image is drawn again.
        model: As for `generate_image`.
        aspect_ratio: As for `generate_image`.
        image_size: As for `generate_image`.
        temperature: As for `generate_image`.
        seed: As for `generate_image`.
        thinking_level: As for `generate_image`.
        system_instruction: As for `generate_image`.
        safety_settings: As for `generate_image`.
        google_search: As for `generate_image`.
        extra_body: As for `generate_image`.
        stream: As for `generate_image`.
        sample: As for `generate_image`.
        key: As for `upload_image`.
        if_exists: As for `upload_image`.
        metadata: As for `upload_image`.
        spending: As for `generate_image`.

    Raises:
        InvalidRequestError: A block is no block; an item's own mistakes become outcomes.
    """
    return to_s3(locals()).carried_out()


@task(cache_policy=NO_CACHE, **_options("image"))
async def aimage_to_s3(
    request: str | ImageRequest,
    *,
    credentials: N1nCredentials,
    destination: S3Location,
    source: S3Location | None = None,
    name: str | None = None,
    spec: ImageSpec | None = None,
    on_invalid: OnInvalid = "fail",
    regenerations: int = 1,
    model: str = DEFAULT_MODEL,
    aspect_ratio: str | None = None,
    image_size: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    thinking_level: str | None = None,
    system_instruction: str | None = None,
    safety_settings: dict[str, str] | None = None,
    google_search: bool = False,
    extra_body: dict[str, Any] | None = None,
    stream: bool = False,
    sample: int = 0,
    key: str | None = None,
    if_exists: IfExists = "fail",
    metadata: Mapping[str, str] | None = None,
    spending: Spending | None = None,
) -> ImageOutcome:
    """`image_to_s3` for asynchronous flows."""
    return await to_s3(locals()).acarried_out()
