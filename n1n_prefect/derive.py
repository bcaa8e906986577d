"""A second image made from the first: fitted, cropped, padded or converted. The original is untouched.

Of what a file says beside its picture, this is done:

- EXIF orientation is applied, and colours of another profile are converted to sRGB, which is what an
  image without a profile is taken for. Neither EXIF nor a profile is written.
- That an image was made by a model stays said. The IPTC digital source type of the original's XMP or C2PA, and the
  credit `Made with Google AI`, are written into the variant as XMP, in every format.
- C2PA itself cannot be kept: its signature covers the original's bytes, and is broken by any change. It stays in
  the original. SynthID, which is in the pixels, may outlive a change of size; nobody promises that it does.

The same bytes and the same variant make the same bytes with the same Pillow, whatever else is made beside it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import field
from functools import cached_property
from importlib import import_module
from io import BytesIO
from typing import Any, NamedTuple

from pydantic.dataclasses import dataclass

from n1n_prefect.decoding import decoder_of
from n1n_prefect.errors import ImageValidationError, InvalidRequestError, N1nError, Violation
from n1n_prefect.inspection import MAX_PIXELS, Inspection, NotAnImageError, TooManyPixelsError, inspect
from n1n_prefect.layout import Layout, layout_of
from n1n_prefect.provenance import provenance_xmp
from n1n_prefect.variants import DEFAULT_QUALITY, Variant

_GAP = 2.0  # how much larger than its result a picture is left for the good filter, which takes the rest in one step
_WEBP_EFFORT = 4  # of 6, libwebp's own
_AVIF_SPEED = 6  # of 10, libavif's own


@dataclass(frozen=True)
class Derived:
    """One variant's file."""

    data: bytes = field(repr=False)
    """The whole file."""

    media_type: str
    """IANA media type."""

    width: int
    """Pixels."""

    height: int
    """Pixels."""

    @property
    def size_bytes(self) -> int:
        """Length in bytes."""
        return len(self.data)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes, lower-case hex."""
        return hashlib.sha256(self.data).hexdigest()


def derive(data: bytes, variant: Variant) -> Derived:
    """One variant of an image; arguments and errors as of `derive_all`."""
    return derive_all(data, [variant])[variant.name]


def derive_all(data: bytes, variants: Iterable[Variant]) -> dict[str, Derived]:
    """The variants of an image by their names; it is decoded once, or a JPEG once for each scale that is called for.

    Of an animation it takes the first picture. PNG, JPEG, WebP, GIF, BMP and AVIF can be read.

    Args:
        data: The whole file; at most 100 million pixels.
        variants: What to make of it, each with a name of its own, see `n1n_prefect.variants.as_variants`.

    Raises:
        InvalidRequestError: This Pillow cannot write a format, or the image's shape makes a variant too large.
        ImageValidationError: The image is damaged, no image that can be decoded, or has too many pixels.
    """
    asked = list(variants)
    require_formats(asked)
    original = _Original(data, _inspected(data))
    by_shrink: dict[int, list[Variant]] = defaultdict(list)
    for variant in asked:
        by_shrink[original.shrink_for(variant)].append(variant)
    made: dict[str, Derived] = {}
    for shrink, together in by_shrink.items():
        picture = original.decoded(shrink)
        made |= {variant.name: _made(picture, variant, original.xmp) for variant in together}
    return {variant.name: made[variant.name] for variant in asked}


def require_formats(variants: Iterable[Variant]) -> None:
    """Refuses variants in a format that the Pillow of this machine cannot write; ask before anything is paid.

    Raises:
        InvalidRequestError: It names the variant, and what to install.
    """
    for variant in variants:
        if decoder_of(variant.media_type) is None:
            import PIL

            remedy = "pip install 'pillow>=11.3'" if variant.format == "avif" else "pip install --upgrade pillow"
            raise InvalidRequestError(
                f"Variant {variant.name!r} is to be {variant.format}, which Pillow {PIL.__version__} as it is "
                f"installed here cannot write. {remedy}, or choose another format."
            )


# ── the original ─────────────────────────────────────────────────────────────


def _inspected(data: bytes) -> Inspection:
    try:
        seen = inspect(data, blank=False)
    except TooManyPixelsError as exc:
        raise _unusable("max_pixels", f"at most {MAX_PIXELS} pixels", str(exc)) from None
    except NotAnImageError as exc:
        raise _unusable("image", "the bytes of an image", str(exc)) from None
    if seen.damage:
        raise _unusable("whole", "a whole file", seen.damage)
    if decoder_of(seen.media_type) is None:
        raise _unusable("decode", "a type that this Pillow decodes", seen.media_type)
    return seen


def _unusable(rule: str, expected: str, actual: str) -> ImageValidationError:
    broken = Violation(rule, expected, actual)
    return ImageValidationError(
        f"No variant can be made of the image. {broken}. The original is as it was; draw another with `sample=`, or "
        "derive from a whole file.",
        violations=[broken],
    )


@contextmanager
def _decoding() -> Generator[None]:
    try:
        yield
    except (MemoryError, N1nError):
        raise
    except Exception as exc:  # noqa: BLE001  decoders raise whatever they like on hostile bytes
        raise _unusable("decode", "every pixel decoded", f"damaged: it does not decode ({exc})") from None


class _Picture(NamedTuple):
    """Decoded and upright; a JPEG perhaps at a part of its size."""

    image: Any
    """Of Pillow, in RGB, RGBA, L, LA or CMYK, without information beside its pixels."""

    width: int
    """Of the whole original, in pixels, upright."""

    height: int
    """Of the whole original, in pixels, upright."""

    profile: bytes
    """The ICC profile of its colours; empty for none."""


class _Original:
    """A whole file and how it is decoded."""

    def __init__(self, data: bytes, seen: Inspection) -> None:
        self.data = data
        self.seen = seen
        self.xmp = provenance_xmp(data, seen)

    def opened(self) -> Any:
        """The file as Pillow opens it, nothing decoded."""
        decoder = decoder_of(self.seen.media_type)
        if decoder is None:
            raise TypeError(self.seen.media_type)
        image = decoder(BytesIO(self.data))
        if image.width * image.height > MAX_PIXELS:  # a WebP's frame and its header may disagree
            raise _unusable("max_pixels", f"at most {MAX_PIXELS} pixels", f"{image.width}x{image.height} pixels")
        return image

    @cached_property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels; of anything but a JPEG it costs as much as decoding."""
        with _decoding():
            image = self.opened()
            return _upright_size(image.size, _orientation_of(image))

    def shrink_for(self, variant: Variant) -> int:
        """By how much, 1, 2, 4 or 8, the edges of a JPEG may be divided in decoding, which then costs far less.

        It depends on nothing but the image and the variant, so that these alone make the bytes.
        """
        if self.seen.media_type != "image/jpeg" or not variant.is_sized:
            return 1
        scale = layout_of(variant, *self.upright_size).scale
        return next((shrink for shrink in (8, 4, 2) if scale * shrink * _GAP <= 1), 1)

    def decoded(self, shrink: int) -> _Picture:
        """The picture, a JPEG at a part of its size."""
        with _decoding():
            image = self.opened()
            size = image.size
            if shrink > 1:
                image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))
            image.load()
            profile = image.info.get("icc_profile") or b""
            size = _upright_size(size, _orientation_of(image))
            image = _upright(_in_colour(image))
            image.info.clear()  # encoders write what they find there
            return _Picture(image, *size, profile)


