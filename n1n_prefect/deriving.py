"""Variants of an image, put beside it in S3: the tasks, and the function under them for who has the bytes in hand."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Literal, get_args

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic.dataclasses import dataclass

from n1n_prefect import assets, spans
from n1n_prefect.blocks import S3Location
from n1n_prefect.derive import Derived, derive_all, require_formats
from n1n_prefect.errors import InvalidRequestError, StagingError, UploadError
from n1n_prefect.execution import reported, require_block
from n1n_prefect.images import GeneratedImage, UploadedImage
from n1n_prefect.object_keys import encode_metadata
from n1n_prefect.run_log import get_logger
from n1n_prefect.s3 import Put
from n1n_prefect.s3_errors import location_errors
from n1n_prefect.settings import settings
from n1n_prefect.sources import load_source
from n1n_prefect.tasks import _options
from n1n_prefect.to_s3 import require
from n1n_prefect.variants import Variant, Variants, as_variants, derived_key

IfDerived = Literal["redo", "fail", "keep", "replace"]
"""What to do about another object under a variant's key.

- `redo`: replaces it where it is the same variant of the same original, made in another way or by another
  Pillow; anything else is a conflict, as for `fail`.
- `fail`, `keep`, `replace`: as for `upload_image`.
"""


@dataclass(frozen=True)
class DerivedImage:
    """One object in S3 that holds a variant of an image."""

    name: str
    """The variant's name."""

    bucket: str
    """The bucket's name."""

    key: str
    """The object's key, beside the original's."""

    sha256: str
    """SHA-256 of the bytes, lower-case hex."""

    media_type: str
    """The object's ContentType; empty where `if_exists="keep"` kept another object."""

    width: int
    """Pixels; 0 where another object was kept."""

    height: int
    """Pixels; 0 where another object was kept."""

    size_bytes: int
    """Length in bytes."""

    created: bool = True
    """False when the same bytes were already there, or another object was kept."""

    @property
    def uri(self) -> str:
        """The object as an `s3://` address."""
        return f"s3://{self.bucket}/{self.key}"


@task(cache_policy=NO_CACHE, **_options("derive"))
def derive_image(
    image: GeneratedImage | UploadedImage,
    variants: Variants,
    *,
    destination: S3Location,
    name: str | None = None,
    key: str | None = None,
    if_exists: IfDerived = "redo",
) -> tuple[DerivedImage, ...]:
    """Variants of an image as objects in S3, each beside the original, which is untouched.

    `products/fox.png` and the variant `thumb` make `products/fox.thumb.webp`. What is there already is
    not written again. One text may describe several variants: with `.map` a list of them needs `unmapped`.

    ```python
    uploads = upload_image.map(images, destination=unmapped(shop))
    derive_image.map(uploads, "thumb=fit 256,512; card=pad 800x600 jpeg on white", destination=unmapped(shop))
    ```

    Args:
        image: An upload, or a generated image that is uploaded to the same destination.
        variants: What to derive, as `Variant`, as text (see there) or as a mapping of its fields; or several.
        destination: The S3 Image Location block; with `.map`, `unmapped(destination)`. Where the staged original
            is gone, the upload is read with its credentials.
        name: As given to `upload_image`, for a generated image: the original's name in the key template.
        key: The original's key, in place of the upload's own or the template's.
        if_exists: What to do about another object under a variant's key: `redo` it if it is that same variant of
            that same original and fail otherwise, or always `fail`, `keep` it or `replace` it.

    Raises:
        InvalidRequestError: A variant is not right, or this Pillow cannot write it; nothing was written.
        ImageValidationError: The image is damaged or cannot be decoded.
        StagingError: A generated image's original is gone.
        SourceError: An upload is gone, or holds something else by now.
        UploadError: With the store's code and what to do.
    """
    return _derived(image, variants, destination, name, key, if_exists)


@task(cache_policy=NO_CACHE, **_options("derive"))
async def aderive_image(
    image: GeneratedImage | UploadedImage,
    variants: Variants,
    *,
    destination: S3Location,
    name: str | None = None,
    key: str | None = None,
    if_exists: IfDerived = "redo",
) -> tuple[DerivedImage, ...]:
    """`derive_image` for asynchronous flows."""
    return await asyncio.to_thread(_derived, image, variants, destination, name, key, if_exists)


def derived_objects(
    data: bytes,
    original: UploadedImage,
    variants: Variants,
    destination: S3Location,
    *,
    if_exists: IfDerived = "redo",
) -> tuple[DerivedImage, ...]:
    """The variants of an image whose bytes are at hand, put beside its key into the destination's bucket.

    Args:
        data: The original's bytes; that they are its own is not checked again.
        original: Where it is.
        variants: What to derive.
        destination: Where the variants go.
        if_exists: What to do about another object under a variant's key, see `IfDerived`.

    Returns:
        One object a variant, in order.

    Raises:
        InvalidRequestError: A variant is not right, or this Pillow cannot write it; nothing was written.
        ImageValidationError: The image is damaged or cannot be decoded; nothing was written.
        UploadError: The store refused or could not be reached, or holds another object there.
    """
    asked = as_variants(variants)
    keys = [derived_key(original.key, variant) for variant in asked]
    made = derive_all(data, asked)
    return tuple(
        _put(made[variant.name], variant, key, original, destination, if_exists)
        for variant, key in zip(asked, keys, strict=True)
    )


# ── one image ────────────────────────────────────────────────────────────────


