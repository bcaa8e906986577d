"""What is derived from an image: size, shape, format and quality of each variant, as values and as text."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast, get_args

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import InvalidRequestMeta
from n1n_prefect.inspection import MAX_PIXELS
from n1n_prefect.object_keys import check_key, extension_of

Mode = Literal["fit", "crop", "pad"]
Format = Literal["webp", "avif", "jpeg", "png"]
Gravity = Literal[
    "centre", "top", "bottom", "left", "right", "top-left", "top-right", "bottom-left", "bottom-right"
]  # fmt: skip

DEFAULT_QUALITY: Mapping[str, int] = {"webp": 80, "avif": 60, "jpeg": 85}
"""What is good enough for the web by format; the scales of the formats differ."""

MAX_VARIANTS = 20
"""Most variants of one image."""

_LONGEST_EDGE = 65_500  # of a JPEG, by libjpeg
_LONGEST_EDGES = {"webp": 16_383}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Variant(metaclass=InvalidRequestMeta):
    """One image to be derived from another: `Variant("thumb", 256, 256, "crop")`.

    As text, for a flow's parameter or a column, words in this order, what is in brackets where it is wanted:

        NAME=[MODE SIZE [GRAVITY] [enlarge]] [FORMAT] [QUALITY | lossless] [on COLOUR]

        thumb=crop 256x256 webp 80         the middle of the picture, 256x256
        banner=crop 1200x400 top jpeg      its upper part
        web=fit 1600 avif                  the whole picture within 1600x1600, never enlarged
        wide=fit 1600x webp                1600 wide and as high as that makes it; x900 is 900 high
        card=pad 800x600 jpeg on f4f4f4    the whole picture in the middle of 800x600
        print=png                          converted, and nothing else

    `str` of a variant gives that text, and `Variant.parse` reads it.

    Every variant is upright, in sRGB and without the original's metadata, but for its marks of
    provenance, see `n1n_prefect.derive`.
    """

    name: str
    """Stands in the key of each image derived by it: 1 to 40 letters, digits, `-` and `_`."""

    width: int | None = Field(default=None, gt=0, le=_LONGEST_EDGE)
    """Of the box, in pixels."""

    height: int | None = Field(default=None, gt=0, le=_LONGEST_EDGE)
    """Of the box, in pixels. `fit` needs one of both; without any the image is only converted."""

    mode: Mode = "fit"
    """`fit`: the whole picture within the box. `crop`: the box filled exactly, what is over is cut off, and a smaller
    picture is enlarged. `pad`: the whole picture within a canvas of exactly the box's size."""

    format: Format = "webp"
    """The file's format. AVIF needs Pillow 11.3 or later, with libavif."""

    quality: int | None = Field(default=None, ge=1, le=100)
    """1 to 100; by default 80 for WebP, 60 for AVIF, 85 for JPEG. A PNG has none."""

    lossless: bool = False
    """Whether a WebP keeps every pixel as it is; a PNG always does."""

    gravity: Gravity = "centre"
    """Which part of the picture `crop` keeps, or where `pad` puts it."""

    enlarge: bool = False
    """Whether `fit` and `pad` make a picture larger that is smaller than the box."""

    background: str | None = None
    """What lies under the picture where that is transparent, and around it in `pad`: `#rrggbb`, `#rgb`, `white` or
    `black`. By default nothing does, and white in a JPEG, which has no transparency."""

    @field_validator("name")
    @classmethod
    def _fit_for_keys(cls, name: str) -> str:
        if not re.fullmatch("[A-Za-z0-9_-]{1,40}", name):
            raise ValueError("a name is 1 to 40 letters of a-z, digits, '-' and '_'")
        return name

    @field_validator("background")
    @classmethod
    def _as_hex(cls, background: str | None) -> str | None:
        return None if background is None else _hex(background)

    def __post_init__(self) -> None:
        if self.mode != "fit" and not (self.width and self.height):
            raise InvalidRequestError(f"{self.mode} needs width and height; to give one of them alone use fit.")
        if self.width and self.height:
            self.check_size(self.width, self.height)
        for is_idle, what in (
            (self.mode == "fit" and self.gravity != "centre", f"gravity={self.gravity!r} is for crop and pad"),
            (self.enlarge and not self.is_sized, "enlarge is for a width or height"),
            (self.lossless and self.format in ("jpeg", "avif"), f"{self.format} is never lossless; use webp or png"),
            (self.quality and self.format == "png", "a png has no quality; it keeps every pixel"),
            (self.quality and self.lossless, "lossless and quality are both given; one of them"),
        ):
            if is_idle:
                raise InvalidRequestError(f"{what}.")

    @property
    def is_sized(self) -> bool:
        """Whether it says anything about pixels."""
        return bool(self.width or self.height)

    @property
    def media_type(self) -> str:
        """IANA media type of its format."""
        return f"image/{self.format}"

    def check_size(self, width: int, height: int) -> None:
        """Refuses a size in pixels that its format cannot have, or that is more than we decode ourselves.

        Raises:
            InvalidRequestError: It says so, and what to do.
        """
        longest = _LONGEST_EDGES.get(self.format, _LONGEST_EDGE)
        if max(width, height) > longest:
            raise InvalidRequestError(
                f"Variant {self.name!r} would be {width}x{height} pixels, and an edge of a {self.format} has at most "
                f"{longest}; give a smaller size{', or another format' if self.format in _LONGEST_EDGES else ''}."
            )
        if width * height > MAX_PIXELS:
            raise InvalidRequestError(
                f"Variant {self.name!r} would be {width}x{height} = {width * height} pixels, more than {MAX_PIXELS}; "
                "give a smaller size."
            )

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """The variant that a text describes, see the class.

        Raises:
            InvalidRequestError: It describes none, or several.
        """
        first, *more = as_variants(text)
        if more:
            raise InvalidRequestError(f"{text!r:.80} describes {1 + len(more)} variants; as_variants reads several.")
        return first

    def __str__(self) -> str:
        words = (
            f"{self.mode} {self.width or ''}x{self.height or ''}" if self.is_sized else "",
            "" if self.gravity == "centre" else self.gravity,
            "enlarge" if self.enlarge else "",
            self.format,
            str(self.quality or ""),
            "lossless" if self.lossless else "",
            f"on {self.background.removeprefix('#')}" if self.background else "",
        )
        return f"{self.name}={' '.join(word for word in words if word)}"


