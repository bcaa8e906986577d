"""What the bytes of an image are: media type, pixels, whole or damaged, blank, and marks of provenance.

Headers and structure are read by `containers`, from the bytes as they lie. Pillow is loaded only
where pixels must be decoded, and then the one decoder that the bytes call for: its own limit on
pixels is process-wide and first heard of as a warning.
"""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple

from pydantic.dataclasses import dataclass

from n1n_prefect.containers import PICTURE_BLOCKS, Block, blocks_of, damage_in, size_of
from n1n_prefect.decoding import decoder_of

MAX_PIXELS = 100_000_000
"""Most pixels that are looked at by default: five times the catalogue's largest image (12288x1536),
room for a 100-megapixel photograph as an input, and at most 400 MB once decoded."""

_BLANK_BYTES_PER_PIXEL = 0.08  # a single colour takes 0.003 (PNG) to 0.035 (JPEG at quality 100)


class NotAnImageError(ValueError):
    """The bytes are no image of a kind we know; the message shows how they begin."""


class TooManyPixelsError(NotAnImageError):
    """The header declares more pixels than allowed; nothing was decoded."""


@dataclass(frozen=True)
class Inspection:
    """What one file's bytes were found to be."""

    media_type: str
    """IANA media type by the bytes, such as `image/png`."""

    width: int
    """Pixels as stored, before any EXIF orientation is applied; 0 where the header is cut or broken."""

    height: int
    """Pixels as stored, before any EXIF orientation is applied; 0 where the header is cut or broken."""

    size_bytes: int
    """Length of the file in bytes."""

    damage: str = ""
    """Empty for a whole file, else what is wrong with it in one sentence."""

    blank: bool | None = None
    """Whether it is a single colour or fully transparent; None where that was not looked at."""

    provenance: tuple[str, ...] = ()
    """Marks that are present, such as `C2PA` or `IPTC trainedAlgorithmicMedia`; no signature is verified."""

    decoded: bool = False
    """Whether every pixel was decoded without an error."""


def inspect(
    data: bytes,
    *,
    structure: bool = True,
    decode: bool = False,
    blank: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Inspection:
    """What the bytes are; without `decode`, and for all but suspiciously small files, no pixel is decoded.

    A file that starts as an image and is cut or broken later comes back with its `damage`.
    Once damage is found, no pixel is decoded. Of an animation the first picture is decoded.
    There are decoders for PNG, JPEG, WebP, GIF, BMP and AVIF (Pillow 11.3 or later).

    Args:
        data: The whole file.
        structure: Check lengths, checksums and end markers: one pass of CRC-32 for a PNG, far less for the others.
            A BMP or TIFF has none, so that only its header is read.
        decode: Decode every pixel, about 45 ms of CPU for 1024².
        blank: Look whether it is a single colour. Without `decode` only a file with less than 0.08 bytes of
            picture data a pixel is decoded for it; any other is not blank.
        max_pixels: Most pixels that the header may declare, inclusive.

    Raises:
        NotAnImageError: The bytes are no image.
        TooManyPixelsError: The header declares more than `max_pixels`.
    """
    media_type = media_type_of(data)
    if media_type is None:
        raise NotAnImageError(_description(data))
    blocks = blocks_of(data, media_type)
    width, height = size_of(data, media_type, blocks)
    _refuse_bomb(width, height, max_pixels)
    damage = damage_in(data, media_type, blocks) if structure else ""
    if not damage and not (width and height):
        damage = f"truncated or damaged: the header of its {len(data)} bytes gives no width and height"
    if damage:
        seen = _Pixels(damage)
    elif decode or (blank and _may_be_blank(data, blocks, width * height)):
        seen = _look(data, media_type, decode=decode, blank=blank, max_pixels=max_pixels)
    else:
        seen = _Pixels(blank=False if blank else None)
    return Inspection(
        media_type, width, height, len(data), seen.damage, seen.blank, _provenance(data, blocks), seen.decoded
    )


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_ISO_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "image/heic"),
}
_EXTENSIONS = {"image/jpeg": "jpg", "image/jpg": "jpg", "image/tiff": "tiff"} | {
    f"image/{name}": name for name in ("png", "webp", "gif", "heic", "heif", "avif", "bmp")
}


def media_type_of(data: bytes) -> str | None:
    """IANA media type by the first bytes, or None for bytes that are no image of a kind we know."""
    for magic, media_type in _MAGIC:
        if data.startswith(magic):
            return media_type
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return _iso_media_type(data)
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    return None


