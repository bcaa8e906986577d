"""What the local gateway draws: real, readable pictures that say what was asked for."""

import base64
import hashlib
import threading
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from n1n_prefect.testing.encoding import commented_base64, encode, split
from n1n_prefect.testing.scenery import scene

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

Size = tuple[int, int]
_LEGIBLE_EDGE = 100  # pixels; there is no room for words on a smaller picture
_LONGEST_PROMPT = 700  # characters; no picture holds more in a readable size


class UnreadableInputError(Exception):
    """An input image could not be decoded; `index` counts from zero."""

    def __init__(self, index: int = 0) -> None:
        super().__init__(f"input image {index} cannot be decoded")
        self.index = index


@dataclass(frozen=True)
class Picture:
    """One picture to draw."""

    width: int
    """Pixels."""

    height: int
    """Pixels."""

    media_type: str = "image/png"
    """`image/png` or `image/jpeg`."""

    prompt: str = ""
    """Written onto the picture, and the seed of its scenery."""

    caption: str = ""
    """A small line below the prompt."""

    inputs: tuple[bytes, ...] = ()
    """Files of input images, shown as framed photographs."""

    number: int | None = None
    """Written into the corner, so that no two answers are equal; None where equal requests draw equal bytes."""

    blank: bool = False
    """Whether to draw nothing but one colour."""


class Drawing:
    """Draws pictures, or hands out prepared ones.

    Args:
        grain: Whether pictures have a photograph's noise and so its file size, about 1.5 MB for a PNG of 1024².
        canned: Whether to draw one picture for each size and media type and to serve it again for every
            prompt, with only a comment inside that holds the call's number. Inputs are then not decoded.
    """

    def __init__(self, *, grain: bool = True, canned: bool = False) -> None:
        self.grain = grain
        self.canned = canned
        self._prepared: dict[Picture, tuple[bytes, str]] = {}
        self._preparing = threading.Lock()

    def draw(self, picture: Picture) -> bytes:
        """The file of a picture, drawn anew.

        Raises:
            UnreadableInputError: One of its input images cannot be decoded.
        """
        from PIL import Image

        size = picture.width, picture.height
        if picture.blank:
            return encode(Image.new("RGB", size, (128, 128, 128)), picture.media_type)
        canvas = scene(seed_of(picture.prompt), size, grain=self.grain)
        if min(size) >= _LEGIBLE_EDGE:
            _fill(canvas, picture)
        return encode(canvas, picture.media_type)

    def draw_base64(self, picture: Picture) -> str:
        """The base64 of a picture's file, drawn or prepared."""
        if not self.canned:
            return base64.b64encode(self.draw(picture)).decode()
        head, rest = self._prepare(picture)
        comment = "prepared picture" if picture.number is None else f"prepared picture, call {picture.number}"
        return commented_base64(head, comment, rest)

    def _prepare(self, picture: Picture) -> tuple[bytes, str]:
        plain = Picture(picture.width, picture.height, picture.media_type, "A prepared picture", blank=picture.blank)
        with self._preparing:
            if plain not in self._prepared:
                head, rest = split(self.draw(plain))
                self._prepared[plain] = head, base64.b64encode(rest).decode()
            return self._prepared[plain]


def seed_of(prompt: str) -> int:
    """The number that a prompt's scenery grows from."""
    return int.from_bytes(hashlib.sha256(prompt.encode(errors="replace")).digest()[:8], "big")


def _fill(canvas: "Image", picture: Picture) -> None:
    wall = canvas.width, _write(canvas, picture)
    if picture.inputs:
        _hang(canvas, picture.inputs, wall)
    if picture.number is not None:
        _badge(canvas, f"call {picture.number}")


