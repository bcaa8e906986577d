"""A picture of an image, small enough to travel in a report."""

import base64
from importlib import import_module
from io import BytesIO
from typing import Any

from n1n_prefect.decoding import decoder_of
from n1n_prefect.inspection import MAX_PIXELS, inspect

MAX_BYTES = 40_000
"""Length of a thumbnail in bytes, at most."""

_QUALITIES = (75, 50, 25)
_SMALLEST_EDGE = 32  # below it nothing can be recognised
_METHOD = 2  # a third faster than WebP's usual effort of 4, and 3 % longer
_REDUCING_GAP = 1.5  # lets a JPEG of 1024 pixels be decoded at half its size; no difference to be seen


def thumbnail(data: bytes, *, edge: int = 320, max_bytes: int = MAX_BYTES) -> bytes | None:
    """A small upright WebP of an image, with its transparency and without its metadata.

    Of an animation it shows the first picture. A smaller image is not enlarged. Costs about
    35 ms of CPU for a PNG of 1024² and 10 ms for a JPEG.

    Args:
        data: The whole file.
        edge: Longest side in pixels, at most.
        max_bytes: Length in bytes, at most; first the quality gives way, then the size.

    Returns:
        The file, or None where there is none to be had: the bytes are damaged or no image that
        can be decoded, declare more pixels than are looked at, or `max_bytes` is too few.
    """
    image = _shrunk(data, edge)
    return None if image is None else _encoded(image, max_bytes)


def data_uri(webp: bytes) -> str:
    """A WebP file as an address that browsers show without fetching anything."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def _shrunk(data: bytes, edge: int) -> Any:
    """A Pillow image within `edge`, or None."""
    try:
        decoder = decoder_of(inspect(data, structure=False, blank=False).media_type)
        if decoder is None:
            return None
        image = decoder(BytesIO(data))
        if image.width * image.height > MAX_PIXELS:  # a WebP's frame and its header may disagree
            return None
        image = _in_colour(image)
        image.thumbnail((edge, edge), reducing_gap=_REDUCING_GAP)
        image.load()  # a small one was not decoded yet
        return _upright(image)
    except Exception:  # noqa: BLE001  decoders raise whatever they like on hostile bytes
        return None


def _in_colour(image: Any) -> Any:
    """The image in a mode that can be scaled smoothly; left undecoded where it is in one."""
    if image.mode in ("RGB", "RGBA", "L", "LA"):
        return image
    if image.mode.startswith("I"):
        return image.point(_high_byte).convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _high_byte(grey: Any) -> Any:
    """The upper 8 of 16 bits; a product, since that is what Pillow can apply to so many values."""
    return grey * (1 / 256)


def _upright(image: Any) -> Any:
    """The image turned as its EXIF orientation says, which is cheapest once it is small."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001  damaged EXIF says nothing, and hides no picture
        return image


def _encoded(image: Any, max_bytes: int) -> bytes | None:
    while True:
        for quality in _QUALITIES:
            webp = _webp(image, quality)
            if len(webp) <= max_bytes:
                return webp
        edge = max(image.size) * 3 // 4
        if edge < _SMALLEST_EDGE:
            return None
        image.thumbnail((edge, edge))


def _webp(image: Any, quality: int) -> bytes:
    import_module("PIL.WebPImagePlugin")  # registers the format; without it Pillow loads all forty
    file = BytesIO()
    image.save(file, "WEBP", quality=quality, alpha_quality=quality, method=_METHOD)
    return file.getvalue()
