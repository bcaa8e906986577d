"""What the bytes of an image are: media type, pixels, whole or damaged, blank, and marks of provenance.

Headers and structure are read here, from the bytes as they lie, without copies. Pillow is
loaded only where pixels must be decoded, and then by the one decoder that the bytes call
for: its own limit on pixels is process-wide and first heard of as a warning.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO
from itertools import islice
from struct import unpack_from
from typing import Any, NamedTuple

from pydantic.dataclasses import dataclass

MAX_PIXELS = 100_000_000
"""Most pixels that are looked at by default: five times the catalogue's largest image (12288x1536),
room for a 100-megapixel photograph as an input, and at most 400 MB once decoded."""

_BLANK_BYTES_PER_PIXEL = 0.08  # a single colour takes 0.003 (PNG) to 0.035 (JPEG at quality 100)
_MAX_BLOCKS = 100_000  # a 30 MB PNG in chunks of 8 kB has 4,000; a hostile one could have millions


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
    blocks = _blocks(data, media_type)
    width, height = _size(data, media_type, blocks)
    _refuse_bomb(width, height, max_pixels)
    damage = _damage(data, media_type, blocks) if structure else ""
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


class _Block(NamedTuple):
    """One chunk, segment or box; `end` is what its length says, and may lie beyond the file."""

    name: str
    start: int
    end: int


def _blocks(data: bytes, media_type: str) -> list[_Block]:
    walk = _WALKS.get(media_type)
    return list(islice(walk(data), _MAX_BLOCKS)) if walk else []


def _png_chunks(data: bytes) -> Iterator[_Block]:
    """Chunks from their type to behind their CRC."""
    at, name = 8, b""
    while name != b"IEND" and at + 8 <= len(data):
        length, name = unpack_from(">I4s", data, at)
        yield _Block(name.decode("latin-1"), at + 4, at + length + 12)
        at += length + 12


_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_EOI, _SOS = 0xD9, 0xDA
_STANDALONE = (0x01, *range(0xD0, 0xDA))  # TEM, RSTn, SOI and EOI have no length
_MARKER_NAMES = {
    _SOS: "SOS",
    **{0xC0 + n: f"SOF{n}" for n in range(16) if n not in (4, 8, 12)},
    **{0xE0 + n: f"APP{n}" for n in range(16)},
}


def _jpeg_segments(data: bytes) -> Iterator[_Block]:
    """Segments behind their length, up to the first scan, which is taken to reach to the end of the file."""
    at, marker = 2, 0
    while marker not in (_SOS, _EOI) and (found := _MARKER.match(data, at)):
        marker, at = found[1][0], found.end()
        if marker in _STANDALONE:
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        yield _Block(_MARKER_NAMES.get(marker, f"FF{marker:02X}"), at + 2, len(data) if marker == _SOS else end)
        at = end


def _riff_chunks(data: bytes) -> Iterator[_Block]:
    stop = min(len(data), int.from_bytes(data[4:8], "little") + 8)
    at = 12
    while at + 8 <= stop:
        name, length = unpack_from("<4sI", data, at)
        yield _Block(name.decode("latin-1"), at + 8, at + 8 + length)
        at += 8 + length + length % 2


def _iso_boxes(data: bytes, at: int = 0, stop: int | None = None) -> Iterator[_Block]:
    stop = len(data) if stop is None else min(stop, len(data))
    while at + 8 <= stop:
        length, name = unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= stop:
            head, length = 16, unpack_from(">Q", data, at + 8)[0]
        length = length or stop - at
        if length < head:
            return
        yield _Block(name.decode("latin-1"), at + head, at + length)
        at += length


def _gif_blocks(data: bytes) -> Iterator[_Block]:
    at = 13 + _colour_table(data, 10)
    while at < len(data):
        kind = data[at]
        if kind == 0x21:
            name, body = "extension", at + 2
        elif kind == 0x2C:
            name, body = "frame", at + 11 + _colour_table(data, at + 9)
        else:
            if kind == 0x3B:
                yield _Block("trailer", at, at + 1)
            return
        end = _after_sub_blocks(data, body)
        yield _Block(name, at + 1, end)
        at = end


def _colour_table(data: bytes, at: int) -> int:
    """Length in bytes of the colour table that the flags at an offset announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, at: int) -> int:
    while at < len(data) and (length := data[at]):
        at += length + 1
    return at + 1