def _orientation_of(image: Any) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001  damaged EXIF says nothing, and hides no picture
        return 1


def _upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    width, height = size
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  damaged EXIF says nothing, and hides no picture
        return image


def _in_colour(image: Any) -> Any:
    """The image in a mode that can be scaled smoothly, with its transparency."""
    if image.mode.startswith("I"):
        return image.point(_high_byte).convert("L")
    if image.has_transparency_data:
        return image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")


def _high_byte(grey: Any) -> Any:
    """The upper 8 of 16 bits; a product, since that is what Pillow can apply to so many values."""
    return grey * (1 / 256)


# ── one variant ──────────────────────────────────────────────────────────────


def _made(picture: _Picture, variant: Variant, xmp: bytes) -> Derived:
    layout = layout_of(variant, picture.width, picture.height)
    image = _in_srgb(_scaled(picture, layout), picture.profile)
    image = _laid(image, layout, variant)
    return Derived(_encoded(image, variant, xmp), variant.media_type, image.width, image.height)


def _scaled(picture: _Picture, layout: Layout) -> Any:
    """The layout's part of a picture in its size; by fewer pixels first, where there are many more than needed."""
    from PIL import Image

    image = picture.image
    across, down = image.width / picture.width, image.height / picture.height
    left, top, right, bottom = layout.box
    box = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
    return image.resize(layout.size, Image.Resampling.LANCZOS, box, reducing_gap=_GAP)