Variants = Variant | str | Mapping[str, Any] | Sequence[Variant | str | Mapping[str, Any]]
"""One or several variants: values, texts, or mappings of `Variant`'s fields as JSON has them."""


def as_variants(given: object) -> tuple[Variant, ...]:
    """The variants that an argument describes, in order.

    A text may describe several, with a semicolon or a line break between them, or a set with a comma
    between sizes: `thumb=fit 256,512,1024` is `thumb-256`, `thumb-512` and `thumb-1024`.

    Args:
        given: Of the kinds of `Variants`.

    Raises:
        InvalidRequestError: There is none, more than 20, two of one name, or one that is not right.
    """
    several = cast("Sequence[object]", given) if isinstance(given, list | tuple) else (given,)
    found = tuple(variant for one in several for variant in _read(one))
    if not 1 <= len(found) <= MAX_VARIANTS:
        raise InvalidRequestError(f"{len(found)} variants are given; 1 to {MAX_VARIANTS} are made of an image.")
    names = [variant.name for variant in found]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InvalidRequestError(f"Two variants are called {twice!r}, and would have one key; rename one of them.")
    return found


def derived_key(key: str, variant: Variant) -> str:
    """The key beside an original's: `products/fox.png` and the variant `thumb` make `products/fox.thumb.webp`.

    Raises:
        InvalidRequestError: It would be longer than 1,024 bytes of UTF-8.
    """
    return check_key(f"{_EXTENSION.sub('', key)}.{variant.name}.{extension_of(variant.media_type)}")


# Of images alone, since a SKU may end in `.5`; and not the whole of a name.
_EXTENSION = re.compile(r"(?<=[^/])\.(png|jpe?g|webp|avif|gif|heic|heif|bmp|tiff?)\Z", re.IGNORECASE)


# ── reading text ─────────────────────────────────────────────────────────────

_GRAMMAR = "write it like 'thumb=crop 256x256 webp 80' or 'web=fit 1600 jpeg on white'"
_COLOURS = {"white": "#ffffff", "black": "#000000"}


def _hex(colour: str) -> str:
    digits = _COLOURS.get(colour.lower(), colour.lower()).removeprefix("#")
    if not re.fullmatch("[0-9a-f]{3}|[0-9a-f]{6}", digits):
        raise ValueError("write a colour as #rrggbb, #rgb, white or black")
    return "#" + (digits if len(digits) == 6 else "".join(digit * 2 for digit in digits))


def _read(given: object) -> Iterator[Variant]:
    if isinstance(given, Variant):
        yield given
    elif isinstance(given, str):
        for text in filter(None, map(str.strip, re.split("[;\n]", given))):
            yield from _set_in(text)
    elif isinstance(given, Mapping):
        yield Variant(**{str(field): value for field, value in cast("Mapping[Any, Any]", given).items()})
    else:
        raise InvalidRequestError(f"A variant is given as {type(given).__name__}; {_GRAMMAR}, or give a Variant(…).")


def _set_in(text: str) -> list[Variant]:
    """The variants of one description: one, or one for each of its sizes."""
    name, _, words = text.partition("=")
    try:
        fields = _fields(words.lower().split())
        sizes = fields.pop("sizes", {"": {}})
        return [
            Variant(name=f"{name.strip()}-{size}" if len(sizes) > 1 else name.strip(), **fields, **box)
            for size, box in sizes.items()
        ]
    except InvalidRequestError as exc:
        raise InvalidRequestError(f"variant {text!r:.80}: {exc}") from None


def _fields(words: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        for field, value in _meaning(word, rest).items():
            if field in fields:
                raise InvalidRequestError(f"{word!r:.40} gives its {field} once more; say it once.")
            fields[field] = value
    return fields


def _meaning(word: str, rest: Iterator[str]) -> dict[str, Any]:
    """The fields that a word gives, with the one after it where that belongs to it."""
    if word in get_args(Mode):
        return {"mode": word, "sizes": _sizes(next(rest, ""))}
    if word in get_args(Gravity):
        return {"gravity": word}
    if word in ("enlarge", "lossless"):
        return {word: True}
    if word in (*get_args(Format), "jpg"):
        return {"format": "jpeg" if word == "jpg" else word}
    if re.fullmatch("[0-9]{1,3}", word):
        return {"quality": int(word)}
    if word == "on":
        return {"background": next(rest, "")}
    raise InvalidRequestError(f"{word!r:.40} is no word of a variant; {_GRAMMAR}.")


def _sizes(word: str) -> dict[str, dict[str, int]]:
    return {size: _box(size) for size in word.split(",")}


def _box(size: str) -> dict[str, int]:
    found = re.fullmatch("([0-9]{1,6})|([0-9]{0,6})x([0-9]{0,6})", size)
    if not found or size == "x":
        raise InvalidRequestError(f"{size!r:.40} is no size; write 256x256, 256 for both, 1600x or x900, in pixels.")
    width, height = (found[1], found[1]) if found[1] else (found[2], found[3])
    return {name: int(edge) for name, edge in (("width", width), ("height", height)) if edge}