_WALKS: dict[str, Callable[[bytes], Iterator[_Block]]] = {
    "image/png": _png_chunks,
    "image/jpeg": _jpeg_segments,
    "image/webp": _riff_chunks,
    "image/gif": _gif_blocks,
    "image/heic": _iso_boxes,
    "image/heif": _iso_boxes,
    "image/avif": _iso_boxes,
}
_PICTURE_BLOCKS = frozenset({"IDAT", "SOS", "VP8 ", "VP8L", "ANMF", "frame", "mdat"})


def _size(data: bytes, media_type: str, blocks: list[_Block]) -> tuple[int, int]:
    try:
        return _SIZES[media_type](data, blocks)
    except (struct.error, IndexError, StopIteration):
        return 0, 0


def _png_size(data: bytes, blocks: list[_Block]) -> tuple[int, int]:
    return unpack_from(">II", data, 16) if blocks[0].name == "IHDR" else (0, 0)


def _jpeg_size(data: bytes, blocks: list[_Block]) -> tuple[int, int]:
    frame = next(block for block in blocks if block.name.startswith("SOF"))
    height, width = unpack_from(">HH", data, frame.start + 1)
    return width, height


def _webp_size(data: bytes, blocks: list[_Block]) -> tuple[int, int]:
    name, start, _ = blocks[0]
    if name == "VP8X":
        low_width, high_width, low_height, high_height = unpack_from("<HBHB", data, start + 4)
        return (high_width << 16 | low_width) + 1, (high_height << 16 | low_height) + 1
    if name == "VP8L":
        (bits,) = unpack_from("<I", data, start + 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == "VP8 ":
        width, height = unpack_from("<HH", data, start + 6)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _gif_size(data: bytes, blocks: list[_Block]) -> tuple[int, int]:
    """The screen, widened to hold the first frame as decoders do."""
    width, height = unpack_from("<HH", data, 6)
    for frame in (block for block in blocks if block.name == "frame"):
        left, top, frame_width, frame_height = unpack_from("<4H", data, frame.start)
        return max(width, left + frame_width), max(height, top + frame_height)
    return width, height


def _iso_size(data: bytes, blocks: list[_Block]) -> tuple[int, int]:
    """The largest of the extents: the others are tiles and thumbnails."""
    properties = _children(data, _children(data, _children(data, blocks, "meta", 4), "iprp"), "ipco")
    extents = [unpack_from(">II", data, block.start + 4) for block in properties if block.name == "ispe"]
    return max(extents, key=lambda extent: extent[0] * extent[1], default=(0, 0))


def _children(data: bytes, boxes: list[_Block], name: str, skip: int = 0) -> list[_Block]:
    inside = (_iso_boxes(data, box.start + skip, box.end) for box in boxes if box.name == name)
    return [child for children in inside for child in islice(children, _MAX_BLOCKS)]


def _bmp_size(data: bytes, _: list[_Block]) -> tuple[int, int]:
    if data[14] == 12:
        return unpack_from("<HH", data, 18)
    width, height = unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _tiff_size(data: bytes, _: list[_Block]) -> tuple[int, int]:
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = unpack_from(f"{order}I", data, 4)
    (count,) = unpack_from(f"{order}H", data, directory)
    edges: dict[int, int] = {}
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = unpack_from(f"{order}HH", data, at)
        (edges[tag],) = unpack_from(f"{order}H" if kind == 3 else f"{order}I", data, at + 8)
    return edges.get(256, 0), edges.get(257, 0)


_SIZES: dict[str, Callable[[bytes, list[_Block]], tuple[int, int]]] = {
    "image/png": _png_size,
    "image/jpeg": _jpeg_size,
    "image/webp": _webp_size,
    "image/gif": _gif_size,
    "image/heic": _iso_size,
    "image/heif": _iso_size,
    "image/avif": _iso_size,
    "image/bmp": _bmp_size,
    "image/tiff": _tiff_size,
}


def _damage(data: bytes, media_type: str, blocks: list[_Block]) -> str:
    if media_type not in _WALKS:
        return ""
    for name, start, end in blocks:
        if end > len(data):
            return f"truncated: {name!r} at byte {start} should end at byte {end}, and the file ends at {len(data)}"
    check = _CHECKS.get(media_type)
    damage = check(data, blocks) if check else ""
    if not damage and not any(block.name in _PICTURE_BLOCKS for block in blocks):
        return f"truncated or damaged: no picture data found in its {len(data)} bytes"
    return damage


def _png_damage(data: bytes, blocks: list[_Block]) -> str:
    view = memoryview(data)
    for name, start, end in blocks:
        if zlib.crc32(view[start : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return f"damaged: chunk {name!r} at byte {start} fails its CRC"
    if not blocks or blocks[-1].name != "IEND":
        return f"truncated: the PNG's {len(data)} bytes have no IEND chunk"
    return ""


def _jpeg_damage(data: bytes, blocks: list[_Block]) -> str:
    # What follows the first end marker (other pictures of a set, a film, padding) is not our image.
    if not blocks or data.endswith(b"\xff\xd9") or data.find(b"\xff\xd9", blocks[-1].start) >= 0:
        return ""
    return f"truncated: the JPEG's {len(data)} bytes have no EOI marker"


def _webp_damage(data: bytes, _: list[_Block]) -> str:
    promised = int.from_bytes(data[4:8], "little") + 8
    return f"truncated: its RIFF header promises {promised} bytes of {len(data)}" if promised > len(data) else ""


def _gif_damage(data: bytes, blocks: list[_Block]) -> str:
    if blocks and blocks[-1].name == "trailer":
        return ""
    return f"truncated or damaged: the GIF's {len(data)} bytes do not lead to a trailer"


_CHECKS: dict[str, Callable[[bytes, list[_Block]], str]] = {
    "image/png": _png_damage,
    "image/jpeg": _jpeg_damage,
    "image/webp": _webp_damage,
    "image/gif": _gif_damage,
}

_XMP_BLOCKS = ("iTXt", "APP1", "XMP ")
_SOURCE_TYPE = re.compile(rb"/digitalsourcetype/(\w{1,64})")
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_GOOGLE = "Made with Google AI"


def _provenance(data: bytes, blocks: list[_Block]) -> tuple[str, ...]:
    return tuple(sorted({mark for block in blocks for mark in _marks(data, block)}))


def _marks(data: bytes, block: _Block) -> Iterator[str]:
    if block.name in _PICTURE_BLOCKS:
        return
    if _is_c2pa(data, block):
        yield "C2PA"
    if data.find(_GOOGLE.encode(), block.start, block.end) >= 0:
        yield _GOOGLE
    if block.name in _XMP_BLOCKS:
        for found in _SOURCE_TYPE.finditer(data, block.start, block.end):
            yield f"IPTC {found[1].decode()}"


def _is_c2pa(data: bytes, block: _Block) -> bool:
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


_DECODERS = {
    "image/png": ("PngImagePlugin", "PngImageFile"),
    "image/jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "image/webp": ("WebPImagePlugin", "WebPImageFile"),
    "image/gif": ("GifImagePlugin", "GifImageFile"),
    "image/bmp": ("BmpImagePlugin", "BmpImageFile"),
    "image/avif": ("AvifImagePlugin", "AvifImageFile"),
}
_MAX_SPREAD = 4  # of 255, between averages of 8x8 pixels: a navy WebP at quality 75 has that much
_MAX_NOISE = 16  # of 255, between single pixels


def _may_be_blank(data: bytes, blocks: list[_Block], pixels: int) -> bool:
    """Whether the picture takes so few bytes, metadata apart, that it could be a single colour."""
    picture = sum(block.end - block.start for block in blocks if block.name in _PICTURE_BLOCKS) or len(data)
    return picture < _BLANK_BYTES_PER_PIXEL * pixels


def _look(data: bytes, media_type: str, *, decode: bool, blank: bool, max_pixels: int) -> _Pixels:
    decoder = _decoder(media_type)
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


def _decoder(media_type: str) -> Callable[[BytesIO], Any] | None:
    """The file class of Pillow for a media type; opening through it raises no warning about the size."""
    module, name = _DECODERS.get(media_type, ("", ""))
    try:
        plugin: Any = import_module(f"PIL.{module}") if module else None
    except ModuleNotFoundError as exc:
        if exc.name != "PIL.AvifImagePlugin":  # new in Pillow 11.3
            raise
        return None
    return getattr(plugin, name) if getattr(plugin, "SUPPORTED", bool(plugin)) else None


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