def _in_srgb(image: Any, profile: bytes) -> Any:
    """The image in RGB or RGBA, its colours as sRGB has them."""
    plain = "RGBA" if image.mode.endswith("A") else "RGB"
    colours = _converted(image.convert(image.mode.removesuffix("A")), profile) if profile else None
    if colours is None:
        return image.convert(plain)
    if plain == "RGBA":
        colours.putalpha(image.getchannel("A"))
    return colours


def _converted(image: Any, profile: bytes) -> Any:
    """An opaque image in sRGB; None where it is that already, or its profile is damaged or of other colours."""
    from PIL import ImageCms

    try:
        given = ImageCms.getOpenProfile(BytesIO(profile))
        name = ImageCms.getProfileDescription(given).lower()
        # There are a Linear sRGB, and a "Display P3 Gamut with sRGB Transfer".
        if name.startswith("srgb") and "linear" not in name:
            return None
        converted: Any = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    converted.info.clear()  # of the new profile, which holds the time of day
    return converted


def _laid(image: Any, layout: Layout, variant: Variant) -> Any:
    """The picture on its canvas and background; in RGBA only where something shows through."""
    from PIL import Image

    background = variant.background or ("#ffffff" if variant.format == "jpeg" else None)
    if layout.canvas != image.size or (background and image.mode == "RGBA"):
        canvas = Image.new("RGBA", layout.canvas, background or (0, 0, 0, 0))
        if background:
            canvas.alpha_composite(image.convert("RGBA"), layout.at)
        else:
            canvas.paste(image, layout.at)
        image = canvas
    is_opaque = image.mode == "RGBA" and image.getchannel("A").getextrema()[0] == 255
    return image.convert("RGB") if is_opaque else image


def _encoded(image: Any, variant: Variant, xmp: bytes) -> bytes:
    import_module(_PLUGINS[variant.format])  # registers the format; without it Pillow loads all forty
    file = BytesIO()
    image.save(file, variant.format.upper(), **_options(variant, xmp))
    return file.getvalue()


_PLUGINS = {
    "webp": "PIL.WebPImagePlugin",
    "avif": "PIL.AvifImagePlugin",
    "jpeg": "PIL.JpegImagePlugin",
    "png": "PIL.PngImagePlugin",
}


def _options(variant: Variant, xmp: bytes) -> dict[str, Any]:
    """What the encoder is told."""
    quality = {"quality": variant.quality or DEFAULT_QUALITY.get(variant.format)}
    match variant.format:
        case "webp":
            return {**({"lossless": True} if variant.lossless else quality), "method": _WEBP_EFFORT, "xmp": xmp}
        case "avif":
            # The number of threads and of tiles would go into the bytes, and follow the machine's cores.
            return {**quality, "speed": _AVIF_SPEED, "max_threads": 1, "autotiling": False, "xmp": xmp}
        case "jpeg":
            return {**quality, "progressive": True, "extra": _jpeg_segment(xmp)}
        case "png":
            return {"pnginfo": _png_info(xmp)}


def _jpeg_segment(xmp: bytes) -> bytes:
    body = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body if xmp else b""


def _png_info(xmp: bytes) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if xmp:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return info
