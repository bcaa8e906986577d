"""A landscape for every prompt: sky, sun and hills in the colours of a seed, with a photograph's grain."""

import math
import random
from functools import cache, lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]
Size = tuple[int, int]

_CACHED_PIXELS = 2_500_000  # larger scenes are drawn anew: each takes three bytes a pixel
_SKETCH_EDGES = 360, 512  # least short and long side of what is drawn and then enlarged: smooth edges, and cheap
_GRAIN_EDGE = 1024
_GRAIN_SIGMA = 3.0

# Sky at the top, sky at the horizon, sun, farthest hill, nearest hill.
_PALETTES: tuple[tuple[Colour, Colour, Colour, Colour, Colour], ...] = (
    ((64, 120, 190), (250, 214, 165), (255, 244, 214), (150, 160, 190), (36, 58, 66)),
    ((44, 34, 84), (238, 120, 96), (255, 216, 150), (132, 78, 118), (30, 20, 46)),
    ((16, 24, 58), (74, 104, 160), (240, 240, 255), (56, 74, 118), (10, 16, 32)),
    ((120, 190, 220), (232, 244, 240), (255, 255, 240), (140, 190, 170), (30, 92, 74)),
    ((232, 150, 90), (254, 226, 170), (255, 250, 230), (206, 130, 96), (92, 46, 44)),
    ((150, 130, 200), (250, 205, 220), (255, 240, 240), (176, 150, 200), (70, 50, 100)),
    ((24, 90, 100), (150, 220, 200), (250, 255, 230), (80, 150, 150), (12, 50, 60)),
    ((86, 100, 124), (206, 212, 220), (246, 246, 250), (150, 160, 176), (50, 58, 72)),
)


def scene(seed: int, size: Size, *, grain: bool) -> "Image":
    """A fresh copy of the seed's landscape, in pixels (width, height); equal seeds give equal scenes."""
    if size[0] * size[1] > _CACHED_PIXELS:
        return _paint(seed, size, grain)
    return _cached(seed, size, grain).copy()


@lru_cache(maxsize=8)
def _cached(seed: int, size: Size, grain: bool) -> "Image":
    return _paint(seed, size, grain)


def _paint(seed: int, size: Size, grain: bool) -> "Image":
    from PIL import Image

    chance = random.Random(seed)
    shrink = min(1.0, max(_SKETCH_EDGES[0] / min(size), _SKETCH_EDGES[1] / max(size)))
    sketch_size = max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
    painted = _sketch(chance, sketch_size).resize(size, Image.Resampling.BILINEAR)
    return _grained(painted) if grain else painted


def _sketch(chance: random.Random, size: Size) -> "Image":
    from PIL import Image

    top, horizon, sun, far, near = chance.choice(_PALETTES)
    falling = Image.linear_gradient("L").resize(size)
    sketch = Image.composite(Image.new("RGB", size, horizon), Image.new("RGB", size, top), falling)
    _sun(sketch, chance, sun)
    layers = 5
    for layer in range(layers):
        _hill(sketch, chance, 0.45 + 0.11 * layer, _between(far, near, layer / (layers - 1)))
    return sketch


def _sun(sketch: "Image", chance: random.Random, colour: Colour) -> None:
    from PIL import ImageDraw

    width, height = sketch.size
    x, y = width * chance.uniform(0.15, 0.85), height * chance.uniform(0.15, 0.4)
    radius = min(width, height) * chance.uniform(0.06, 0.12)
    pen = ImageDraw.Draw(sketch, "RGBA")
    for glow, alpha in ((3.4, 18), (2.5, 26), (1.8, 36), (1.3, 60), (1.0, 255)):
        reach = radius * glow
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=(*colour, alpha))


def _hill(sketch: "Image", chance: random.Random, level: float, colour: Colour) -> None:
    from PIL import ImageDraw

    width, height = sketch.size
    waves = [(chance.uniform(0.6, 1.2) * 2**n, chance.uniform(0, 6.3), 0.05 / 1.7**n) for n in range(4)]
    ridge: list[tuple[float, float]] = []
    for x in range(0, width + 4, 4):
        turn = x / max(width, height) * 2 * math.pi
        rise = sum(high * math.sin(turn * often + shift) for often, shift, high in waves)
        ridge.append((x, height * (level + rise)))
    ImageDraw.Draw(sketch).polygon([(0, height), *ridge, (width + 4, height)], fill=colour)


def _between(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _grained(image: "Image") -> "Image":
    from PIL import Image, ImageChops

    tile = _grain()
    grain = Image.new("L", image.size)
    for x in range(0, image.width, _GRAIN_EDGE):
        for y in range(0, image.height, _GRAIN_EDGE):
            grain.paste(tile, (x, y))
    return ImageChops.add(image, Image.merge("RGB", (grain, grain, grain)), 1, -128)


@cache
def _grain() -> "Image":
    from PIL import Image

    normal = NormalDist(128, _GRAIN_SIGMA)
    table = bytes(round(normal.inv_cdf((value + 0.5) / 256)) for value in range(256))
    noise = random.Random(1).randbytes(_GRAIN_EDGE**2).translate(table)
    return Image.frombytes("L", (_GRAIN_EDGE, _GRAIN_EDGE), noise)
