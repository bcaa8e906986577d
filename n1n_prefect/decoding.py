"""Which of Pillow's decoders reads an image's pixels."""

from collections.abc import Callable
from importlib import import_module
from io import BytesIO
from typing import Any

_DECODERS = {
    "image/png": ("PngImagePlugin", "PngImageFile"),
    "image/jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "image/webp": ("WebPImagePlugin", "WebPImageFile"),
    "image/gif": ("GifImagePlugin", "GifImageFile"),
    "image/bmp": ("BmpImagePlugin", "BmpImageFile"),
    "image/avif": ("AvifImagePlugin", "AvifImageFile"),
}


def decoder_of(media_type: str) -> Callable[[BytesIO], Any] | None:
    """The file class of Pillow for a media type, or None where there is none; loads that one plugin alone.

    Calling it with a file reads the header. Unlike `PIL.Image.open` it tries no other format
    and raises no warning about the number of pixels, so that the caller must look at `width` and
    `height` before anything decodes them.

    Args:
        media_type: IANA media type by the bytes, as `inspection.media_type_of` gives it.
    """
    module, name = _DECODERS.get(media_type, ("", ""))
    try:
        plugin: Any = import_module(f"PIL.{module}") if module else None
    except ModuleNotFoundError as exc:
        if exc.name != "PIL.AvifImagePlugin":  # new in Pillow 11.3
            raise
        return None
    return getattr(plugin, name) if getattr(plugin, "SUPPORTED", bool(plugin)) else None
