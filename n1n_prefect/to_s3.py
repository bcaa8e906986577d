"""One image's way from words to S3: paid, checked, uploaded; for tasks that do one step of it, or all of it.

Whoever carries it out says how it waits: `ToS3` is a sequence of steps, for threads and event loops alike.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

from n1n_prefect import assets, events, metrics, spans, validation
from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.errors import ImageValidationError, InvalidRequestError, N1nError, UploadError
from n1n_prefect.execution import apay, is_final_failure, pay, reported, require_block
from n1n_prefect.images import (
    ANY_IMAGE,
    GeneratedImage,
    ImageOutcome,
    ImageRequest,
    ImageSpec,
    UploadedImage,
    as_request,
    ratio_of,
)
from n1n_prefect.object_keys import own_metadata
from n1n_prefect.outcomes import outcome_of
from n1n_prefect.policies import attempt_number, is_last_attempt
from n1n_prefect.run_log import get_logger
from n1n_prefect.s3 import IfExists
from n1n_prefect.sources import as_sources
from n1n_prefect.staging import originals_at_hand
from n1n_prefect.steps import arun, run

OnInvalid = Literal["fail", "regenerate"]

_FIELDS = tuple(name for name in ImageRequest.__dataclass_fields__ if name not in ("prompt", "images"))


def request_of(arguments: Mapping[str, Any], prompt: Any, images: object = ()) -> ImageRequest:
    """The request that a task's own arguments make."""
    options = {name: arguments[name] for name in _FIELDS if name in arguments}
    return as_request(prompt, as_sources(images), **options)


def validated(
    image: GeneratedImage, spec: ImageSpec | None, goes_on: tuple[type[N1nError], ...] = ()
) -> GeneratedImage:
    """The same image, once its original is known to keep every rule.

    Args:
        image: What was paid for.
        spec: The rules; what was asked, if not given.
        goes_on: Errors after which the caller itself tries again.

    Raises:
        ImageValidationError: It breaks some.
        StagingError: The original is gone or changed.
    """
    with reported():
        require(image, GeneratedImage, "image")
        if spec is not None:
            require(spec, ImageSpec, "spec")
    with reported(image, goes_on=goes_on):
        rules = spec or ImageSpec.for_request(image)
        validation.check(image.read_bytes(), rules, what=f"Image {image.sha256[:12]}", request_id=image.request_id)
    return image


def require(value: object, kind: type | tuple[type, ...], name: str) -> None:
    """Refuses an argument of another kind, and says which it is.

    Raises:
        InvalidRequestError: It is of another kind.
    """
    if not isinstance(value, kind):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise InvalidRequestError(f"{name} must be a {wanted}, not {type(value).__name__} ({value!r:.60}).")


def upload(
    image: GeneratedImage | UploadedImage,
    destination: S3Location,
    name: str | None,
    key: str | None,
    if_exists: IfExists,
    metadata: Mapping[str, str] | None,
) -> UploadedImage:
    """The object in S3 that holds the image's original bytes; arguments and errors as of `upload_image`."""
    with reported():
        require(image, (GeneratedImage, UploadedImage), "image")
        check_where(destination, name, key, if_exists, metadata)
    paid = image if isinstance(image, GeneratedImage) else image.original
    with spans.span("n1n.upload"), reported(image):
        at = destination.key_for(image, name=name, key=key)
        with _as_asset(destination.uri_of(at), image):
            where: Any = {"key": at, "if_exists": if_exists, "metadata": metadata}
            if isinstance(image, GeneratedImage):
                uploaded = destination.put_image(image.read_bytes(), image=image, **where)
            else:
                uploaded = _copied(image, destination, where)
        uploaded = replace(uploaded, original=paid)
        _note_upload(uploaded, assets.lineage_of(image))
    return uploaded


