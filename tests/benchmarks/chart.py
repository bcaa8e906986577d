"""A plot of how a batch grows, as SVG: images a second, CPU and database over the number of items."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from tests.benchmarks.scaling import Point

_COLORS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#aa3377",
    "#66ccee",
    "#ccbb44",
)  # Paul Tol's bright scheme, told apart by all
_WIDTH, _HEIGHT = 300, 240  # pixels of a panel
_LEFT, _TOP, _BETWEEN = 56, 44, 76
_TICKS = 4


def drawn(points: "Sequence[Point]") -> str:
    """The plot: a panel for each figure, a color for each way to run, dashes for PostgreSQL."""
    panels = [
        ("Images a second", lambda point: point.images_a_second),
        ("Client CPU, ms an image", lambda point: point.cpu_ms),
        ("Growth of the database, MB", lambda point: point.database_mb),
    ]
    ways = list(dict.fromkeys(point.where for point in points))
    colors = dict(zip(ways, _COLORS, strict=False))
    width = _LEFT + len(panels) * (_WIDTH + _BETWEEN)
    height = _TOP + _HEIGHT + 92
    body = [
        line
        for number, (title, value) in enumerate(panels)
        for line in _panel(points, title, value, colors, _LEFT + number * (_WIDTH + _BETWEEN))
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join([*body, *_legend(points, colors, height - 22)])
        + "\n</svg>\n"
    )


def _panel(
    points: "Sequence[Point]", title: str, value: "Callable[[Point], float]", colors: dict[str, str], left: int
) -> Iterator[str]:
    items = sorted({point.items for point in points})
    top = _rounded_up(max(map(value, points)))
    bottom_y = _TOP + _HEIGHT

    def x(number: int) -> float:
        first, last = math.log(items[0]), math.log(items[-1])
        return left + (_WIDTH / 2 if first == last else (math.log(number) - first) / (last - first) * _WIDTH)

    def y(amount: float) -> float:
        return bottom_y - max(amount, 0) / top * _HEIGHT

    yield f'<text x="{left}" y="{_TOP - 18}" font-size="14" font-weight="bold">{title}</text>'
    for tick in range(_TICKS + 1):
        at = y(top * tick / _TICKS)
        yield f'<path d="M{left} {at:.1f}h{_WIDTH}" stroke="{"#888" if tick == 0 else "#ddd"}"/>'
        yield f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{top * tick / _TICKS:g}</text>'
    for number in items:
        yield f'<text x="{x(number):.1f}" y="{bottom_y + 18}" text-anchor="middle">{number:,}</text>'
    yield f'<text x="{left + _WIDTH / 2:.0f}" y="{bottom_y + 36}" text-anchor="middle">items</text>'
    for kind, way in dict.fromkeys((point.database, point.where) for point in points):
        own = [point for point in points if (point.database, point.where) == (kind, way)]
        places = [(x(point.items), y(value(point))) for point in sorted(own, key=lambda point: point.items)]
        yield _line(places, colors[way], kind)


def _line(places: list[tuple[float, float]], color: str, kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{_dashes(kind)}/>{marks}'


def _legend(points: "Sequence[Point]", colors: dict[str, str], y: int) -> Iterator[str]:
    kinds = list(dict.fromkeys(point.database for point in points))
    entries = [(way, color, "") for way, color in colors.items()] + [(kind, "#222", _dashes(kind)) for kind in kinds]
    for number, (words, color, dashes) in enumerate(entries):
        x = _LEFT + number * 150
        yield f'<path d="M{x} {y - 4}h28" stroke="{color}" stroke-width="2"{dashes}/>'
        yield f'<text x="{x + 36}" y="{y}">{escape(words)}</text>'


def _dashes(kind: str) -> str:
    return "" if kind == "SQLite" else ' stroke-dasharray="6 4"'


def _rounded_up(amount: float) -> float:
    """The least of 1, 2, 4, 5, 8 or 10 times a power of ten that is not less."""
    amount = max(amount, 0.01)
    power = 10 ** math.floor(math.log10(amount))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= amount * 0.9999)
