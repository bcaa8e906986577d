"""How the file around a picture is built: its blocks, the pixels it declares, and where it is cut or damaged.

Read from the bytes as they lie, without copies; no pixel is decoded.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from struct import unpack_from
from typing import NamedTuple

_MAX_BLOCKS = 100_000  # a 30 MB PNG in chunks of 8 kB has 4,000; a hostile one could have millions


class Block(NamedTuple):
    """One chunk, segment or box of a file."""

    name: str
    """What the format calls it, such as `IDAT`, `SOF0` or `mdat`; ours for a GIF, whose blocks have no names."""

    start: int
    """Where its content begins, in bytes from the file's first; for a PNG, where its type does."""

    end: int
    """Where its length says it ends, in bytes and exclusive; this may lie beyond the file."""


def blocks_of(data: bytes, media_type: str) -> list[Block]:
    """The blocks of a file in order, 100,000 at most; none for a media type that is not built of them."""
    walk = _WALKS.get(media_type)
    return list(islice(walk(data), _MAX_BLOCKS)) if walk else []


def _png_chunks(data: bytes) -> Iterator[Block]:
    """Chunks from their type to behind their CRC."""
    at, name = 8, b""
    while name != b"IEND" and at + 8 <= len(data):
        length, name = unpack_from(">I4s", data, at)
        yield Block(name.decode("latin-1"), at + 4, at + length + 12)
        at += length + 12


_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_EOI, _SOS = 0xD9, 0xDA
_STANDALONE = (0x01, *range(0xD0, 0xDA))  # TEM, RSTn, SOI and EOI have no length
_MARKER_NAMES = {
    _SOS: "SOS",
    **{0xC0 + n: f"SOF{n}" for n in range(16) if n not in (4, 8, 12)},
    **{0xE0 + n: f"APP{n}" for n in range(16)},
}


def _jpeg_segments(data: bytes) -> Iterator[Block]:
    """Segments behind their length, up to the first scan, which is taken to reach to the end of the file."""
    at, marker = 2, 0
    while marker not in (_SOS, _EOI) and (found := _MARKER.match(data, at)):
        marker, at = found[1][0], found.end()
        if marker in _STANDALONE:
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        yield Block(_MARKER_NAMES.get(marker, f"FF{marker:02X}"), at + 2, len(data) if marker == _SOS else end)
        at = end


def _riff_chunks(data: bytes) -> Iterator[Block]:
    stop = min(len(data), int.from_bytes(data[4:8], "little") + 8)
    at = 12
    while at + 8 <= stop:
        name, length = unpack_from("<4sI", data, at)
        yield Block(name.decode("latin-1"), at + 8, at + 8 + length)
        at += 8 + length + length % 2


def _iso_boxes(data: bytes, at: int = 0, stop: int | None = None) -> Iterator[Block]:
    stop = len(data) if stop is None else min(stop, len(data))
    while at + 8 <= stop:
        length, name = unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= stop:
            head, length = 16, unpack_from(">Q", data, at + 8)[0]
        length = length or stop - at
        if length < head:
            return
        yield Block(name.decode("latin-1"), at + head, at + length)
        at += length


def _gif_blocks(data: bytes) -> Iterator[Block]:
    at = 13 + _colour_table(data, 10)
    while at < len(data):
        kind = data[at]
        if kind == 0x21:
            name, body = "extension", at + 2
        elif kind == 0x2C:
            name, body = "frame", at + 11 + _colour_table(data, at + 9)
        else:
            if kind == 0x3B:
                yield Block("trailer", at, at + 1)
            return
        end = _after_sub_blocks(data, body)
        yield Block(name, at + 1, end)
        at = end