def _write(canvas: "Image", picture: Picture) -> int:
    """Writes prompt, caption and number; returns the row in pixels where the panel of words begins."""
    from PIL import ImageDraw

    width, height = canvas.size
    margin = size = _letter_size(canvas)
    words, small = _font(size), _font(max(9, size * 2 // 3))
    most = max(1, int(height * 0.4 / (size * 1.3)) - 2)
    lines = _wrapped(picture.prompt, words, width - 4 * margin, most)
    top = height - margin - int((len(lines) + 1.6) * size * 1.3)
    pen = ImageDraw.Draw(canvas, "RGBA")
    pen.rounded_rectangle((margin, top, width - margin, height - margin), size // 2, fill=(12, 14, 24, 176))
    for number, line in enumerate(lines):
        pen.text((2 * margin, top + size * (0.5 + 1.3 * number)), line, (255, 255, 255), words)
    caption = _wrapped(picture.caption, small, width - 4 * margin, 1)
    pen.text((2 * margin, top + size * (0.7 + 1.3 * len(lines))), caption[0], (214, 220, 232), small)
    return top


def _letter_size(canvas: "Image") -> int:
    return max(10, min(canvas.size) // 22)


def _badge(canvas: "Image", text: str) -> None:
    from PIL import ImageDraw

    margin = _letter_size(canvas)
    font, pad = _font(max(9, margin * 2 // 3)), margin // 2
    left, right = int(canvas.width - margin - font.getlength(text) - 2 * pad), canvas.width - margin
    pen = ImageDraw.Draw(canvas, "RGBA")
    pen.rounded_rectangle((left, margin, right, margin * 5 // 2), pad, fill=(12, 14, 24, 150))
    pen.text((left + pad, margin + pad // 2), text, (255, 255, 255), font)


def _hang(canvas: "Image", inputs: tuple[bytes, ...], wall: Size) -> None:
    """Hangs the input images onto the wall, framed in white, as large as a grid lets them be."""
    columns = max(range(1, len(inputs) + 1), key=lambda columns: _roominess(columns, len(inputs), wall))
    cell = wall[0] // columns, wall[1] // -(-len(inputs) // columns)
    for index, data in enumerate(inputs):
        photo = _photo(data, index, (max(1, cell[0] * 4 // 5), max(1, cell[1] * 4 // 5)))
        x = index % columns * cell[0] + (cell[0] - photo.width) // 2
        y = index // columns * cell[1] + (cell[1] - photo.height) // 2
        _frame(canvas, (x, y), photo)


def _roominess(columns: int, count: int, wall: Size) -> float:
    rows = -(-count // columns)
    return min(wall[0] / columns, wall[1] / rows)


def _frame(canvas: "Image", corner: tuple[int, int], photo: "Image") -> None:
    from PIL import ImageDraw

    x, y = corner
    wide = max(2, min(photo.size) // 24)
    left, top, right, bottom = x - wide, y - wide, x + photo.width + wide - 1, y + photo.height + wide - 1
    pen = ImageDraw.Draw(canvas, "RGBA")
    pen.rectangle((left + wide, top + wide, right + wide, bottom + wide), fill=(0, 0, 0, 90))
    pen.rectangle((left, top, right, bottom), fill=(250, 250, 246, 255))
    canvas.paste(photo, corner)


def _photo(data: bytes, index: int, size: Size) -> "Image":
    from PIL import Image, ImageOps

    if data[4:8] == b"ftyp":  # HEIC and HEIF, which Pillow does not read
        return Image.new("RGB", size, (176, 176, 170))
    try:
        with Image.open(BytesIO(data)) as opened:
            opened.draft("RGB", size)
            return ImageOps.contain(opened.convert("RGB"), size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise UnreadableInputError(index) from exc


@lru_cache(maxsize=32)
def _font(size: int) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _wrapped(text: str, font: "Font", width: float, most: int) -> list[str]:
    """The text in at most so many lines of at most so many pixels, with an ellipsis where it was cut."""
    lines = [""]
    for word in _plain(text).split():
        for piece in _pieces(word, font, width):
            longer = f"{lines[-1]} {piece}".strip()
            if font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
        if len(lines) > most:
            return [*lines[: most - 1], lines[most - 1] + "…"]
    return lines


def _pieces(word: str, font: "Font", width: float) -> list[str]:
    """A word, or its parts where it is wider than a line."""
    pieces: list[str] = []
    while len(word) > 1 and font.getlength(word) > width:
        ends = range(1, len(word))
        fits = max(1, bisect_right(ends, width, key=lambda end, word=word: font.getlength(word[:end])))
        pieces.append(word[:fits])
        word = word[fits:]
    return [*pieces, word]


def _plain(text: str) -> str:
    """The text without accents: Pillow's built-in font has none, and draws a box for other scripts."""
    folded = unicodedata.normalize("NFKD", text[:_LONGEST_PROMPT])
    return "".join(letter for letter in folded if not unicodedata.combining(letter))
