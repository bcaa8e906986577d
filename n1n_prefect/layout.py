"""Where the pixels of a picture go in one of its variants."""

from typing import NamedTuple

from n1n_prefect.variants import Variant


class Layout(NamedTuple):
    """Which part of a picture goes where; all in pixels."""

    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the part that is taken."""

    size: tuple[int, int]
    """How large that part becomes."""

    canvas: tuple[int, int]
    """How large the result is."""

    at: tuple[int, int]
    """Where the part lies on it."""

    @property
    def scale(self) -> float:
        """Result's edge by the part's."""
        left, top, right, bottom = self.box
        return max(self.size[0] / (right - left), self.size[1] / (bottom - top))


def layout_of(variant: Variant, width: int, height: int) -> Layout:
    """The layout of a variant of a picture so many pixels wide and high, upright.

    Raises:
        InvalidRequestError: The result would be too large.
    """
    if variant.mode == "crop" and variant.width and variant.height:
        size = variant.width, variant.height
        return Layout(_cropped(variant, width, height), size, size, (0, 0))
    size = _fitted(variant, width, height)
    canvas = size
    if variant.mode == "pad" and variant.width and variant.height:
        canvas = variant.width, variant.height
    variant.check_size(*canvas)
    right, down = _weights(variant)
    at = round((canvas[0] - size[0]) * right), round((canvas[1] - size[1]) * down)
    return Layout((0, 0, width, height), size, canvas, at)


def _fitted(variant: Variant, width: int, height: int) -> tuple[int, int]:
    boxes = ((variant.width, width), (variant.height, height))
    scale = min((wanted / edge for wanted, edge in boxes if wanted), default=1.0)
    scale = scale if variant.enlarge else min(scale, 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _cropped(variant: Variant, width: int, height: int) -> tuple[float, float, float, float]:
    """The largest part of a picture that has the box's shape, at least a pixel wide and high."""
    shape = (variant.width or 1) / (variant.height or 1)
    part = max(1.0, min(width, height * shape)), max(1.0, min(height, width / shape))
    right, down = _weights(variant)
    left, top = (width - part[0]) * right, (height - part[1]) * down
    return left, top, left + part[0], top + part[1]


def _weights(variant: Variant) -> tuple[float, float]:
    """How far to the right and down, from 0 to 1."""
    words = variant.gravity.split("-")
    return (
        0.0 if "left" in words else 1.0 if "right" in words else 0.5,
        0.0 if "top" in words else 1.0 if "bottom" in words else 0.5,
    )