@contextmanager
def _as_asset(uri: str, image: GeneratedImage | UploadedImage) -> Generator[None]:
    """Tells Prefect that an object could not be written, once that is final."""
    try:
        yield
    except N1nError as error:
        if is_final_failure(error):
            assets.emit_failure(uri, error, assets.lineage_of(image))
        raise


def _note_upload(uploaded: UploadedImage, inputs: Sequence[str]) -> None:
    kind: events.EventKind = "uploaded" if uploaded.created else "already_there"
    spans.annotate_upload(uploaded, kind)
    get_logger().info("%s %s", "Uploaded" if uploaded.created else "Already there:", uploaded.uri)
    events.emit(kind, image=uploaded.original, uploaded=uploaded)
    assets.emit_upload(uploaded, inputs)
    metrics.ended(kind, model=uploaded.model)


def _copied(image: UploadedImage, destination: S3Location, where: Mapping[str, Any]) -> UploadedImage:
    try:
        return destination.copy_image(image, **where)
    except UploadError as exc:
        if image.original is None or exc.code not in _WHY_NOT:
            raise
        get_logger().warning("%s; its staged original is uploaded instead.", _WHY_NOT[exc.code].format(image.uri))
    return destination.put_image(image.original.read_bytes(), image=image.original, **where)


# What the store says of the source: by HEAD, which has no words, and by the copy itself. AWS says 403 of what is
# gone to who may not list. NoSuchBucket and AccessDenied come from the target.
_WHY_NOT = {
    "403": "{} is gone or may not be read",
    "404": "{} is gone",
    "NoSuchKey": "{} is gone",
    "SourceChanged": "{} was replaced by somebody",
}


def check_where(destination: Any, name: Any, key: Any, if_exists: Any, metadata: Any) -> None:
    """Refuses, before anything is paid or sent, what no image could be uploaded with."""
    require_block(destination, S3Location, "destination")
    for what, value in (("name", name), ("key", key)):
        if value is not None:
            require(value, str, what)
    if if_exists not in get_args(IfExists):
        raise InvalidRequestError(f"if_exists={if_exists!r} is none of {', '.join(get_args(IfExists))}.")
    own_metadata(metadata)
    destination.key_for(ANY_IMAGE, name=name, key=key)


@dataclass(frozen=True)
class Pay:
    """Pay for the image, or find it paid for."""

    take: int
    """Which drawing of it, from 0: one that broke a rule is drawn again under the next number."""


@dataclass(frozen=True)
class _Do:
    work: Callable[[], Any]


