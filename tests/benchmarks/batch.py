"""The batch beside a bare script on as many threads: CPU, throughput and memory; and memory over many images."""

import statistics
from collections.abc import Iterator

from tests.benchmarks.measuring import Line
from tests.benchmarks.pipeline import Place
from tests.benchmarks.variants import measured_at_once

AT_ONCE = (8, 64)
CPU_AT_MOST = 1.2  # times the bare script
SECONDS_AT_MOST = 1 / 0.9  # times the bare script's: nine tenths of its throughput

Run = dict[str, float]


# ── CPU and throughput ───────────────────────────────────────────────────────


def cpu_lines(where: Place, images: int, rounds: int) -> Iterator[Line]:
    """CPU an image, plan and tables included, and how long all of them take."""
    for number in (images, 4 * images):
        for at_once in AT_ONCE:
            yield from _compared(number, at_once, _in_turns(where, number, at_once, rounds))


def _in_turns(where: Place, images: int, at_once: int, rounds: int) -> dict[str, list[Run]]:
    taken: dict[str, list[Run]] = {"bare": [], "batch": []}
    for number in range(rounds):
        for variant in taken if number % 2 == 0 else reversed(taken):
            taken[variant].append(where.measure(measured_at_once, variant, at_once, images=images))
    return taken


def _compared(images: int, at_once: int, taken: dict[str, list[Run]]) -> Iterator[Line]:
    for figure, (what, unit, goal) in _FIGURES.items():
        ours, theirs = ([run[figure] for run in taken[variant]] for variant in ("batch", "bare"))
        ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
        medians = f"{statistics.median(ours):.1f} {unit} beside {statistics.median(theirs):.1f} {unit}"
        detail = f"{medians}; {' '.join(f'{ratio:.2f}' for ratio in ratios)}"
        yield Line(
            "batch", f"{what}, {at_once} in flight, {images} images", statistics.median(ratios), "x bare", goal, detail
        )


_FIGURES = {
    "cpu_ms": ("CPU an image", "ms", CPU_AT_MOST),
    "seconds": ("time of the run", "s", SECONDS_AT_MOST),
    "peak_mb": ("peak memory", "MB", None),
}