def _derived(
    image: GeneratedImage | UploadedImage,
    variants: Variants,
    destination: S3Location,
    name: str | None,
    key: str | None,
    if_exists: IfDerived,
) -> tuple[DerivedImage, ...]:
    # The image has arrived, or will: it has not failed with its variants.
    with reported(is_about_image=False):
        asked = _checked(image, variants, destination, if_exists)
        original = _original_of(image, destination, name, key)
    with spans.span("n1n.derive"), reported(image, is_about_image=False):
        done = derived_objects(_bytes_of(image, destination), original, asked, destination, if_exists=if_exists)
    for derived in done:
        _note(derived, original)
    return done


def _checked(image: object, variants: object, destination: object, if_exists: object) -> tuple[Variant, ...]:
    require(image, (GeneratedImage, UploadedImage), "image")
    if isinstance(image, UploadedImage) and not image.media_type:
        raise InvalidRequestError(f"{image.uri} is another image, which was kept; derive from that one's own upload.")
    require_block(destination, S3Location, "destination")
    if if_exists not in get_args(IfDerived):
        raise InvalidRequestError(f"if_exists={if_exists!r} is none of {', '.join(get_args(IfDerived))}.")
    asked = as_variants(variants)
    require_formats(asked)
    return asked


def _original_of(
    image: GeneratedImage | UploadedImage, destination: S3Location, name: str | None, key: str | None
) -> UploadedImage:
    """What the variants are said to be derived from, and lie beside."""
    for what, value in (("name", name), ("key", key)):
        if value is not None:
            require(value, str, what)
    if isinstance(image, UploadedImage) and name is None and key is None:
        return image
    return UploadedImage(
        destination.bucket,
        destination.key_for(image, name=name, key=key),
        image.sha256,
        image.media_type,
        image.width,
        image.height,
        image.size_bytes,
        model=image.model,
        request_key=image.request_key,
    )


def _bytes_of(image: GeneratedImage | UploadedImage, destination: S3Location) -> bytes:
    if isinstance(image, GeneratedImage):
        return image.read_bytes()
    if image.original is not None and image.original.sha256 == image.sha256:
        try:
            return image.original.read_bytes()
        except StagingError as exc:
            get_logger().debug("%s is read from S3, since its staged original is not there: %s", image.uri, exc)
    return load_source(image, rules=settings().source_rules, read_s3=destination.read).data


def _note(derived: DerivedImage, original: UploadedImage) -> None:
    get_logger().info(
        "%s %s, %dx%d pixels, %d bytes",
        "Derived" if derived.created else "Already there:",
        derived.uri, derived.width, derived.height, derived.size_bytes,
    )  # fmt: skip
    at = UploadedImage(
        derived.bucket,
        derived.key,
        derived.sha256,
        derived.media_type,
        derived.width,
        derived.height,
        derived.size_bytes,
        model=original.model,
        request_key=original.request_key,
        created=derived.created,
    )
    assets.emit_upload(at, [original.uri])


# ── one object ───────────────────────────────────────────────────────────────


def _put(
    derived: Derived,
    variant: Variant,
    key: str,
    original: UploadedImage,
    destination: S3Location,
    if_exists: IfDerived,
) -> DerivedImage:
    metadata = {
        "n1n-derived-from": original.uri,
        "n1n-derived-from-sha256": original.sha256,
        "n1n-variant": str(variant),
    }
    put = partial(
        destination.put_bytes,
        derived.data,
        key=key,
        sha256=derived.sha256,
        media_type=derived.media_type,
        metadata=metadata,
    )
    with spans.span("n1n.upload", **{"aws.s3.bucket": destination.bucket, "aws.s3.key": key}):
        done = _redone(put, destination, key, metadata) if if_exists == "redo" else put(if_exists=if_exists)
    size = (0, 0) if done.kept_other else (derived.width, derived.height)
    media_type = "" if done.kept_other else derived.media_type
    return DerivedImage(
        variant.name, destination.bucket, key, done.sha256, media_type, *size, done.size_bytes, done.created
    )


def _redone(put: "partial[Put]", destination: S3Location, key: str, metadata: Mapping[str, str]) -> Put:
    try:
        return put(if_exists="fail")
    except UploadError as exc:
        if exc.code != "ObjectExists":
            raise
    if not _is_same_variant(_metadata_at(destination, key), metadata):
        raise UploadError(
            f"{destination.uri_of(key)} exists already, and is not said to be this variant of "
            f"{metadata['n1n-derived-from']}. Give the variant another name, or if_exists='keep' to leave it, or "
            "if_exists='replace' to overwrite it.",
            code="ObjectExists",
        )
    return put(if_exists="replace")


def _metadata_at(destination: S3Location, key: str) -> dict[str, str]:
    with location_errors(UploadError, doing="look at", bucket=destination.bucket, key=key):
        head = destination.get_client().head_object(Bucket=destination.bucket, Key=key)
    # Some stores give the keys back with a capital.
    return {name.lower(): value for name, value in head.get("Metadata", {}).items()}


def _is_same_variant(there: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    """Whether an object is of the same original and the variant of the same name, however that was described then."""
    sent = encode_metadata(ours, "0" * 64)
    origin, other = sent["n1n-derived-from"], there.get("n1n-derived-from", "")
    names = [said.get("n1n-variant", "").partition("=")[0] for said in (sent, there)]
    # Long addresses are cut, where they are not ASCII.
    return bool(other) and names[0] == names[1] and (origin.startswith(other) or other.startswith(origin))