def _iso_media_type(data: bytes) -> str | None:
    major, end = data[8:12], min(int.from_bytes(data[:4], "big"), 256)
    if major not in (b"mif1", b"msf1"):
        return _ISO_BRANDS.get(major)
    compatible = (data[start : start + 4] for start in range(16, end, 4))
    return next((_ISO_BRANDS[brand] for brand in compatible if brand in _ISO_BRANDS), "image/heif")


def extension_of(media_type: str) -> str:
    """File extension without its dot, such as `jpg` for `image/jpeg`; `bin` for what is no image type we know."""
    return _EXTENSIONS.get(media_type.lower(), "bin")


_LOOKALIKES = (
    ((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--"), "an HTML page: a proxy or login page came instead"),
    ((b"{", b"["), "JSON: read the error that it may hold"),
    ((b"<?xml", b"<svg"), "XML or SVG: convert it to a picture of pixels"),
    ((b"data:", b"ivborw0kggo", b"/9j/", b"uklgr"), "base64 text: decode it first"),
)


def _description(data: bytes) -> str:
    if not data:
        return "0 bytes that are no image: the file is empty"
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    looks = next((f"; they look like {what}" for signs, what in _LOOKALIKES if start.startswith(signs)), "")
    return f"{len(data)} bytes that are no image and begin with {data[:24]!r}{looks}"


def _refuse_bomb(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{width}x{height} = {width * height} pixels by its header, more than max_pixels={max_pixels}; "
            "nothing was decoded, raise max_pixels if that is meant"
        )


_XMP_BLOCKS = ("iTXt", "APP1", "XMP ")
_SOURCE_TYPE = re.compile(rb"/digitalsourcetype/(\w{1,64})")
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_GOOGLE = "Made with Google AI"


def _provenance(data: bytes, blocks: list[Block]) -> tuple[str, ...]:
    return tuple(sorted({mark for block in blocks for mark in _marks(data, block)}))


def _marks(data: bytes, block: Block) -> Iterator[str]:
    if block.name in PICTURE_BLOCKS:
        return
    if _is_c2pa(data, block):
        yield "C2PA"
    if data.find(_GOOGLE.encode(), block.start, block.end) >= 0:
        yield _GOOGLE
    if block.name in _XMP_BLOCKS:
        for found in _SOURCE_TYPE.finditer(data, block.start, block.end):
            yield f"IPTC {found[1].decode()}"


def _is_c2pa(data: bytes, block: Block) -> bool:
    if block.name == "APP11":
        return data.find(b"c2pa", block.start, block.end) >= 0
    if block.name == "uuid":
        return data.startswith(_C2PA_UUID, block.start)
    return block.name in ("caBX", "C2PA")


class _Pixels(NamedTuple):
    """What decoding told."""

    damage: str = ""
    blank: bool | None = None
    decoded: bool = False


_MAX_SPREAD = 4  # of 255, between averages of 8x8 pixels: a navy WebP at quality 75 has that much
_MAX_NOISE = 16  # of 255, between single pixels


def _may_be_blank(data: bytes, blocks: list[Block], pixels: int) -> bool:
    """Whether the picture takes so few bytes, metadata apart, that it could be a single colour."""
    picture = sum(block.end - block.start for block in blocks if block.name in PICTURE_BLOCKS) or len(data)
    return picture < _BLANK_BYTES_PER_PIXEL * pixels


def _look(data: bytes, media_type: str, *, decode: bool, blank: bool, max_pixels: int) -> _Pixels:
    decoder = decoder_of(media_type)
    if decoder is None:
        return _Pixels()
    try:
        image = decoder(BytesIO(data))
        _refuse_bomb(image.width, image.height, max_pixels)
        if not decode and media_type == "image/jpeg":
            if _spread(_eighth(image)) > _MAX_SPREAD:
                return _Pixels(blank=False)
            image = decoder(BytesIO(data))
        image.load()
        return _Pixels(blank=_is_single_colour(image) if blank else None, decoded=True)
    except (MemoryError, TooManyPixelsError):
        raise
    except Exception as exc:  # noqa: BLE001  decoders raise whatever they like on hostile bytes
        return _Pixels(damage=f"damaged: it does not decode ({exc})")


def _eighth(image: Any) -> Any:
    """A JPEG at an eighth of its edges, which skips most of the decoding."""
    image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
    return image


def _is_single_colour(image: Any) -> bool:
    if image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA")
    if image.mode.startswith(("I", "F")):
        least, most = image.getextrema()
        return least == most
    if image.mode in ("LA", "RGBA") and not image.getextrema()[-1][1]:
        return True
    return _spread(image) <= _MAX_NOISE and _spread(image.reduce(8)) <= _MAX_SPREAD


def _spread(image: Any) -> int:
    """The most that a channel varies over the image."""
    extrema = image.getextrema()
    return max(most - least for least, most in (extrema if len(image.getbands()) > 1 else (extrema,)))