def _colour_table(data: bytes, at: int) -> int:
    """Length in bytes of the colour table that the flags at an offset announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, at: int) -> int:
    while at < len(data) and (length := data[at]):
        at += length + 1
    return at + 1


_WALKS: dict[str, Callable[[bytes], Iterator[Block]]] = {
    "image/png": _png_chunks,
    "image/jpeg": _jpeg_segments,
    "image/webp": _riff_chunks,
    "image/gif": _gif_blocks,
    "image/heic": _iso_boxes,
    "image/heif": _iso_boxes,
    "image/avif": _iso_boxes,
}
PICTURE_BLOCKS = frozenset({"IDAT", "SOS", "VP8 ", "VP8L", "ANMF", "frame", "mdat"})
"""Names of the blocks that hold the picture itself."""


def size_of(data: bytes, media_type: str, blocks: list[Block]) -> tuple[int, int]:
    """Width and height in pixels, as the header declares them; zeros where it is cut or broken."""
    try:
        return _SIZES[media_type](data, blocks)
    except (struct.error, IndexError, StopIteration):
        return 0, 0


def _png_size(data: bytes, blocks: list[Block]) -> tuple[int, int]:
    return unpack_from(">II", data, 16) if blocks[0].name == "IHDR" else (0, 0)


def _jpeg_size(data: bytes, blocks: list[Block]) -> tuple[int, int]:
    frame = next(block for block in blocks if block.name.startswith("SOF"))
    height, width = unpack_from(">HH", data, frame.start + 1)
    return width, height


def _webp_size(data: bytes, blocks: list[Block]) -> tuple[int, int]:
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


def _gif_size(data: bytes, blocks: list[Block]) -> tuple[int, int]:
    """The screen, widened to hold the first frame as decoders do."""
    width, height = unpack_from("<HH", data, 6)
    for frame in (block for block in blocks if block.name == "frame"):
        left, top, frame_width, frame_height = unpack_from("<4H", data, frame.start)
        return max(width, left + frame_width), max(height, top + frame_height)
    return width, height


def _iso_size(data: bytes, blocks: list[Block]) -> tuple[int, int]:
    """The largest of the extents: the others are tiles and thumbnails."""
    properties = _children(data, _children(data, _children(data, blocks, "meta", 4), "iprp"), "ipco")
    extents = [unpack_from(">II", data, block.start + 4) for block in properties if block.name == "ispe"]
    return max(extents, key=lambda extent: extent[0] * extent[1], default=(0, 0))


def _children(data: bytes, boxes: list[Block], name: str, skip: int = 0) -> list[Block]:
    inside = (_iso_boxes(data, box.start + skip, box.end) for box in boxes if box.name == name)
    return [child for children in inside for child in islice(children, _MAX_BLOCKS)]


def _bmp_size(data: bytes, _: list[Block]) -> tuple[int, int]:
    if data[14] == 12:
        return unpack_from("<HH", data, 18)
    width, height = unpack_from("<ii", data, 18)
    return abs(width), abs(height)


def _tiff_size(data: bytes, _: list[Block]) -> tuple[int, int]:
    order = "<" if data.startswith(b"II") else ">"
    (directory,) = unpack_from(f"{order}I", data, 4)
    (count,) = unpack_from(f"{order}H", data, directory)
    edges: dict[int, int] = {}
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = unpack_from(f"{order}HH", data, at)
        (edges[tag],) = unpack_from(f"{order}H" if kind == 3 else f"{order}I", data, at + 8)
    return edges.get(256, 0), edges.get(257, 0)


_SIZES: dict[str, Callable[[bytes, list[Block]], tuple[int, int]]] = {
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


def damage_in(data: bytes, media_type: str, blocks: list[Block]) -> str:
    """What lengths, checksums and end markers show to be wrong, in one sentence; empty for a whole file."""
    if media_type not in _WALKS:
        return ""
    for name, start, end in blocks:
        if end > len(data):
            return f"truncated: {name!r} at byte {start} should end at byte {end}, and the file ends at {len(data)}"
    check = _CHECKS.get(media_type)
    damage = check(data, blocks) if check else ""
    if not damage and not any(block.name in PICTURE_BLOCKS for block in blocks):
        return f"truncated or damaged: no picture data found in its {len(data)} bytes"
    return damage


def _png_damage(data: bytes, blocks: list[Block]) -> str:
    view = memoryview(data)
    for name, start, end in blocks:
        if zlib.crc32(view[start : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return f"damaged: chunk {name!r} at byte {start} fails its CRC"
    if not blocks or blocks[-1].name != "IEND":
        return f"truncated: the PNG's {len(data)} bytes have no IEND chunk"
    return ""


def _jpeg_damage(data: bytes, blocks: list[Block]) -> str:
    # What follows the first end marker (other pictures of a set, a film, padding) is not our image.
    if not blocks or data.endswith(b"\xff\xd9") or data.find(b"\xff\xd9", blocks[-1].start) >= 0:
        return ""
    return f"truncated: the JPEG's {len(data)} bytes have no EOI marker"


def _webp_damage(data: bytes, _: list[Block]) -> str:
    promised = int.from_bytes(data[4:8], "little") + 8
    return f"truncated: its RIFF header promises {promised} bytes of {len(data)}" if promised > len(data) else ""


def _gif_damage(data: bytes, blocks: list[Block]) -> str:
    if blocks and blocks[-1].name == "trailer":
        return ""
    return f"truncated or damaged: the GIF's {len(data)} bytes do not lead to a trailer"


_CHECKS: dict[str, Callable[[bytes, list[Block]], str]] = {
    "image/png": _png_damage,
    "image/jpeg": _jpeg_damage,
    "image/webp": _webp_damage,
    "image/gif": _gif_damage,
}