@dataclass
class ToS3:
    """One item's way to S3: the same for both drivers."""

    arguments: Mapping[str, Any]
    """Those of `image_to_s3`, by name; and `take`, the number of the first drawing, if it is not 0."""

    paid: list[GeneratedImage] = field(default_factory=list[GeneratedImage])
    """What was paid for, or found paid for, on the way."""

    failure: Exception | None = None
    """Why there is no object in S3, once that is known."""

    def carried_out(self) -> ImageOutcome:
        """The item's outcome, reached in this thread.

        Raises:
            N1nError: It may pass, and whoever calls will try again.
        """
        with originals_at_hand():
            try:
                result: object = run(self.steps(), self.do)
            except Exception as exc:  # noqa: BLE001 - one bad item never hides the others
                result = exc
        return self.ended(result)

    async def acarried_out(self) -> ImageOutcome:
        """`carried_out` in this event loop."""
        with originals_at_hand():
            try:
                result: object = await arun(self.steps(), self.do, self.ado, (Pay,))
            except Exception as exc:  # noqa: BLE001 - one bad item never hides the others
                result = exc
        return self.ended(result)

    @property
    def takes(self) -> int:
        """How often it may be drawn."""
        return 1 + (self.arguments["regenerations"] if self.arguments["on_invalid"] == "regenerate" else 0)

    def steps(self) -> Generator[Any, Any, UploadedImage]:
        """Pay and validate until an image is good, and upload it."""
        self._check()
        for _ in range(self.takes - 1):
            try:
                return (yield from self._take(goes_on=(ImageValidationError,)))
            except ImageValidationError:  # noqa: PERF203 - each take is a paid call
                continue
        return (yield from self._take())

    def _take(self, goes_on: tuple[type[N1nError], ...] = ()) -> Generator[Any, Any, UploadedImage]:
        given = self.arguments
        image = yield Pay(given.get("take", 0) + len(self.paid))
        self.paid.append(image)
        yield _Do(partial(validated, image, given["spec"], goes_on))
        return (yield _Do(partial(upload, image, *(given[name] for name in _WHERE))))

    def do(self, step: Any) -> Any:
        """Carries out a step in this thread."""
        return pay(self._asked(), **self._terms(step.take)) if isinstance(step, Pay) else step.work()

    async def ado(self, step: Pay) -> GeneratedImage:
        """Pays in this event loop."""
        return await apay(self._asked(), **self._terms(step.take))

    def ended(self, result: object) -> ImageOutcome:
        """The item's outcome, unless it should be tried again."""
        if isinstance(result, N1nError) and result.is_transient and not is_last_attempt():
            raise result
        self.failure = result if isinstance(result, Exception) else None
        attempts = attempt_number() + max(len(self.paid) - 1, 0)
        name = self.arguments["name"]
        outcome = outcome_of(result, name if isinstance(name, str) else "", attempts=max(attempts, 1))
        if self.paid:
            duplicates = sum(image.possible_duplicates for image in self.paid)
            if isinstance(result, N1nError) and result.image is None:
                duplicates += result.possible_duplicates
            outcome = replace(
                outcome, charged="yes", image=outcome.image or self.paid[-1], possible_duplicates=duplicates
            )
        costs = [image.estimated_cost_usd for image in self.paid if image.estimated_cost_usd is not None]
        return replace(outcome, estimated_cost_usd=round(sum(costs), 6) if costs else outcome.estimated_cost_usd)

    @reported()
    def _check(self) -> None:
        """Refuses, before anything is paid, what no image could be checked or uploaded with."""
        given, asked = self.arguments, request_of(self.arguments, self.arguments["request"])
        check_where(*(given[name] for name in _WHERE))
        if given["spec"] is not None:
            require(given["spec"], ImageSpec, "spec")
            _check_agreement(asked, given["spec"])

    @reported()
    def _asked(self) -> ImageRequest:
        return request_of(self.arguments, self.arguments["request"])

    def _terms(self, take: int) -> dict[str, Any]:
        return {name: self.arguments[name] for name in ("credentials", "source", "spending")} | {"take": take}


_WHERE = ("destination", "name", "key", "if_exists", "metadata")


def _check_agreement(request: ImageRequest, spec: ImageSpec) -> None:
    if not (request.aspect_ratio and spec.aspect_ratio):
        return
    if abs(ratio_of(request.aspect_ratio) / ratio_of(spec.aspect_ratio) - 1) > spec.tolerance:
        raise InvalidRequestError(
            f"aspect_ratio={request.aspect_ratio!r} is asked and spec.aspect_ratio={spec.aspect_ratio!r} is expected; "
            "no image can be both."
        )


@reported()
def to_s3(arguments: Mapping[str, Any]) -> ToS3:
    """The item, once what is the same for all items is known to be right."""
    require_block(arguments["credentials"], N1nCredentials, "credentials")
    require_block(arguments["destination"], S3Location, "destination")
    regenerations = arguments["regenerations"]
    if arguments["on_invalid"] not in get_args(OnInvalid) or not isinstance(regenerations, int) or regenerations < 0:
        raise InvalidRequestError(
            f"on_invalid={arguments['on_invalid']!r}, regenerations={arguments['regenerations']!r}: "
            "on_invalid is 'fail' or 'regenerate', regenerations is 0 or more."
        )
    return ToS3(arguments)
